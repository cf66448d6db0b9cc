"""The second embedded model: a small UNet with cross-attention on the plan of Stable Diffusion 1.5.
Scenes, captions, word table and autoencoder are those of the first (backbone.py).

x = (x0 + sigma noise) / sqrt(1 + sigma^2), sigma one of a table of 1000; the network gets x and the
index of sigma. There are two sets of weights. `eps`, on Stable Diffusion's own table, predicts the
noise. `v` predicts v = (noise - sigma x0) / sqrt(1 + sigma^2), as Stable Diffusion 2 does, on that
table rescaled to a zero terminal SNR: at its last index nothing is left of x0.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file

from .backbone import WEIGHTS
from .text import WIDTH, TextTable
from .vae import CHANNELS, LinearVAE

BLOCKS, HEAD = (64, 128), 32  # channels of the two levels; of an attention head
GROUPS = 1  # of each GroupNorm; with SD's 32 it would divide by the spread of 2 x 16 x 16 numbers,
# 4 % off by chance, and so would what the network says of the noise
TIMES = 1000  # of Stable Diffusion's table
LAST_KEPT = 4.8973451890853435e-08  # alpha bar at the end of a rescaled table, in ComfyUI


def sd_sigmas() -> torch.Tensor:
    """(1000,) float64: sqrt((1 - a) / a) of Stable Diffusion's linear sqrt(beta), .029 to 14.6."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return ((1 - kept) / kept).sqrt()


def zero_terminal(sigmas: torch.Tensor) -> torch.Tensor:
    """A table rescaled by Algorithm 1 of Lin et al. 2024 (arXiv 2305.08891), .029 to 4519: sqrt of
    alpha bar is shifted to end at 0 and scaled to begin as before. At 0 sigma would be infinite, so
    it ends at LAST_KEPT, as ComfyUI's does."""
    root = (1 / (sigmas**2 + 1)).sqrt()
    kept = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    kept[-1] = LAST_KEPT
    return ((1 - kept) / kept).sqrt()


FILES = {"eps": "unet", "v": "unet_v"}  # prediction -> name of its weights
TABLES = {"eps": sd_sigmas().float(), "v": zero_terminal(sd_sigmas()).float()}


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
        norm_num_groups=GROUPS,
    )
    # a CPU's fused attention is slow backward at 64 cells and 12 words
    network.set_attn_processor(AttnProcessor())
    return network


def nearest_time(sigma: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Index (n,) of the sigma of the table that is nearest in its logarithm."""
    logs = table.log()
    return torch.bucketize(sigma.log(), (logs[1:] + logs[:-1]) / 2)


def simple_sigmas(steps: int, table: torch.Tensor) -> torch.Tensor:
    """The grid of ComfyUI's `simple` scheduler: (steps + 1,) from the table's largest to 0."""
    nodes = [float(table[-(1 + int(i * TIMES / steps))]) for i in range(steps)]
    return torch.tensor([*nodes, 0.0])


class TinyUNet:
    """Frozen network, word table and autoencoder. float32 on the CPU. The file is that of
    `prediction` in the folder `weights`; word table and autoencoder are always the embedded ones.
    """

    def __init__(self, weights: Path = WEIGHTS, prediction: str = "eps"):
        self.prediction, self.table = prediction, TABLES[prediction]
        state = load_file(weights / f"{FILES[prediction]}.safetensors")
        self.network = new_unet()
        self.network.load_state_dict({name: value.float() for name, value in state.items()})
        self.network.requires_grad_(False).train(False)
        self.text = TextTable(WEIGHTS / "text.safetensors")
        self.vae = LinearVAE(WEIGHTS / "vae.safetensors")

    def denoised(self, x: torch.Tensor, sigma: float, captions: list[str]) -> torch.Tensor:
        """What the network takes for the image in x = x0 + sigma noise, (B, 16, h, w)."""
        index = nearest_time(torch.full((len(x),), sigma), self.table)
        tokens, root = self.text(captions)[0], (1 + sigma**2) ** 0.5
        said = self.network(x / root, index, encoder_hidden_states=tokens, return_dict=False)[0]
        if self.prediction == "v":
            return x / root**2 - sigma / root * said
        return x - sigma * said

    def sample(
        self, captions: list[str], noise: torch.Tensor, sigmas: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """Euler (DDIM without noise) from `noise`, with classifier-free guidance."""
        x, nodes = noise * (1 + float(sigmas[0]) ** 2) ** 0.5, sigmas.tolist()
        for sigma, following in zip(nodes[:-1], nodes[1:], strict=True):
            both = self.denoised(torch.cat([x, x]), sigma, [*captions, *[""] * len(x)])
            cond, empty = both.chunk(2)
            clean = empty + guidance * (cond - empty)
            x = clean + following / sigma * (x - clean)
        return x
