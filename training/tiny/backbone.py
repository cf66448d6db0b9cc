"""The embedded text-to-image model: a tiny SD3.5-type rectified flow that ComfyUI's own UNET
loader reads. Guidance, deviation and solvers come with training/backbones/tiny.py.

    from async_timestep.training.tiny.backbone import TinyBackbone, simple_sigmas

    model, sigmas = TinyBackbone(), simple_sigmas(4)
    tokens, pooled = model.text(["a red circle above a blue star on a dark rough background"])
    x = model.noise([0])
    for t, following in zip(sigmas[:-1], sigmas[1:]):  # guidance 1, synchronous
        v = model.network(
            x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=1000 * t.view(1),
            return_dict=False,
        )[0]
        x = x + (following - t) * v
    images = model.vae.decode(x)
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from safetensors.torch import load_file

from .text import POOLED, WIDTH, TextTable
from .vae import CHANNELS, PATCH, LinearVAE

WEIGHTS = Path(__file__).parent / "weights"
FILES = ("transformer.safetensors", "text.safetensors", "vae.safetensors")
LAYERS, HEAD = 3, 64  # ComfyUI needs layers == heads == hidden / 64
SHIFT = 3.0  # flow time shift t' = s t / (1 + (s - 1) t), the default of SD3 in ComfyUI


def new_transformer(layers: int = LAYERS) -> SD3Transformer2DModel:
    """The untrained network, in diffusers layout (3.8 M parameters with three layers)."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=layers,
        num_attention_heads=layers,
        attention_head_dim=HEAD,
        joint_attention_dim=WIDTH,
        caption_projection_dim=HEAD * layers,
        pooled_projection_dim=POOLED,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def shifted(t: torch.Tensor) -> torch.Tensor:
    """Flow time after the shift of SD3 (diffusers and ComfyUI agree): t in [0, 1] -> t in [0,
    1].
    """
    return SHIFT * t / (1 + (SHIFT - 1) * t)


def simple_sigmas(steps: int) -> torch.Tensor:
    """The grid of ComfyUI's `simple` scheduler for SD3 shift 3: (steps + 1,) from 1 to 0."""
    table = shifted(torch.arange(1, 1001) / 1000)
    nodes = [float(table[-(1 + int(i * 1000 / steps))]) for i in range(steps)]
    return torch.tensor([*nodes, 0.0])


def noises(seeds: list[int], size: int = 64) -> torch.Tensor:
    """Initial latents (B, 16, size/4, size/4), one generator per seed: the batch does not change
    an image.
    """
    cells = size // PATCH
    return torch.stack(
        [
            torch.randn(CHANNELS, cells, cells, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


class TinyBackbone:
    """Frozen network, text table and autoencoder. float32 on one device."""

    def __init__(self, weights: Path = WEIGHTS):
        state = {k: v.float() for k, v in load_file(weights / "transformer.safetensors").items()}
        self.network = new_transformer(len(state["pos_embed.proj.bias"]) // HEAD)
        self.network.load_state_dict(state)
        self.network.requires_grad_(False).train(False)
        self.text, self.vae = (
            TextTable(weights / "text.safetensors"),
            LinearVAE(weights / "vae.safetensors"),
        )

    def noise(self, seeds: list[int], size: int = 64) -> torch.Tensor:
        """`noises` of these seeds."""
        return noises(seeds, size)
