"""ComfyUI side of Async Timestep: the only folder that imports comfy."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .asyndm import AsynDMKSampler, AsynDMSampler
from .demo import AsyncTimestepDemoLoader
from .deviation import (
    AsyncTimestepDeviation,
    AsyncTimestepDeviationScale,
    AsyncTimestepTPMLoader,
    AsyncTimestepVelocityScale,
)
from .eye import AsyncTimestepChoose, AsyncTimestepTry
from .eye_routes import register as register_eye_routes
from .model_patch import AsyncTimestepModel
from .plot import AsyncTimestepNoiseMeter, AsyncTimestepPlot
from .region_mask import AsynDMRegionMask
from .routes import register_routes
from .sampler import AsyncTimestepKSampler, AsyncTimestepKSamplerAdvanced

NODES: list[type[io.ComfyNode]] = [
    AsyncTimestepModel,
    AsyncTimestepKSampler,
    AsyncTimestepKSamplerAdvanced,
    AsyncTimestepTPMLoader,
    AsyncTimestepDeviation,
    AsyncTimestepDeviationScale,
    AsyncTimestepVelocityScale,
    AsyncTimestepPlot,
    AsynDMRegionMask,
    AsynDMSampler,
    AsynDMKSampler,
    AsyncTimestepNoiseMeter,
    AsyncTimestepDemoLoader,
    AsyncTimestepTry,
    AsyncTimestepChoose,
]


class AsyncTimestepExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        register_tpm_folder()  # not in on_load: ComfyUI 0.3.75 never calls it
        register_routes()
        register_eye_routes()
        return NODES


def register_tpm_folder() -> None:
    """models/tpm, and the TPMs of the embedded model, so that the examples run as they come."""
    pack = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (folder_paths.models_dir, os.path.join(pack, "training", "tiny")):
        folder_paths.add_model_folder_path("tpm", os.path.join(folder, "tpm"))
    folder_paths.folder_names_and_paths["tpm"][1].add(".safetensors")
