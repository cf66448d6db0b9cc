"""CSV files that are read and written whole: what a rerun goes on from.

write_rows(path, [{"image": "a.png", "score": 0.5}])
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from .folder import RunFolderError, write_atomic
from .ranges import shown

MEND = "mend that line, or move the file away: it is left as it is."


def read_rows(
    path: Path, columns: Sequence[str] = (), numbers: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Reads the rows of a CSV file as text; there are none where there is no file. columns: what
    its first line has to be, where that is known; numbers: columns of finite numbers.

    Raises RunFolderError that names the first line that is none of ours: whoever goes on from rows
    writes the whole file anew, so that a line that was left out would be lost.
    """
    if not path.exists():
        return []
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    head, rows, line = list(columns), [], 1
    try:
        for values in reader:
            if wrong := wrong_values(values, head, numbers, first=line == 1):
                raise RunFolderError(f"{path} line {line} {wrong}; {MEND}")
            if line == 1:
                head = values
            else:
                rows.append(dict(zip(head, values, strict=True)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise RunFolderError(
            f"{path} line {line} is not CSV ({error}), expected quotes around a text with commas, "
            f"doubled inside it; {MEND}"
        ) from None
    return rows


def wrong_values(values: list[str], head: list[str], numbers: Sequence[str], first: bool) -> str:
    """What is wrong with a line, in words that follow its place, or ""."""
    if first and (not values or head not in ([], values)):
        return f"is {shown(','.join(values))}, expected the columns {','.join(head) or 'by name'}"
    if len(values) != len(head) and not first:
        found = f"has {len(values)} values" if values else "is empty"
        return f"{found}, expected {len(head)}, one for each of the columns of line 1"
    for name, value in zip(head, values, strict=False):
        if name in numbers and not first and not is_finite(value):
            return f"has the {name} {shown(value)}, expected a finite number"
    return ""


def is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def text_of(path: Path) -> str:
    """The whole file. Raises RunFolderError where it cannot be read, or is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror or error}), expected a file of rows; move it "
            "away, or choose another --out."
        ) from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RunFolderError(f"{path} line {line} is not UTF-8; {MEND}") from None


def write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Writes all of them or nothing: a kill leaves no half."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
