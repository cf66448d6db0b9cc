"""What the demo leaves: image grids, scores with standard errors, the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from async_timestep.report.sheets import sheet
from async_timestep.training.tiny.scenes import TEXTURES, Scene
from async_timestep.training.tiny.score import score_images

CELL = 192


def read_images(server, output: dict) -> list[Image.Image]:
    return [Image.open(io.BytesIO(server.fetch(e))).convert("RGB") for e in output["images"]]


def save_grid(
    rows: list[list[Image.Image]], columns: list[str], captions: list[str], path: Path
) -> None:
    """A sheet: `columns` above (a text for all pictures, or for each), `captions` below."""
    sides = [[p.resize((CELL, CELL), Image.Resampling.NEAREST) for p in row] for row in rows]
    sheet(sides, above=[columns], below=captions).save(path)


def score(images: list[Image.Image], scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """The exact judge on 128 px images, brought back to the model's own 64 px; (n,) a column."""
    pixels = torch.from_numpy(np.stack([np.asarray(i, np.float32) / 255 for i in images]))
    small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 2)
    return score_images(small, [scene.caption for scene in scenes])


def write_table(
    scores: list[dict[str, torch.Tensor]],
    deviations: tuple[float, ...],
    scenes: list[Scene],
    path: Path,
) -> str:
    """A CSV with one row a texture and deviation, and the same as text.

    d_reward is the paired difference to D = 0, with its standard error over the images.
    """
    base = scores[deviations.index(0.0)]
    lines = [
        f"{'texture':9} {'D':>6} {'n':>4} {'d_reward':>18} {'strict':>7} {'texture':>8} "
        f"{'noise':>7}"
    ]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["texture", "deviation", "n", "d_reward", "se", "strict", "texture_std", "noise"]
        )
        for texture in (*TEXTURES, "all"):
            rows = torch.tensor([texture in (s.texture, "all") for s in scenes])
            for deviation, got in zip(deviations, scores, strict=True):
                gain = (got["reward"] - base["reward"])[rows].double()
                n = len(gain)
                mean, error = float(gain.mean()), float(gain.std() / n**0.5)
                values = [float(got[c][rows].mean()) for c in ("strict", "texture_std", "noise")]
                writer.writerow(
                    [texture, deviation, n, *(f"{v:.5f}" for v in (mean, error, *values))]
                )
                lines.append(
                    f"{texture:9} {deviation:+6.2f} {n:4d} {mean:+9.4f} +- {error:.4f} "
                    f"{values[0]:7.3f} "
                    f"{values[1]:8.4f} {values[2]:7.4f}"
                )
    return "\n".join(lines)
