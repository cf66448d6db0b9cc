"""The pictures' autoencoder: a whitened PCA of 8 x 8 patches to 16 channels, and small convolutions
that correct it on both sides.

    vae = Autoencoder(path)
    latents = vae.encode(images)  # (B, 3, 128, 128) in [0, 1] -> (B, 16, 16, 16)
    images = vae.decode(latents)
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

PATCH, CHANNELS = 8, 16
HALF = 4  # pixels of a cell of the finer of the two grids
FINE, COARSE, DEEP = 48, 96, 96  # channels at 4 pixels, and at 8 in the encoder and the decoder
FORMAT = "async-timestep-pictures-vae"


class Block(nn.Module):
    """x + conv(silu(conv(silu(x)))); the identity at first."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class AutoencoderNetwork(nn.Module):
    """`encode` and `decode` of images in [-1, 1] and of latents that are not normalised; `shift`
    and `scale` normalise them."""

    def __init__(self):
        super().__init__()
        self.pca = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.down = nn.Sequential(
            nn.PixelUnshuffle(HALF),
            nn.Conv2d(3 * HALF**2, FINE, 3, padding=1),
            Block(FINE),
            nn.Conv2d(FINE, COARSE, 4, 2, 1),
            Block(COARSE),
            nn.SiLU(),
            nn.Conv2d(COARSE, CHANNELS, 1),
        )
        self.inverse = nn.ConvTranspose2d(CHANNELS, 3, PATCH, PATCH)
        self.up = nn.Sequential(
            nn.Conv2d(CHANNELS, DEEP, 3, padding=1),
            Block(DEEP),
            Block(DEEP),
            nn.Conv2d(DEEP, 4 * FINE, 3, padding=1),
            nn.PixelShuffle(2),
            Block(FINE),
            Block(FINE),
            nn.SiLU(),
            nn.Conv2d(FINE, 3 * HALF**2, 3, padding=1),
            nn.PixelShuffle(HALF),
        )
        for last in (self.down[-1], self.up[-2]):  # the PCA alone at first
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.register_buffer("shift", torch.zeros(CHANNELS))
        self.register_buffer("scale", torch.ones(1))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.pca(x) + self.down(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.inverse(z) + self.up(z)

    def forward(self, x: torch.Tensor, noise: torch.Tensor, share: float) -> torch.Tensor:
        """Reconstruction of x from latents with noise of `share` of their own standard deviation:
        what a sampler leaves in them must not show."""
        z = self.encode(x)
        return self.decode(z + share * z.detach().std() * noise)


@torch.no_grad()
def start_from_pca(network: AutoencoderNetwork, images: torch.Tensor) -> float:
    """Fits the linear part to images (n, 3, H, W) in [0, 1]; channels are scaled by the square root
    of their standard deviation. Returns the share of variance that it explains."""
    patches = (
        F.unfold(images * 2 - 1, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2)
    )
    mean, covariance = patches.mean(0), torch.cov(patches.T.double())
    values, vectors = torch.linalg.eigh(covariance)
    values, basis = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS].float()
    scale = values.float().sqrt().sqrt()
    scale = scale * (values.float() / scale**2).mean().sqrt()
    shape = (CHANNELS, 3, PATCH, PATCH)
    network.pca.weight.copy_((basis / scale).T.reshape(shape))
    network.pca.bias.copy_(-mean @ (basis / scale))
    network.inverse.weight.copy_((basis * scale).T.reshape(shape))
    network.inverse.bias.copy_(mean.view(3, -1).mean(1))
    return float(values.sum() / covariance.trace())


class Autoencoder:
    """A trained one, frozen, float32; latents have mean 0 a channel and unit variance over all.
    Raises ValueError on another file."""

    def __init__(self, path: Path):
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format")
        if found != FORMAT:
            raise ValueError(f"{path} has the format {found!r}, expected {FORMAT!r}.")
        self.network = AutoencoderNetwork()
        self.network.load_state_dict(load_file(path))
        self.network.to(memory_format=torch.channels_last)
        self.network.requires_grad_(False).train(False)
        self.shift, self.scale = self.network.shift[:, None, None], self.network.scale

    def encode(self, images: torch.Tensor, bf16: bool = False) -> torch.Tensor:
        """bf16: at less than half the time, .004 from float32 where the latents' deviation is 1."""
        x = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            z = self.network.encode(x)
        return ((z.float() - self.shift) / self.scale).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        z = latents * self.scale + self.shift
        x = self.network.decode(z.contiguous(memory_format=torch.channels_last))
        return ((x + 1) / 2).clamp(0, 1).contiguous()
