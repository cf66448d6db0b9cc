"""A sheet of what plain Euler got wrong, and of what it became where other pixels waited."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from async_timestep.bench.parts.waiting import METHODS, PLAIN
from async_timestep.bench.parts.waiting_run import Laboratory
from async_timestep.report.sheets import picture_of, sheet

SHOWN = {
    "words": "the words wait",
    "object mask": "the objects wait",
    "all but the objects": "all else waits",
}
SIDE = 128


def grey(mask: torch.Tensor) -> Image.Image:
    """A mask (64, 64) in [0, 1] as a picture."""
    return picture_of(mask.expand(3, -1, -1), SIDE)


def draw(laboratory: Laboratory, steps: int, count: int, path: Path) -> list[str]:
    """Writes the sheet: a row for each of the first `count` prompts of which plain Euler's picture
    is not all right. Returns their captions."""
    scores, objects, _ = laboratory.run(steps, METHODS[PLAIN])
    wrong = (scores["scene_strict"] < 1).nonzero()[:count, 0].tolist()
    rows = [[picture_of(laboratory.images[i], SIDE), grey(objects[i])] for i in wrong]
    feet = [["wrong", "its objects"] for _ in wrong]
    for method in SHOWN:
        right = laboratory.run(steps, METHODS[method])[0]["scene_strict"] == 1
        for row, foot, i in zip(rows, feet, wrong, strict=True):
            if method == "words":
                row.append(grey(laboratory.masks[steps // 2][i]))
                foot.append("their region, half way")
            row.append(picture_of(laboratory.images[i], SIDE))
            foot.append("right" if right[i] else "wrong")
    heads = ["plain", "", "", *SHOWN.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, above=[heads], below=feet).save(path)
    return [laboratory.captions[i] for i in wrong]
