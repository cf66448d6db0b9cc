"""The second embedded model: a small UNet with cross-attention on the plan of Stable Diffusion 1.5,
which predicts eps. Scenes, captions, word table and autoencoder are those of the first
(backbone.py).

x = (x0 + sigma noise) / sqrt(1 + sigma^2), sigma one of SIGMAS; the network gets x and the index of
sigma, and predicts the noise.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from .text import WIDTH
from .vae import CHANNELS

BLOCKS, HEAD = (64, 128), 32  # channels of the two levels; of an attention head
TIMES = 1000  # of Stable Diffusion's table


def sd_sigmas() -> torch.Tensor:
    """(1000,) sqrt((1 - a) / a) of Stable Diffusion's scaled-linear betas, .029 to 14.6."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return ((1 - kept) / kept).sqrt().float()


SIGMAS = sd_sigmas()


def new_unet() -> UNet2DConditionModel:
    """The untrained network, in diffusers layout (3.9 M parameters). Attention and text only on
    the lower of two levels, 8 x 8 cells: the upper one would cost most of the time."""
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=1,
        block_out_channels=BLOCKS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(width // HEAD for width in BLOCKS),  # the number of heads
        use_linear_projection=False,
    )
    # a CPU's fused attention is slow backward at 64 cells and 12 words
    network.set_attn_processor(AttnProcessor())
    return network


def nearest_time(sigma: torch.Tensor) -> torch.Tensor:
    """Index (n,) of the sigma of the table that is nearest in its logarithm."""
    logs = SIGMAS.log()
    return torch.bucketize(sigma.log(), (logs[1:] + logs[:-1]) / 2)
