"""Sheets of labelled pictures for the node pages."""

from __future__ import annotations

from PIL import Image

from async_timestep.report import sheets

CELL, LETTERS = 128, 18  # large: the panel that shows them is narrow
STRIP = 138  # height of the strip at the bottom of a plot


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of labelled pictures, the label above each."""
    small = [[p.resize((CELL, CELL), Image.Resampling.NEAREST) for _, p in row] for row in rows]
    return sheets.sheet(small, above=[[label for label, _ in row] for row in rows], size=LETTERS)


def stacked_strips(strips: list[tuple[str, Image.Image]]) -> Image.Image:
    """The lowest part of each plot, with a heading."""
    parts = [[p.crop((0, p.height - STRIP, p.width, p.height))] for _, p in strips]
    return sheets.sheet(parts, above=[[label] for label, _ in strips], size=LETTERS)
