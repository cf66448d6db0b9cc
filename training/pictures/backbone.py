"""The text-to-image model of the pictures: the embedded model's kind of flow transformer, over the
latents of a convolutional autoencoder.

    model = Pictures.load(folder)
    images = model.sample(["a cat left of an apple on grass"], noises([0]), steps=10)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..tiny.backbone import HEAD, new_transformer, noises, simple_sigmas
from ..tiny.text import TextTable
from .autoencoder import Autoencoder

FILES = ("transformer.safetensors", "text.safetensors", "vae.safetensors")
__all__ = ["FILES", "Pictures", "noises"]


@dataclass
class Pictures:
    """Frozen network, text table and autoencoder. float32 on the CPU."""

    network: torch.nn.Module
    text: TextTable
    vae: Autoencoder

    @classmethod
    def load(cls, folder: Path) -> Pictures:
        """The model of a folder with the three FILES."""
        state = {k: v.float() for k, v in load_file(folder / FILES[0]).items()}
        network = new_transformer(len(state["pos_embed.proj.bias"]) // HEAD)
        network.load_state_dict(state)
        network.requires_grad_(False).train(False)
        return cls(network, TextTable(folder / FILES[1]), Autoencoder(folder / FILES[2]))

    @torch.no_grad()
    def sample(
        self,
        captions: list[str],
        noise: torch.Tensor,
        steps: int = 10,
        guidance: float = 3.0,
        bf16: bool = False,
    ) -> torch.Tensor:
        """Images (B, 3, 128, 128) in [0, 1] from noise (B, 16, 16, 16), by Euler steps on the grid
        of ComfyUI's `simple` scheduler, with classifier-free guidance."""
        tokens, pooled = self.text([*captions, *[""] * len(captions)])
        x, sigmas = noise, simple_sigmas(steps)
        for t, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                v = self.network(
                    torch.cat([x, x]),
                    encoder_hidden_states=tokens,
                    pooled_projections=pooled,
                    timestep=1000 * t.expand(2 * len(x)),
                    return_dict=False,
                )[0]
            given, empty = v.float().chunk(2)
            x = x + (following - t) * (empty + guidance * (given - empty))
        return self.vae.decode(x)
