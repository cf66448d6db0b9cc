"""The region strip: a run's masks as small pictures over its steps."""

from __future__ import annotations

import numpy as np
import torch

from .canvas import Box, Canvas
from .trace import Run

HEIGHT = 92  # at the reference width, with its heading and step numbers
MOST = 8  # pictures


def shown_steps(count: int, most: int = MOST) -> list[int]:
    """At most `most` of the evaluations, first and last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def picture_of(mask: torch.Tensor) -> np.ndarray:
    """(H, W) in [0, 1]: the first image's mask, of a video its middle frame."""
    first = mask[0]
    while first.ndim > 2:
        first = first[len(first) // 2]
    return first.float().clamp(0, 1).numpy()


def draw_masks(canvas: Canvas, box: Box, run: Run) -> None:
    """Pictures of the region at some steps, bright where the weight is 1, with the step below."""
    left, top, right, bottom = box
    u, steps = canvas.unit, shown_steps(len(run.masks))
    pictures = [picture_of(run.masks[i]) for i in steps]
    height, width = pictures[0].shape
    head, foot, gap = 20 * u, 18 * u, 6 * u
    room = (right - left - gap * (len(steps) - 1)) / len(steps)
    scale = min(room / width, (bottom - top - head - foot) / height)
    cell = (width * scale, height * scale)
    covered = [picture_of(mask).mean() for mask in run.masks]
    share = f"{100 * sum(covered) / len(covered):.0f} %"
    text = f"region, {share} of the picture on average"
    if len(run.masks[0]) > 1:
        text = f"region of the first image, {share} of it on average"
    canvas.text((left, top), text, canvas.colors.text, 13)
    for n, (i, picture) in enumerate(zip(steps, pictures, strict=True)):
        x, y = left + n * (room + gap), top + head
        canvas.picture((x, y, x + cell[0], y + cell[1]), picture)
        middle = (x + cell[0] / 2, y + cell[1] + 3 * u)
        canvas.text(middle, str(run.steps[i]["step"]), canvas.colors.dim, 12, "ma")
