"""Rows that a rerun goes on from: a line that is none is named, and the file left as it is."""

from __future__ import annotations

import csv

import pytest

from async_timestep.training.run.folder import RunFolderError
from async_timestep.training.run.rows import read_rows, write_rows
from async_timestep.training.suite.scores import Cache, Metric

ROWS = [
    {"image": f"images/{i}.png", "sha256": "ab", "metric": "judge", "source": "a, b",
     "score": str(i / 2), "note": 'two\nlines, "quoted"'}
    for i in range(3)
]  # fmt: skip
# the lines of a file from ROWS: 1 the columns, 2 to 7 three rows of two lines each
WRONG = {
    "line 4 is empty, expected 6": lambda lines: [*lines[:3], b"\r\n", *lines[3:]],
    "line 4 has 1 values, expected 6": lambda lines: [*lines[:3], b"{}\r\n", *lines[3:]],
    "line 8 has 3 values, expected 6": lambda lines: [*lines, b"a,b,c"],
    "line 4 has the score 'nan'": lambda lines: [*lines[:3], b"a,b,c,d,nan,\r\n", *lines[3:]],
    "line 8 has the score 'five'": lambda lines: [*lines, b"a,b,c,d,five,\r\n"],
    "line 6 is not UTF-8": lambda lines: [*lines[:5], b"\xff" + lines[5], *lines[6:]],
    "line 4 is not CSV": lambda lines: [*lines[:3], b'"a"b,c\r\n', *lines[3:]],
    "line 1 is 'image,sha256,": lambda lines: [b"image,sha256,metric,score\r\n", *lines[1:]],
    "line 1 is '', expected the columns": lambda lines: [b"\r\n", *lines],
}


@pytest.fixture
def path(tmp_path):
    write_rows(tmp_path / "scores.csv", ROWS)
    return tmp_path / "scores.csv"


def test_what_was_written_is_read(path, tmp_path):
    assert read_rows(path) == ROWS == read_rows(path, Cache.COLUMNS, ("score",))
    assert read_rows(tmp_path / "none.csv") == []
    (tmp_path / "empty.csv").write_text("")
    assert read_rows(tmp_path / "empty.csv", Cache.COLUMNS) == []


@pytest.mark.parametrize("sentence", WRONG)
def test_a_line_that_is_no_row_is_named_and_the_file_left_alone(path, sentence):
    path.write_bytes(b"".join(WRONG[sentence](path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(RunFolderError) as caught:
        Cache(path.parent)
    said = str(caught.value)
    assert said.startswith(f"{path} {sentence}") and "\n" not in said and said.endswith(".")
    assert len(said) - len(str(path)) <= 300
    assert path.read_bytes() == before and len([*path.parent.iterdir()]) == 1


def test_a_folder_in_its_place_is_one_sentence(tmp_path):
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(RunFolderError, match="scores.csv cannot be read .*move it away"):
        Cache(tmp_path)


def test_a_long_line_is_shortened_in_the_sentence(path):
    path.write_text("x" * 100_000)
    with pytest.raises(RunFolderError) as caught:
        Cache(path.parent)
    assert len(str(caught.value)) - len(str(path)) <= 300


def test_a_cache_goes_on_from_its_rows_and_adds_to_them(path):
    (path.parent / "new.png").write_bytes(b"a picture")
    metric = Metric("judge", "a, b", lambda: None)
    Cache(path.parent).put(["new.png"], metric, [(7.5, "seven")])
    assert Cache(path.parent).get("new.png", metric) == 7.5
    with open(path, newline="", encoding="utf-8") as file:
        kept = list(csv.DictReader(file))
    assert kept[:3] == ROWS and len(kept) == 4
