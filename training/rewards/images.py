"""Images as the published reward models take them: the original packages read 8-bit files.

Scores are those of the image as it would be saved: every reward rounds to 8 bits first, so that a
score in training is the score of the PNG.
"""

from __future__ import annotations

import torch
import torchvision.transforms.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

BICUBIC = InterpolationMode.BICUBIC
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W) float in [0, 1] -> uint8. Raises ValueError on a value that is not finite."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"Got images of shape {tuple(images.shape)}, expected (B, 3, H, W).")
    if not bool(images.isfinite().all()):
        bad = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(
            f"Image {bad} of the batch holds values that are not finite; the frozen model "
            "overflowed, try backbone.precision bf16 or fp32."
        )
    return (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) float in [0, 1] -> B images of 8 bits."""
    return [Image.fromarray(row) for row in to_uint8(images).cpu().movedim(1, -1).numpy()]


def resized_as_pil(images: Tensor, size: int) -> Tensor:
    """The transform of CLIP and ImageReward: bicubic on 8 bits by PIL, crop, normalise.

    (B, 3, H, W) in [0, 1] -> (B, 3, size, size) float32 on the CPU.
    """
    rows = []
    for image in to_pil(images):
        cropped = F.center_crop(F.resize(image, size, BICUBIC), [size, size])
        rows.append(F.normalize(F.to_tensor(cropped), CLIP_MEAN, CLIP_STD))
    return torch.stack(rows)


def padded_as_float(images: Tensor, size: int) -> Tensor:
    """The transform of hpsv2: bicubic on floats, which may overshoot [0, 1], black bars, normalise.

    (B, 3, H, W) in [0, 1] -> (B, 3, size, size) float32 on the images' device.
    """
    floats = to_uint8(images).float() / 255
    scale = size / max(floats.shape[-2:])
    height, width = (round(side * scale) for side in floats.shape[-2:])
    if scale != 1:
        floats = F.resize(floats, [height, width], BICUBIC, antialias=True)
    left, top = (size - width) // 2, (size - height) // 2
    floats = F.pad(floats, [left, top, size - width - left, size - height - top])
    return F.normalize(floats, CLIP_MEAN, CLIP_STD)
