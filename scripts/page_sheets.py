"""Sheets of labelled pictures for the node pages."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, LABEL = 128, 6, 26
STRIP = 138  # height of the strip at the bottom of a plot


def sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Rows of labelled pictures, the label above each."""
    width = max(len(row) for row in rows) * (CELL + GAP) + GAP
    out = Image.new("RGB", (width, len(rows) * (CELL + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(size=18)
    for r, row in enumerate(rows):
        top = GAP + r * (CELL + LABEL + GAP)
        for c, (label, picture) in enumerate(row):
            left = GAP + c * (CELL + GAP)
            draw.text((left, top + 2), label, "black", font)
            out.paste(picture.resize((CELL, CELL), Image.NEAREST), (left, top + LABEL))
    return out


def stacked_strips(strips: list[tuple[str, Image.Image]]) -> Image.Image:
    """The lowest part of each plot, with a heading."""
    parts = [
        whole.crop((0, whole.height - STRIP, whole.width, whole.height)) for _, whole in strips
    ]
    out = Image.new("RGB", (parts[0].width, sum(p.height + 24 for p in parts)), "white")
    draw, font, top = ImageDraw.Draw(out), ImageFont.load_default(size=18), 0
    for (label, _), part in zip(strips, parts, strict=True):
        draw.text((8, top + 2), label, "black", font)
        out.paste(part, (0, top + 24))
        top += part.height + 24
    return out
