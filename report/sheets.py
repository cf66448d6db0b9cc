"""Sheets of pictures with words above and below them.

    picture = sheet([[first, second], [third, fourth]], above=[["D = 0", "D = 0.5"]])

Pictures are never smoothed: small ones are enlarged by a whole factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

GAP, SIZE = 6, 14  # pixels between pictures; of the letters where nothing else is said
LEADING = 6  # pixels between lines
MOST_LINES = 4  # of the words below a picture


def picture_of(image: torch.Tensor, at_least: int = 0) -> Image.Image:
    """(3, H, W) in [0, 1] as a picture, enlarged by a whole factor to `at_least` pixels a side."""
    array = (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    picture = Image.fromarray(array)
    return enlarged(picture, max(1, -(-at_least // min(picture.size))))


def enlarged(picture: Image.Image, factor: int) -> Image.Image:
    """Every pixel as a square of `factor` pixels: small pictures stay what they are."""
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def sheet(
    rows: Sequence[Sequence[Image.Image]],
    above: Sequence[Sequence[str]] = (),
    below: Sequence[str | Sequence[str]] = (),
    size: int = SIZE,
) -> Image.Image:
    """Rows of pictures, all as wide as the widest.

    above: for each of the first rows, a text over each of its pictures; with one row of texts they
    are the titles of the columns. below: for each row one text under the whole row, cut where it is
    wider, or one under each of its pictures, in as many lines as it needs. size: of the letters.
    """
    width = max(picture.width for row in rows for picture in row)
    full = max(len(row) for row in rows) * (width + GAP) - GAP
    font, line = ImageFont.load_default(size), size + LEADING
    laid, top = [], GAP
    for r, row in enumerate(rows):
        heads = above[r] if r < len(above) else ()
        texts = below[r] if r < len(below) else ()
        if isinstance(texts, str):
            feet = [[shortened(texts, font, full)]] if texts else []
        else:
            feet = [wrapped(text, font, width) for text in texts]
        place = top + (line if heads else 0)
        end = place + max(picture.height for picture in row)
        laid.append((row, heads, feet, top, place, end))
        top = end + line * max(map(len, feet), default=0) + GAP
    out = Image.new("RGB", (full + 2 * GAP, top), "white")
    draw = ImageDraw.Draw(out)
    for row, heads, feet, head, place, end in laid:
        for c, picture in enumerate(row):
            out.paste(picture, (GAP + c * (width + GAP), place))
        for c, text in enumerate(heads):
            draw.text((GAP + c * (width + GAP), head), text, "black", font)
        for c, lines in enumerate(feet):
            for n, words in enumerate(lines):
                draw.text((GAP + c * (width + GAP), end + 1 + n * line), words, "black", font)
    return out


def wrapped(text: str, font: ImageFont.ImageFont, room: float) -> list[str]:
    """Lines of at most `room` pixels, cut after MOST_LINES."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [" ".join(lines[MOST_LINES - 1 :])]
    return [shortened(line, font, room) for line in lines]


def shortened(text: str, font: ImageFont.ImageFont, room: float) -> str:
    """The text, cut with dots where it is wider than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + " ...") > room:
        text = text[:-1]
    return text + " ..."
