"""ComfyUI side of Async Timestep: the only folder that imports comfy."""

from __future__ import annotations

import os

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .asyndm_nodes import AsynDMKSampler, AsynDMSampler
from .demo import AsyncTimestepDemoLoader
from .deviation import (
    AsyncTimestepDeviation,
    AsyncTimestepDeviationScale,
    AsyncTimestepTPMLoader,
    AsyncTimestepVelocityScale,
)
from .model_patch import AsyncTimestepModel
from .plot import AsyncTimestepNoiseMeter, AsyncTimestepPlot
from .region import AsynDMRegionMask
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
]


class AsyncTimestepExtension(ComfyExtension):
    async def on_load(self) -> None:
        folder_paths.add_model_folder_path("tpm", os.path.join(folder_paths.models_dir, "tpm"))
        # the TPMs of the embedded model, so that the examples run as they come
        pack = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        folder_paths.add_model_folder_path("tpm", os.path.join(pack, "training", "tiny", "tpm"))
        folder_paths.folder_names_and_paths["tpm"][1].add(".safetensors")

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
