"""The autoencoder's network of the embedded pictures, which the Demo Model Loader and the trainer
share: a linear map of 8 x 8 patches to 16 channels, and small convolutions that correct it on both
sides. training/pictures/autoencoder.py starts, trains and uses it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

PATCH, CHANNELS = 8, 16
HALF = 4  # pixels of a cell of the finer of the two grids
FINE, COARSE, DEEP = 48, 96, 96  # channels at 4 pixels, and at 8 in the encoder and the decoder


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
