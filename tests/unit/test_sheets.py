"""Sheets of pictures: every picture whole and where it belongs, words that fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from async_timestep.report.sheets import (
    GAP,
    MOST_LINES,
    SIZE,
    enlarged,
    picture_of,
    sheet,
    shortened,
    wrapped,
)

FONT = ImageFont.load_default(SIZE)


def coloured(width: int, height: int, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def found_at(whole: Image.Image, part: Image.Image) -> tuple[int, int] | None:
    """Where the part stands in the whole, pixel by pixel."""
    pixels, wanted = np.asarray(whole), np.asarray(part)
    rows, columns = (pixels.shape[i] - wanted.shape[i] + 1 for i in (0, 1))
    for y, x in np.argwhere((pixels[:rows, :columns] == wanted[0, 0]).all(-1)):
        if (pixels[y : y + wanted.shape[0], x : x + wanted.shape[1]] == wanted).all():
            return int(x), int(y)
    return None


@pytest.mark.parametrize("above", [(), [["one", "two"]], [["a", "b"], ["c", "d"]]])
@pytest.mark.parametrize("below", [(), ["first row", "second"], [["a b c", "d"], ["e", "f"]]])
def test_every_picture_is_whole_and_in_its_row_and_column(above, below):
    rows = [[coloured(40, 30, 2 * r + c) for c in range(2)] for r in range(2)]
    whole = sheet(rows, above, below)
    places = [[found_at(whole, picture) for picture in row] for row in rows]
    for row in places:
        assert [x for x, _ in row] == [GAP, GAP + 40 + GAP]
        assert row[0][1] == row[1][1]
    assert places[1][0][1] >= places[0][0][1] + 30 + GAP
    assert whole.width == 2 * 40 + 3 * GAP


def test_words_are_drawn_and_leave_the_pictures_alone():
    rows = [[coloured(60, 20, 1)]]
    bare, named = sheet(rows), sheet(rows, [["over"]], ["under"])
    x, y = found_at(named, rows[0][0])
    assert found_at(bare, rows[0][0]) == (GAP, GAP) and named.height > bare.height
    ink = np.asarray(named.convert("L")) < 128
    assert ink[:y].any() and ink[y + 20 :].any() and not ink[:, :GAP].any()
    assert not (np.asarray(bare.convert("L"))[:GAP] < 255).any()


def test_larger_letters_take_more_room():
    rows = [[coloured(90, 20, 1)]]
    small, large = (sheet(rows, [["over"]], ["under"], size) for size in (SIZE, 2 * SIZE))
    ink = [
        int((np.asarray(s.convert("L"))[: found_at(s, rows[0][0])[1]] < 128).sum())
        for s in (small, large)
    ]
    assert large.height - small.height == 2 * SIZE and ink[1] > 2 * ink[0]


def test_rows_of_different_lengths_and_pictures_of_different_sizes():
    rows = [[coloured(20, 10, 1), coloured(30, 40, 2), coloured(20, 10, 3)], [coloured(30, 5, 4)]]
    whole = sheet(rows, below=[["a", "b", "c"], "alone"])
    assert all(found_at(whole, picture) for row in rows for picture in row)
    assert whole.width == 3 * 30 + 4 * GAP


def test_small_pictures_are_enlarged_by_a_whole_factor():
    image = torch.rand(3, 8, 12)
    picture = picture_of(image, 30)
    assert picture.size == (48, 32)
    expected = (image * 255).round().byte().movedim(0, -1).numpy()
    assert np.array_equal(np.asarray(picture)[::4, ::4], expected)
    assert np.array_equal(np.asarray(picture)[3::4, 3::4], expected)
    assert picture_of(image).size == (12, 8) and enlarged(picture_of(image), 2).size == (24, 16)


@pytest.mark.parametrize("room", [30, 80, 200])
def test_lines_fit_into_their_room(room):
    text = "two red circles above a blue star on a dark rough background " * 3
    lines = wrapped(text, FONT, room)
    assert len(lines) <= MOST_LINES
    assert all(FONT.getlength(line) <= room or line == " ..." for line in lines)
    assert shortened("short", FONT, 200) == "short"
    assert shortened(text, FONT, room).endswith(" ...")
    assert wrapped("", FONT, room) == []
