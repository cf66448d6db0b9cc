"""The pictures' autoencoder: a whitened PCA of 8 x 8 patches to 16 channels, and small convolutions
that correct it on both sides (embedded/autoencoder.py).

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

from ...embedded.autoencoder import CHANNELS, PATCH, AutoencoderNetwork

FORMAT = "async-timestep-pictures-vae"


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
