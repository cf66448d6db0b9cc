"""CSV files that are read and written whole: what a rerun goes on from.

write_rows(path, [{"image": "a.png", "score": 0.5}])
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from .folder import write_atomic


def read_rows(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file as text; there are none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Writes all of them or nothing: a kill leaves no half."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
