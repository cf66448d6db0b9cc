"""How many images are sampled at a time, by ComfyUI's own estimate of the memory they take.

images_that_fit(required_by(model, conds, shape), memory_of(model, conds).room)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import comfy.sampler_helpers
from comfy.model_patcher import ModelPatcher

from ...run.backbone_config import AT_ONCE
from .conditioning import Conds

MARGIN = 1.5  # what ComfyUI's sampler asks for before it puts both halves of CFG into one batch


@dataclass(frozen=True)
class Memory:
    """Bytes of the device that a model is sampled on. free: now. held: of ComfyUI's models that lie
    there now; they give way. weights: of what sampling has there. reserve: that ComfyUI leaves to
    other programs."""

    free: float
    held: float = 0.0
    weights: float = 0.0
    reserve: float = 0.0

    @property
    def room(self) -> float:
        """What is left for images. Where the weights leave less than a half it is a half, since
        ComfyUI then streams a part of them."""
        whole = self.free + self.held - self.reserve
        return max(whole - self.weights, whole / 2)


def images_that_fit(required: Callable[[int], float], room: float, count: int = AT_ONCE) -> int:
    """The largest number of images, from 1 to `count`, of which `required` (bytes of a number of
    images, which grow with it) fits into `room`. 1 where not even one fits: ComfyUI then makes room
    by moving weights away. With CFG it makes two passes where both halves together would not fit.
    """
    low, high = 1, count
    while low < high:
        middle = (low + high + 1) // 2
        if required(middle) <= room:
            low = middle
        else:
            high = middle - 1
    return low


def required_by(
    model: ModelPatcher, conds: Conds, shape: tuple[int, ...]
) -> Callable[[int], float]:
    """Bytes of one pass over a number of latents (1, C, ...), with what the conditioning brings
    beside them: reference pictures, a ControlNet's working memory."""
    beside: dict[str, list] = {}
    for cond in (cond for half in conds.values() for cond in half):
        for name, size in model.model.extra_conds_shapes(**cond).items():
            beside[name] = max(beside.get(name, [0]), list(size), key=math.prod)
    _, working = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())

    def required(count: int) -> float:
        shapes = {name: [[count * size[0], *size[1:]]] for name, size in beside.items()}
        own = model.model.memory_required([count, *shape[1:]], cond_shapes=shapes)
        return MARGIN * own + working

    return required


def memory_of(model: ModelPatcher, conds: Conds) -> Memory:
    """Of the model's device, when all that sampling does not need has given way: the text encoder,
    the VAE. On a CPU all weights lie there already."""
    management, device = comfy.model_management, model.load_device
    free = management.get_free_memory(device)
    if management.is_device_cpu(device):
        return Memory(free)
    loaded = [
        one.model_loaded_memory()
        for one in management.current_loaded_models
        if one.device == device and one.model is not None  # else nobody has that model any more
    ]
    added, _ = comfy.sampler_helpers.get_additional_models(conds, model.model_dtype())
    needed = dict.fromkeys([model, *model.model_patches_models(), *added])
    weights = sum(one.model_size() for one in needed if one.load_device == device)
    return Memory(free, sum(loaded), weights, management.extra_reserved_memory())
