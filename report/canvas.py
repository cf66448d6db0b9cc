"""A small drawing surface for plots: PIL at twice the size, scaled down at the end."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont

SUPERSAMPLING = 2
REFERENCE_WIDTH = 512  # pixels at which the sizes of fonts and lines are given
SMALLEST_FONT = 11.0  # pixels, however small the plot
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Colors:
    """One theme."""

    ground: str
    panel: str
    grid: str
    text: str
    dim: str
    true: str  # the sampler's own
    told: str  # what the network was told
    band: str
    cut: str
    omega: str
    warn: str


DARK = Colors(
    ground="#17191d",
    panel="#1f2227",
    grid="#363b43",
    text="#eceff3",
    dim="#9aa3af",
    true="#9aa3af",
    told="#4cc2ff",
    band="#24506a",
    cut="#ffb454",
    omega="#b4e06a",
    warn="#ff7a59",
)
LIGHT = Colors(
    ground="#ffffff",
    panel="#f5f6f8",
    grid="#d5d9e0",
    text="#16191d",
    dim="#5b6470",
    true="#6b7480",
    told="#0b74b8",
    band="#bcdcf2",
    cut="#b45f00",
    omega="#4d7c0f",
    warn="#c2330f",
)


class Canvas:
    """A PIL drawing in output pixels, drawn larger and scaled down at the end."""

    def __init__(self, size: tuple[int, int], colors: Colors) -> None:
        self.size, self.colors = size, colors
        self.unit = self.unit_of(size[0])
        large = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
        self.image = Image.new("RGB", large, colors.ground)
        self.draw = ImageDraw.Draw(self.image)
        self.fonts: dict[float, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}

    @staticmethod
    def unit_of(width: int) -> float:
        return max(width / REFERENCE_WIDTH, 0.6)

    def font(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        pixels = max(size * self.unit, SMALLEST_FONT) * SUPERSAMPLING
        if pixels not in self.fonts:  # Pillow unpacks its font anew at every call
            self.fonts[pixels] = ImageFont.load_default(size=pixels)
        return self.fonts[pixels]

    def width(self, text: str, size: float) -> float:
        """The width of a line of text, in output pixels."""
        return self.font(size).getlength(text) / SUPERSAMPLING

    def text(self, at: Point, text: str, color: str, size=13.0, anchor="la") -> None:
        self.draw.text(up([at])[0], text, fill=color, font=self.font(size), anchor=anchor)

    def line(self, points: Sequence[Point], color: str, width: float = 2.0) -> None:
        pixels = max(1, round(width * self.unit * SUPERSAMPLING))
        self.draw.line(up(points), fill=color, width=pixels, joint="curve")

    def dots(self, points: Sequence[Point], color: str, radius=3.0) -> None:
        r = radius * self.unit * SUPERSAMPLING
        for x, y in up(points):
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def area(self, points: Sequence[Point], color: str) -> None:
        self.draw.polygon(up(points), fill=color)

    def shade(self, points: Sequence[Point], color: str, share: float) -> None:
        """An area that lets what is below it show through."""
        mask = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(mask).polygon(up(points), fill=round(255 * share))
        self.image.paste(color, mask=mask)

    def box(self, box: Box, color: str, radius: float = 6.0) -> None:
        corners = [value * SUPERSAMPLING for value in box]
        self.draw.rounded_rectangle(corners, radius * self.unit * SUPERSAMPLING, fill=color)

    def wrap(self, text: str, size: float, room: float, most: int) -> list[str]:
        """Lines that fit into `room` pixels, `most` of them; the rest ends in an ellipsis."""
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.width(longer, size) > room:
                lines.append(word)
            else:
                lines[-1:] = [longer]
        if len(lines) > most:
            lines[most - 1 :] = [" ".join(lines[most - 1 :])]
        return [self.shortened(line, size, room) for line in lines]

    def shortened(self, line: str, size: float, room: float) -> str:
        """The line, or as much of its beginning as fits with an ellipsis."""
        if self.width(line, size) <= room:
            return line
        lengths = range(len(line))
        fitting = bisect_right(lengths, room, key=lambda n: self.width(line[:n] + "…", size))
        return line[: max(fitting - 1, 0)] + "…"

    def picture(self, box: Box, grey: np.ndarray) -> None:
        """Numbers in [0, 1] as a picture between the panel's colour and the told one's."""
        low, high = (np.array(ImageColor.getrgb(c)) for c in (self.colors.panel, self.colors.told))
        pixels = low + (high - low) * grey[..., None]
        left, top, right, bottom = (round(value * SUPERSAMPLING) for value in box)
        small = Image.fromarray(pixels.astype(np.uint8))
        size = (max(1, right - left), max(1, bottom - top))
        self.image.paste(small.resize(size, Image.Resampling.NEAREST), (left, top))

    def tensor(self) -> torch.Tensor:
        """(1, H, W, 3) in [0, 1], as ComfyUI's images."""
        small = self.image.resize(self.size, Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, dtype=np.float32) / 255.0)[None]


def up(points: Sequence[Point]) -> list[Point]:
    return [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]


def finite_parts(points: Sequence[Point]) -> list[list[Point]]:
    """The points, split where one is missing (not finite)."""
    parts: list[list[Point]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside [low, high], about that many."""
    raw = (high - low) / about
    if raw <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
