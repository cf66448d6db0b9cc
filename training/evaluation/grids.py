"""Picture tables: one row a prompt, one column a method, with titles."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..run.folder import AGAIN, write_atomic

SIDE_MIN = 160  # pixels: smaller images are enlarged by a whole factor
GAP, TITLE, CAPTION = 6, 26, 20


def to_image(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> PIL, enlarged without smoothing where it is tiny."""
    array = (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    picture = Image.fromarray(array)
    factor = max(1, -(-SIDE_MIN // min(picture.size)))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def write_grid(
    path: Path, columns: dict[str, list[Tensor]], captions: list[str], advice: str = AGAIN
) -> None:
    """A PNG, written in one move. columns: title -> one image (3, H, W) in [0, 1] a caption.
    Raises RunFolderError on a full disk, which ends with the advice."""
    rows = [[to_image(images[i]) for images in columns.values()] for i in range(len(captions))]
    width, height = rows[0][0].size
    sheet = Image.new(
        "RGB",
        (GAP + len(columns) * (width + GAP), TITLE + len(rows) * (height + CAPTION + GAP)),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    for j, title in enumerate(columns):
        draw.text((GAP + j * (width + GAP), 5), title, "black", font)
    for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = TITLE + i * (height + CAPTION + GAP)
        for j, picture in enumerate(row):
            sheet.paste(picture, (GAP + j * (width + GAP), top))
        room = sheet.width - 2 * GAP
        draw.text((GAP, top + height + 3), shortened(caption, small, room), "black", small)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_atomic(path, buffer.getvalue(), advice)


def shortened(text: str, font: ImageFont.ImageFont, room: int) -> str:
    """The text, cut with dots where it is wider than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + " ...") > room:
        text = text[:-1]
    return text + " ..."
