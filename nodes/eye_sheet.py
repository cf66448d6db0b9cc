"""The pictures of a round: from the lists on the graph's wires to the sheet that is seen."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from comfy_api.latest import io, ui

from ..report.sheets import picture_of, sheet
from .run.checks import is_finite, short

CELL_MOST = 512  # pixels a side of a picture on the labelled sheet; the editor shows the whole ones
CELL_LEAST = 128
ROWS_MOST = 16  # of a batch, or of a video's frames, no more than these are shown
LETTERS = "ABCD"


def cells_of(images: Sequence[object], rows: int, columns: int) -> list[list[torch.Tensor]]:
    """Rows of pictures (H, W, 3), of one entry a picture in the order row by row: (B, H, W, C)
    each. A batch of B gives B rows a prompt, up to ROWS_MOST in all. Raises ValueError where they
    are not those of the round."""
    if len(images) != rows * columns:
        raise ValueError(
            f"Tune by Eye: Choose got {len(images)} pictures, expected {rows * columns} ({columns} "
            f"schedules of {rows} rows); connect deviation, prompt and seed of Try to the sampler, "
            "and its decoded images to Choose, with no node between that joins lists."
        )
    batches = [rgb(image) for image in images]
    sizes = sorted({f"{batch.shape[2]} x {batch.shape[1]}" for batch in batches})
    if len(sizes) > 1:
        raise ValueError(
            f"Tune by Eye: Choose got pictures of the sizes {' and '.join(sizes[:3])}, expected "
            "one; give all of them the same latent."
        )
    least = min(map(len, batches))
    batches = [batch[:least] for batch in batches]
    grid = [batches[row * columns : (row + 1) * columns] for row in range(rows)]
    return [[batch[i] for batch in row] for row in grid for i in places(len(row[0]), rows)]


def places(batch: int, rows: int) -> list[int]:
    """Which images of a batch are shown: all, or as many as there is room for, evenly."""
    room = max(ROWS_MOST // rows, 1)
    return list(range(batch)) if batch <= room else [i * batch // room for i in range(room)]


def rgb(image: object) -> torch.Tensor:
    """(B, H, W, 3) of an IMAGE with 1, 3 or 4 channels. Raises ValueError on what is no image."""
    if not isinstance(image, torch.Tensor) or image.ndim != 4 or 0 in image.shape:
        raise ValueError(
            f"Tune by Eye: Choose got {short(getattr(image, 'shape', image))} in images, expected "
            "pictures (B, H, W, C); connect a VAE Decode."
        )
    wide = image.expand(*image.shape[:-1], 3) if image.shape[-1] == 1 else image[..., :3]
    return wide.detach().float().cpu()


def scores_of(score: Sequence[object], entries: int, columns: int) -> list[float]:
    """The mean of each column, of one number an entry, or as many for each. Raises ValueError on
    numbers that are missing or not finite."""
    flat = [value for part in score for value in (part if isinstance(part, list) else [part])]
    wrong = [value for value in flat if not is_finite(value)]
    if wrong or len(flat) % entries or not flat:
        found = f"{short(wrong[0])} among them" if wrong else f"{len(flat)} of them"
        raise ValueError(
            f"Tune by Eye: Choose got scores with {found}, expected {entries} finite numbers, "
            "one a picture; connect a node that scores each image."
        )
    values = np.array(flat, dtype=np.float64).reshape(-1, columns, len(flat) // entries)
    return values.mean(axis=(0, 2)).tolist()


def labelled(
    cells: Sequence[Sequence[torch.Tensor]], letters: Sequence[str], number: int
) -> torch.Tensor:
    """The sheet as an image (1, H, W, 3) in [0, 1], its columns under their letters, its number
    beside the first."""
    rows = [[fitted(cell) for cell in row] for row in cells]
    heads = [f"{letters[0]}    (sheet {number})", *letters[1:]]
    picture = sheet(rows, above=[heads])
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)[None]


def fitted(cell: torch.Tensor) -> Image.Image:
    """(H, W, 3) as a picture of at least CELL_LEAST and at most CELL_MOST pixels a side."""
    picture = picture_of(cell.nan_to_num().movedim(-1, 0), CELL_LEAST)
    picture.thumbnail((CELL_MOST, CELL_MOST))
    return picture


def kept_files(cells: Sequence[Sequence[torch.Tensor]]) -> list[list[dict]]:
    """Every picture in full size in ComfyUI's temporary folder, as the editor asks for it."""
    files, name = [], f"tune_by_eye_{secrets.token_hex(4)}"  # a browser keeps what it knows by name
    for row in cells:
        saved = ui.ImageSaveHelper.save_images(
            torch.stack(list(row)), name, io.FolderType.temp, cls=None, compress_level=1
        )
        files.append([dict(file) for file in saved])
    return files
