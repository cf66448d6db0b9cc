"""The frozen diffusion models behind one small interface.

A backbone knows prompts, noise, the sigma grid, pixels, and how to sample while a policy decides
what its network is told. No other file knows which model it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ...report.trace import Run
from ...tpm.policies import Policy
from ..run.config import BackboneConfig
from ..run.phase import phase

BACKBONES = {  # backbone.name -> module and class
    "tiny": ("tiny", "TinyFlow"),
    "sd35_medium": ("sd35", "SD35"),
    "flux1_dev": ("flux", "Flux"),
    "workflow": ("comfy.entry", "load_workflow"),  # a room of its own, which needs ComfyUI
}


class Conditioning(Protocol):
    """Encoded prompts, one row each; what the network reads of them is the backbone's own affair.
    pooled: (B, P), which the TPM reads, or None where the model has no pooled text."""

    prompts: tuple[str, ...]
    pooled: Tensor | None

    def __len__(self) -> int: ...

    def rows(self, index: list[int]) -> Conditioning:
        """The given rows, in the given order; a row may be taken more than once."""


class Backbone(Protocol):
    """What the trainer asks of a model. Times are flow times in [0, 1], 1 is noise; latents are
    (B, C, h, w) float32 in the model's scaled space, as inside ComfyUI's sampler."""

    family: str  # model_family of a TPM file
    base_model: str
    license: str
    guidance: float
    resolution: int
    latent_channels: int
    latent_size: tuple[int, int]
    pooled_dim: int
    pooled_split: tuple[int, ...]
    device: torch.device
    latent_format: str  # ComfyUI's name of it; empty of a model that is not ComfyUI's
    weights_sha256: str  # of a few weights, as the nodes compute it; else empty
    frames: int  # of a latent; a policy reads one
    weights: Mapping[tuple[str, str], list[Path]]  # node and input of a workflow -> its files

    def encode(self, prompts: list[str]) -> Conditioning:
        """Encodes prompts. Raises ValueError on one that the model cannot read."""

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Initial latents, one CPU generator per image, so that no batch or rank changes one."""

    def sigmas(self, steps: int) -> Tensor:
        """The family's own grid (steps + 1,), float32 on the CPU, from 1 to 0."""

    def times(self, steps: int) -> tuple[float, ...]:
        """The flow times of that grid, over which a schedule is drawn: the shares of noise."""

    def parts(self, conditioning: Conditioning) -> list[list[int]]:
        """The rows that `sample` takes together: a policy is asked about those of one part at a
        time. One part, unless the model cannot hold such rows in one batch."""

    def sample(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        sigmas: Tensor,
        policy: Policy | None = None,
        solver: str = "euler",
        record: Run | None = None,
    ) -> Tensor:
        """Latents (B, C, h, w) at sigmas[-1], from `noise` at sigmas[0].

        sigmas: (K + 1,) falling, flow times. policy: None is synchronous; a `terminal` one is also
        asked for grid point K, where no evaluation follows. solver: one of SOLVERS. record: gets
        an entry per evaluation, in flow time. What comes back is for `decode`.
        """

    def group(self, prompt: str) -> str | None:
        """The group of a prompt that matters for this model, None where it has none of its own."""

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1] on the backbone's device."""


def load_backbone(
    config: BackboneConfig, device: torch.device, offload_text: bool = False
) -> Backbone:
    """The backbone that a config names, frozen. Raises ValueError or OSError of one sentence."""
    phase(f"loading the model {config.name}")
    module, name = BACKBONES[config.name]  # diffusers is imported only where it is needed
    backbone = getattr(import_module(f".{module}", __package__), name)
    return backbone(config, device, offload_text)
