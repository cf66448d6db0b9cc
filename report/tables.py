"""Tables in markdown, for pages and for the screen.

markdown(["method", "reward"], [["D=0", "2.73"], ["D=+0.5", "2.65"]])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def line(cells: Iterable[str]) -> str:
    """One row; an empty cell takes one blank."""
    return "".join("| " if cell == "" else f"| {cell} " for cell in cells) + "|"


def ruled(header: Sequence[str]) -> str:
    """The first row and the rule below it."""
    return f"{line(header)}\n{'|---' * len(header)}|"


def markdown(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A whole table, with a line end behind its last row."""
    return "\n".join([ruled(header), *map(line, rows)]) + "\n"
