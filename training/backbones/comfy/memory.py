"""How many images are sampled at a time, by ComfyUI's own estimate of the memory they take."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
from comfy.model_patcher import ModelPatcher

from ...run.backbone_config import AT_ONCE

MARGIN = 1.5  # what ComfyUI's sampler asks for before it puts both halves of CFG into one batch


def largest_batch(required: Callable[[int], float], free: float, count: int) -> int:
    """The largest number of images, from 1 to `count`, of which `required` (bytes of a number of
    images, which grow with it) fits into `free` bytes. 1 where not even one fits: ComfyUI then
    makes room by moving weights away."""
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        if required(middle) <= free:
            low = middle
        else:
            high = middle - 1
    return low


def images_that_fit(model: ModelPatcher, shape: tuple[int, ...], free: float) -> int:
    """Of latents (1, C, ...) in one pass of the network, in `free` bytes. With CFG ComfyUI makes
    two passes where both halves together would not fit."""

    def required(count: int) -> float:
        return MARGIN * model.model.memory_required([count, *shape[1:]])

    return largest_batch(required, free, AT_ONCE)


def beside_weights(whole: float, weights: float) -> float:
    """Bytes that are left of `whole` ones for images. Where the weights leave less than a half it
    is a half, since ComfyUI then streams a part of them."""
    return max(whole - weights, whole / 2)


def room_for_images(model: ModelPatcher) -> float:
    """Bytes of the model's device for images, when all else of ComfyUI's there has given way: the
    text encoder, the VAE."""
    device = model.load_device
    free = comfy.model_management.get_free_memory(device)
    if comfy.model_management.is_device_cpu(device):
        return free  # all weights lie there already
    loaded = [
        held.model_loaded_memory()
        for held in comfy.model_management.current_loaded_models
        if held.device == device and held.model is not None  # nobody has that model any more
    ]
    whole = free + sum(loaded)
    return beside_weights(whole, model.model_size())
