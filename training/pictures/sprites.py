"""The objects of the pictures: drawings of Microsoft's Fluent emoji (MIT; art/LICENSE), by name.

The sheet is made by scripts/refresh_sprites.py, a cell an object, row by row in the order of NAMES.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SHEET = Path(__file__).parent / "art" / "sprites.png"
CELL, COLUMNS = 128, 8  # pixels of a cell; cells of a row
NAMES = (
    "apple", "lemon", "strawberry", "watermelon", "avocado", "carrot", "mushroom", "sunflower",
    "tulip", "cactus", "cat", "pig", "panda", "fox", "frog", "owl",
    "penguin", "butterfly", "whale", "crab", "unicorn", "car", "bus", "rocket",
    "guitar", "teapot", "cupcake", "doughnut", "hamburger", "crown", "robot", "house",
)  # fmt: skip
PLURALS = {
    "strawberry": "strawberries",
    "cactus": "cactuses",
    "fox": "foxes",
    "butterfly": "butterflies",
    "bus": "buses",
}


def plural(name: str) -> str:
    return PLURALS.get(name, name + "s")


def article(name: str) -> str:
    """The name with "a" or "an" before it."""
    an = name[0] in "aeio" or name == "umbrella"  # "a unicorn"
    return f"{'an' if an else 'a'} {name}"


@functools.cache
def sprites(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every object at `size` pixels: colours (objects, 3, size, size) in [0, 1], valid where the
    coverage (objects, size, size) is not zero."""
    sheet = torch.from_numpy(np.asarray(Image.open(SHEET).convert("RGBA")).copy()) / 255
    rows = sheet.view(-1, CELL, COLUMNS, CELL, 4).permute(0, 2, 4, 1, 3).flatten(0, 1)
    cells = rows[: len(NAMES)]
    cells = torch.cat([cells[:, :3] * cells[:, 3:], cells[:, 3:]], 1)  # edges keep their colour
    if size != CELL:
        cells = torch.nn.functional.interpolate(
            cells, size=(size, size), mode="bilinear", antialias=True
        )
    cover = cells[:, 3].clamp(0, 1)
    return (cells[:, :3] / cover[:, None].clamp(min=1e-4)).clamp(0, 1), cover
