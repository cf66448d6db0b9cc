"""Picture tables: one row per prompt, one column per method, with titles."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from ...report.sheets import picture_of, sheet
from ..run.folder import AGAIN, write_atomic

SIDE_MIN = 160  # pixels: smaller images are enlarged by a whole factor


def write_grid(
    path: Path, columns: dict[str, list[Tensor]], captions: list[str], advice: str = AGAIN
) -> None:
    """A PNG, written in one move. columns: title -> one image (3, H, W) in [0, 1] per caption.
    Raises RunFolderError on a full disk, which ends with the advice."""
    images = list(columns.values())
    rows = [[picture_of(column[i], SIDE_MIN) for column in images] for i in range(len(captions))]
    buffer = io.BytesIO()
    sheet(rows, above=[list(columns)], below=captions).save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue(), advice)
