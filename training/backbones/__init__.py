"""The frozen diffusion models behind one small interface.

A backbone knows prompts, noise, the sigma grid, the velocity at a told time, and pixels. It does
not know the policy, and no other file knows which model it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..run.config import BackboneConfig
from ..run.phase import phase


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts, one row each. tokens: (B, L, W) for the network; pooled: (B, P), which the
    TPM reads too."""

    prompts: tuple[str, ...]
    tokens: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: list[int]) -> Conditioning:
        """The given rows, in the given order; a row may be taken more than once."""
        at = torch.tensor(index, device=self.tokens.device)
        prompts = tuple(self.prompts[i] for i in index)
        return replace(self, prompts=prompts, tokens=self.tokens[at], pooled=self.pooled[at])


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

    def encode(self, prompts: list[str]) -> Conditioning:
        """Encodes prompts. Raises ValueError on one that the model cannot read."""

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """Initial latents, one CPU generator an image, so that no batch or rank changes one."""

    def sigmas(self, steps: int) -> Tensor:
        """The family's own grid (steps + 1,), float32 on the CPU, from 1 to 0."""

    def velocity(self, x: Tensor, t_star: Tensor, conditioning: Conditioning) -> Tensor:
        """v*_k (B, C, h, w) float32 at the told times t_star (B,): with CFG the guided one
        (Algorithm 2, lines 4-6), both halves as one batch."""

    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1] on the backbone's device."""


def load_backbone(
    config: BackboneConfig, device: torch.device, offload_text: bool = False
) -> Backbone:
    """The backbone that a config names, frozen. Raises ValueError or OSError of one sentence."""
    phase(f"loading the model {config.name}")
    if config.name == "tiny":
        from .tiny import TinyFlow

        return TinyFlow(config, device)
    if config.name == "sd35_medium":
        from .sd35 import SD35

        return SD35(config, device, offload_text)
    from .flux import Flux

    return Flux(config, device, offload_text)
