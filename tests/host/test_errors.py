"""docs/guides/errors.md holds, word for word, what a real server says to every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_timestep.harness import graphs, mistake_files
from async_timestep.harness.mistakes import MISTAKES, seen
from async_timestep.scripts.make_errors import DOC, WHERE

ROOT = Path(__file__).parents[2]


def rows() -> dict[str, tuple[str, str]]:
    """What the user did -> (where, the cell with the answer)."""
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| ")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    body = [row for row in cells if row[0] not in ("You", "---")]
    found = {row[0]: (row[1].strip(), row[2]) for row in body}
    assert len(found) == len(body), "a row stands twice"
    assert all(len(row) == 4 and row[3] for row in body)
    return found


@pytest.fixture(scope="module")
def prepared(server):
    """The server with the files of the mistakes, which are gone again for the other tests."""
    kept = set(server.base.rglob("*"))
    mistake_files.write(server.base)
    yield server
    for path in set((server.base / "models").rglob("*.safetensors")) - kept:
        path.unlink()


def test_every_mistake_has_its_row_and_every_row_its_mistake():
    assert set(rows()) == set(MISTAKES)


@pytest.mark.parametrize("did", MISTAKES)
def test_the_page_says_what_the_user_sees(prepared, did):
    mistake, (where, said) = MISTAKES[did], rows()[did]
    text = seen(prepared, mistake)
    assert said == (f"`{text}`" if text else "it works")
    assert where == WHERE.get(mistake.where, "")
    if mistake.where in ("node", "log"):
        assert "\n" not in text and len(text) < 420 and text.endswith("."), "one sentence"
        assert ". " not in text.replace(" ... ", " "), "one sentence"


def test_nothing_of_a_mistake_stays(prepared):
    """Stopped in the middle of a sampling, the model samples as before."""

    def picture() -> bytes:
        (entry,) = prepared.run(graphs.stock(batch=1, seed=71))["preview"]["images"]
        return prepared.fetch(entry)

    first = picture()
    for did in ("the TPM is for models with other latents", "words, and two prompts combined"):
        assert seen(prepared, MISTAKES[did])
        assert picture() == first


def test_the_stages_of_a_split_schedule_are_parts_of_it(prepared):
    """The other side of the row about another schedule in sigmas."""
    text = prepared.run(graphs.split_sigmas(batch=1))["plot"]["text"][0]
    assert "run 2 of 2" in text and "not in the sigmas" not in text
