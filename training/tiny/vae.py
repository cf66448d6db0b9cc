"""The embedded model's autoencoder: a linear map between 4x4 pixel patches and 16 latent
channels (whitened PCA).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

PATCH, CHANNELS = 4, 16


def fit_vae(images: torch.Tensor, path: Path) -> float:
    """Fits the map on images (n, 3, H, W) in [0, 1], writes it, and returns the share of
    variance it explains.

    Channels are scaled by the square root of their standard deviation (between plain PCA and
    full whitening), then all by one factor so that the latent has unit variance: the flow's
    noise N(0, 1) matches it.
    """
    patches = (
        torch.nn.functional.unfold(images * 2 - 1, PATCH, stride=PATCH)
        .transpose(1, 2)
        .reshape(-1, 3 * PATCH**2)
    )
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
    values, vectors = values.flip(0)[:CHANNELS].float(), vectors.flip(1)[:, :CHANNELS].float()
    scale = values.sqrt().sqrt()
    scale = scale * (values / scale**2).mean().sqrt()
    save_file(
        {"mean": mean, "basis": vectors.contiguous(), "scale": scale},
        path,
        metadata={"format": "async-timestep-tiny-vae"},
    )
    return float(values.sum() / torch.cov(patches.T).trace())


class LinearVAE:
    """`encode`: images (B, 3, H, W) in [0, 1] -> latents (B, 16, H/4, W/4); `decode`: the
    pseudo-inverse.
    """

    def __init__(self, path: Path):
        tensors = load_file(path)
        self.mean, self.basis, self.scale = tensors["mean"], tensors["basis"], tensors["scale"]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        kernel = (self.basis / self.scale).T.reshape(CHANNELS, 3, PATCH, PATCH)
        bias = -self.mean @ (self.basis / self.scale)
        return torch.nn.functional.conv2d(images * 2 - 1, kernel, bias, stride=PATCH)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        kernel = (self.basis * self.scale).T.reshape(CHANNELS, 3, PATCH, PATCH)
        images = torch.nn.functional.conv_transpose2d(latents, kernel, stride=PATCH)
        tile = self.mean.view(1, 3, PATCH, PATCH).repeat(1, 1, latents.shape[2], latents.shape[3])
        return ((images + tile + 1) / 2).clamp(0, 1)
