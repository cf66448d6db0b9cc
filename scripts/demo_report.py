"""What the demo leaves: image grids, scores with standard errors, the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from async_timestep.training.tiny.scenes import TEXTURES, Scene
from async_timestep.training.tiny.score import score_images

CELL, MARGIN, LABEL = 192, 6, 260


def read_images(server, output: dict) -> list[Image.Image]:
    return [Image.open(io.BytesIO(server.fetch(e))).convert("RGB") for e in output["images"]]


def save_grid(
    rows: list[list[Image.Image]], columns: list[str], captions: list[str], path: Path
) -> None:
    """A sheet of images: `columns` above (one for all, or one each), `captions` on the left."""
    left = LABEL if any(captions) else MARGIN
    width = left + max(len(row) for row in rows) * (CELL + MARGIN)
    sheet = Image.new("RGB", (width, 34 + len(rows) * (CELL + MARGIN)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for k, text in enumerate(columns):
        draw.text((left + k * (CELL + MARGIN), 8), text, "black", font)
    for r, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = 34 + r * (CELL + MARGIN)
        for line, text in enumerate(wrapped(caption, font, left - 2 * MARGIN)):
            draw.text((MARGIN, top + 40 + 22 * line), text, "black", font)
        for k, image in enumerate(row):
            sheet.paste(
                image.resize((CELL, CELL), Image.NEAREST), (left + k * (CELL + MARGIN), top)
            )
    sheet.save(path)


def wrapped(text: str, font: ImageFont.ImageFont, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


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
