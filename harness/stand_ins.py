"""Tiny files in the place of the large models' files, as ComfyUI's own loaders accept them.

Random weights: what they draw is noise, but every loader, wire, time and shape is the real one.
CLIP-L has its full size, because ComfyUI writes its width and depth itself, and is kept in eight
bits. There is none for T5-XXL: its 4.7 billion weights cannot be made fewer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

import comfy.ops
import comfy.sd1_clip
from comfy.taesd.taesd import TAESD

from .tiny_families import FAMILIES, new_model, random_weights
from .tiny_models import scrambled

CLIP_WIDTH = 768  # CLIP-L's, in the place of T5's 4096


def network_of(family: str, **unet) -> dict[str, torch.Tensor]:
    """Random weights of a tiny family with other widths, in ComfyUI's own layout."""
    tiny = FAMILIES[family]
    module = new_model(replace(tiny, unet={**tiny.unet, **unet})).diffusion_model
    return {name: tensor.half() for name, tensor in random_weights(module, seed=7).items()}


def clip_l() -> dict[str, torch.Tensor]:
    encoder = comfy.sd1_clip.SDClipModel(dtype=torch.float32).transformer
    state = scrambled(encoder, seed=8)
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}


def autoencoder() -> dict[str, torch.Tensor]:
    return scrambled(TAESD(latent_channels=16), seed=9)


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def write_flux(models: Path) -> list[Path]:
    """flux1-dev, clip_l and ae; t5xxl_fp16 is there by name only, and must not be loaded."""
    parts = {
        "diffusion_models/flux1-dev": network_of("flux", context_in_dim=CLIP_WIDTH),
        "text_encoders/clip_l": clip_l(),
        "text_encoders/t5xxl_fp16": {"nothing": torch.zeros(1)},
        "vae/ae": autoencoder(),
    }
    return write(models, parts)


def write_sd35(models: Path) -> list[Path]:
    """The checkpoint of SD3.5-medium, with CLIP-L as its only text encoder (a file may do so)."""
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    network = network_of(
        "sd35_dual", context_embedder_config=context, num_patches=4096, pos_embed_max_size=64
    )
    checkpoint = {
        **prefixed("model.diffusion_model.", network),
        **prefixed("text_encoders.clip_l.transformer.", clip_l()),
        **prefixed("first_stage_model.", autoencoder()),
    }
    return write(models, {"checkpoints/sd3.5_medium_incl_clips_t5xxlfp8scaled": checkpoint})


def write(models: Path, parts: dict[str, dict[str, torch.Tensor]]) -> list[Path]:
    paths = []
    for name, state in parts.items():
        path = models / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        paths.append(path)
    return paths


def without_t5(prompt: dict) -> dict:
    """The Flux graph with CLIPLoader in the place of DualCLIPLoader: CLIP-L alone gives the pooled
    text (1, 768) as Flux takes it, and tokens (1, 77, 768) for the stand-in's narrower entrance.
    """
    swapped = dict(prompt)
    for name, node in prompt.items():
        if node["class_type"] == "DualCLIPLoader":
            inputs = {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"}
            swapped[name] = {"class_type": "CLIPLoader", "inputs": {**inputs, "device": "default"}}
    return swapped
