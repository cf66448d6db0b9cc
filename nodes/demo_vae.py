"""The embedded models' autoencoders behind ComfyUI's own VAE class."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import comfy.latent_formats
import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD

from ..embedded.autoencoder import CHANNELS, PATCH, AutoencoderNetwork


def vae_of(module: torch.nn.Module) -> comfy.sd.VAE:
    """The host's VAE class around a module; it knows files by their layout, so it first gets a
    layout of 16 channels that it knows."""
    vae = comfy.sd.VAE(sd=TAESD(latent_channels=CHANNELS).state_dict(), dtype=torch.float32)
    vae.first_stage_model = module.to(vae.vae_dtype)
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    vae.process_input = lambda image: image * 2.0 - 1.0
    offload = vae.patcher.offload_device
    vae.patcher = ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=offload
    )
    return vae


def require_latent(latent: torch.Tensor) -> None:
    if latent.ndim != 4 or latent.shape[1] != CHANNELS:
        raise ValueError(
            f"The embedded demo model's VAE found a latent of shape {list(latent.shape)}, "
            f"expected (batch, {CHANNELS}, height, width); decode it with the VAE of the model "
            "that made it."
        )


def require_image(image: torch.Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < PATCH:
        raise ValueError(
            f"The embedded demo model's VAE found an image of shape {list(image.shape)} once it "
            f"was cut to whole cells of {PATCH} pixels, expected (batch, 3, height, width) of "
            f"{PATCH} pixels or more a side; give it a larger RGB image."
        )


class TinyAutoencoder(torch.nn.Module):
    """That of the shapes, a linear map: latent (B, 16, h, w) in SD3's file scale <-> image
    (B, 3, 8h, 8w) in [-1, 1]. Both raise ValueError on other shapes.

    The model's own pixels are half as many; the image is enlarged twice so that one latent cell is
    eight pixels, as users of SD3 latents expect.
    """

    def __init__(self, path: Path):
        super().__init__()
        for name, tensor in load_file(path).items():
            self.register_buffer(name, tensor)
        self.scale_shift = comfy.latent_formats.SD3()
        self.patch = 4

    def kernel(self, factor: torch.Tensor) -> torch.Tensor:
        return (self.basis * factor).T.reshape(-1, 3, self.patch, self.patch)

    def decode(self, latent: torch.Tensor, **kwargs) -> torch.Tensor:
        require_latent(latent)
        x = self.scale_shift.process_in(latent)
        image = torch.nn.functional.conv_transpose2d(x, self.kernel(self.scale), stride=self.patch)
        image = image + self.mean.view(1, 3, self.patch, self.patch).repeat(1, 1, *x.shape[2:])
        return torch.nn.functional.interpolate(image.clamp(-1, 1), scale_factor=2, mode="bicubic")

    def encode(self, image: torch.Tensor, **kwargs) -> torch.Tensor:
        require_image(image)
        small = torch.nn.functional.avg_pool2d(image, 2)
        bias = -self.mean @ (self.basis / self.scale)
        x = torch.nn.functional.conv2d(small, self.kernel(1 / self.scale), bias, stride=self.patch)
        return self.scale_shift.process_out(x)


class PicturesAutoencoder(torch.nn.Module):
    """That of the pictures, small convolutions; the same shapes, scale and errors."""

    def __init__(self, path: Path):
        super().__init__()
        self.network = AutoencoderNetwork()
        self.network.load_state_dict(load_file(path))
        self.network.requires_grad_(False).train(False)
        self.scale_shift = comfy.latent_formats.SD3()

    def decode(self, latent: torch.Tensor, **kwargs) -> torch.Tensor:
        require_latent(latent)
        network, x = self.network, self.scale_shift.process_in(latent)
        return network.decode(x * network.scale + network.shift[:, None, None]).clamp(-1, 1)

    def encode(self, image: torch.Tensor, **kwargs) -> torch.Tensor:
        require_image(image)
        network, z = self.network, self.network.encode(image)
        return self.scale_shift.process_out((z - network.shift[:, None, None]) / network.scale)
