"""The words of the pictures, for the frozen table of training/tiny/text.py."""

from __future__ import annotations

from .grounds import GROUNDS
from .sprites import NAMES, plural

LENGTH = 6  # tokens; "two cats left of an apple on grass" has 5
SILENT = ("a", "an", "the", "of", "on", "and")


def vocabulary() -> dict[str, int]:
    """Word -> table row. Row 0 is the empty prompt, row 1 is padding; a plural shares its
    singular's row."""
    words = [*NAMES, "left", "right", "above", "below", "two", "three", *GROUNDS]
    rows = {word: row for row, word in enumerate(words, start=2)}
    rows.update({plural(name): rows[name] for name in NAMES})
    rows.update({word: -1 for word in SILENT})
    return rows
