"""A sheet of pictures that other pixels' waiting mends, and of pictures that it spoils."""

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


def draw(laboratory: Laboratory, steps: int, each: int, path: Path) -> list[str]:
    """Writes the sheet: a row for each of the first prompts whose picture is all right only where
    all but the objects wait, and of the first that is all right only in plain Euler's. Returns
    their captions, and how many there are of both. Raises SystemExit where there is none."""
    ran = {}
    for method in (PLAIN, *SHOWN):
        scores, objects, _ = laboratory.run(steps, METHODS[method])
        right = scores["scene_strict"] == 1
        ran[method] = (right, laboratory.images, objects, laboratory.masks[steps // 2])
    before, after = ran[PLAIN][0], ran["all but the objects"][0]
    mended, spoilt = (~before & after).nonzero()[:, 0], (before & ~after).nonzero()[:, 0]
    chosen = [*mended[:each].tolist(), *spoilt[:each].tolist()]
    if not chosen:
        raise SystemExit(f"No picture of {len(before)} is mended or spoilt; raise --n.")
    rows, feet = [], []
    for i in chosen:
        pictures = {method: picture_of(ran[method][1][i], SIDE) for method in ran}
        said = {method: "right" if ran[method][0][i] else "wrong" for method in ran}
        masks = {PLAIN: ran[PLAIN][2][i], "words": ran["words"][3][i]}
        row, foot = [], []
        for method in ran:
            if method in masks:
                row.append(grey(masks[method]))
                foot.append("its objects" if method == PLAIN else "their region")
            row.insert(len(row) - (method == PLAIN), pictures[method])
            foot.insert(len(foot) - (method == PLAIN), said[method])
        rows.append(row)
        feet.append(foot)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, above=[["plain", "", "", *SHOWN.values()]], below=feet).save(path)
    counts = f"{len(mended)} mended and {len(spoilt)} spoilt of {len(before)}"
    return [*(laboratory.captions[i] for i in chosen), counts]
