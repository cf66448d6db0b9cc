"""The session of choices: every choice once, in one move, and a sentence for whatever is wrong."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import threading
from dataclasses import asdict

import pytest

from async_timestep.eye import fields, session, session_file, shapes, taste, verdict
from async_timestep.eye.fields import SessionError
from async_timestep.eye.session import ALL_ALIKE, COMPARE, FOUND, MORE, NONE_BETTER, OFF, A, B

PROMPTS = ["a red circle", "a blue star", "two green squares"]


@functools.cache
def ran(rounds: int, steps: int = 4, choice: int = A) -> session.Session:
    now = session.begin("mine", steps, seed=7)
    for number in range(1, rounds + 1):
        now = session.answered(session.next_round(now, PROMPTS), number, choice)
    return now


def test_a_sheet_has_one_seed_and_one_prompt_a_row_and_new_ones_every_time():
    now = ran(3)
    for sheet in now.rounds:
        entries = sheet.entries()
        assert len(entries) == 16
        for row in range(4):
            own = entries[4 * row : 4 * row + 4]
            assert len({(e.seed, e.prompt) for e in own}) == 1
            assert [e.numbers for e in own] == [sheet.shown[place] for place in sheet.order]
    seeds = [seed for sheet in now.rounds for seed in sheet.seeds]
    assert len(set(seeds)) == 12
    prompts = [prompt for sheet in now.rounds for prompt in sheet.prompts]
    assert prompts == PROMPTS * 4  # in turn
    assert len({sheet.order for sheet in now.rounds}) > 1
    assert session.begin("other", 4, seed=8).seed != now.seed


def test_the_first_sheet_shows_off_and_every_later_one_the_present_best():
    now = ran(4)
    assert shapes.off(4) in now.rounds[0].shown
    for count in (1, 2, 3):
        belief = taste.belief(now.answers()[:count], 3)
        assert now.rounds[count].shown[0] == pytest.approx(taste.best(belief), abs=1e-4)


def test_the_same_file_gives_the_same_sheet(tmp_path):
    now = session.next_round(ran(3), PROMPTS)
    session_file.store(tmp_path / "a.json", ran(3))
    again = session.next_round(session_file.load(tmp_path / "a.json"), PROMPTS)
    assert again == now
    assert session.next_round(now, PROMPTS) == now  # a second Run shows what is open
    one = session.next_round(now, PROMPTS, pictures=1)  # other rows of the same sheet
    assert (one.open.shown, one.open.rows, len(one.rounds)) == (now.open.shown, 1, 4)


@pytest.mark.parametrize("steps", [2, 3, 4, 9])
def test_a_stored_session_comes_back(tmp_path, steps):
    now = session.next_round(ran(2, steps, NONE_BETTER), PROMPTS, pictures=2)
    session_file.store(tmp_path / "folder" / "mine.json", now)
    assert session_file.load(tmp_path / "folder" / "mine.json") == now
    assert os.listdir(tmp_path / "folder") == ["mine.json"]


def test_choices_go_through_the_order_of_the_columns():
    now = session.next_round(session.begin("mine", 4), PROMPTS)
    sheet = now.open
    for choice in (1, 2, 3, 4):
        chosen = session.answered(now, 1, choice).answers()[0]
        assert sheet.shown[chosen.index] == sheet.entries()[choice - 1].numbers
    assert session.answered(now, 0, NONE_BETTER).answers()[0].index == 0
    assert session.answered(now, 0, ALL_ALIKE).answers()[0].index is None


def test_an_answer_counts_once(tmp_path):
    path = tmp_path / "mine.json"
    session_file.change(path, lambda s: session.next_round(s, PROMPTS), session.begin("mine", 4))
    first = session_file.answer(path, 1, B)
    assert session_file.answer(path, 1, B) == first == session_file.load(path)
    other = session_file.answer(path, 1, A)  # a slip is taken back while no other sheet is there
    assert [sheet.answer for sheet in other.rounds] == [A]
    with pytest.raises(SessionError, match="has 1 sheets"):
        session_file.answer(path, 2, A)
    for choice in (0, 7, -1, None, "A", 2.5):
        with pytest.raises(SessionError, match="expected 1 to 4"):
            session_file.answer(path, 1, choice)
    assert len(session_file.load(path).answers()) == 1
    now = session_file.change(path, lambda s: session.next_round(s, PROMPTS))
    assert session_file.answer(path, 1, A) == now
    with pytest.raises(SessionError, match=r"answer already \(A, not B\)"):
        session_file.answer(path, 1, B)
    assert session_file.load(path) == now


def test_two_tabs_lose_no_choice(tmp_path):
    """Every thread asks for the open sheet and answers it; whoever comes late is told so."""
    path, told = tmp_path / "mine.json", []

    def tab(choice: int) -> None:
        for _ in range(5):
            now = session_file.change(
                path, lambda s: session.next_round(s, PROMPTS), session.begin("mine", 4)
            )
            try:
                session_file.answer(path, len(now.rounds), choice)
                told.append(choice)
            except SessionError as error:
                assert "already" in str(error)

    threads = [threading.Thread(target=tab, args=(choice,)) for choice in (A, B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rounds = session_file.load(path).rounds
    assert all(sheet.answer for sheet in rounds)
    assert 5 <= len(rounds) <= len(told)  # at the same moment both may answer one sheet
    for choice in (A, B):
        assert sum(sheet.answer == choice for sheet in rounds) <= told.count(choice)


def killed_before_the_move(path: str) -> None:
    os.replace = lambda *_: os._exit(9)  # the power goes
    session_file.answer(path, 1, B)


def test_a_kill_between_write_and_move_leaves_the_old_session(tmp_path):
    path = tmp_path / "mine.json"
    before = session_file.change(
        path, lambda s: session.next_round(s, PROMPTS), session.begin("mine", 4)
    )
    process = multiprocessing.get_context("fork").Process(
        target=killed_before_the_move, args=(str(path),)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert len(os.listdir(tmp_path)) == 2  # and what it had written beside it
    assert session_file.load(path) == before
    assert session_file.answer(path, 1, B).answers()


def test_another_model_and_other_settings_are_refused():
    now = session.same(ran(1), 4, "conditioning", "sdxl", "ab12")
    assert session.same(now, 4, "conditioning") == now  # none connected
    assert session.same(now, 4, "conditioning", "sdxl", "ab12") == now
    for change, words in [
        ((5, "conditioning"), "steps 4, and steps is 5"),
        ((4, "follow_time"), "mode conditioning, and mode is follow_time"),
        ((4, "conditioning", "flux1_dev"), "made on sdxl, and the model is flux1_dev"),
        ((4, "conditioning", "sdxl", "cd34"), "other weights of sdxl"),
    ]:
        with pytest.raises(SessionError, match=words) as found:
            session.same(now, *change)
        assert len(str(found.value)) <= 300


@functools.cache
def text() -> str:
    now = session.next_round(ran(2), PROMPTS)
    return json.dumps({"format": fields.FORMAT, "version": fields.VERSION, **asdict(now)})


SPOILED = {
    "name": [None, "a\nb", "x" * 201, 3],
    "model_family": [None, ["sdxl"]],
    "weights_sha256": [5],
    "steps": [1, 4.0, True, "4", 10**9, None, 3],
    "mode": ["", "lying", None],
    "seed": [-1, 2**60, 0.5, "0"],
    "rounds": [None, {}, [3], [[]], 7],
    "times": [None, [0.0, 1.0], [1.0, "0"], [2.0, 0.0], [1.0, 1.0, 0.0]],
    "made": [None, {}, {"sampler": 3}, [1]],
    "format": ["", "async-timestep-tpm", None],
    "version": [2, "1", None],
}
SPOILED_ROUND = {
    "kind": ["", None, 1],
    "shown": [[], [[0, 0, 0]], [[0, 0]] * 4, [[0, 0, 9]] * 4, [[float("nan")] * 3] * 4, "abc"],
    "steps": [[], [4], [4, 4, 4, "4"], 4],
    "order": [[0, 1, 2, 2], [0, 1, 2], [1, 2, 3, 4], None, [0, 1, 2, 3.0]],
    "seeds": [[], [-1] * 4, ["a"] * 4, [1] * 9, [1]],
    "prompts": [[], [1, 2, 3, 4], ["x" * 30_000] * 4, ["a"], "abcd"],
    "answer": [-1, 7, 1.5, None, "A", 0],
}


@pytest.mark.parametrize("key", [*SPOILED, *(f"rounds.{key}" for key in SPOILED_ROUND)])
def test_every_spoiled_field_is_named_in_one_sentence(tmp_path, key):
    path = tmp_path / "mine.json"
    of_round, name = key.startswith("rounds."), key.removeprefix("rounds.")
    values = SPOILED_ROUND[name] if of_round else SPOILED[name]
    for value in [*values, "gone", "unknown"]:
        data = json.loads(text())
        place = data["rounds"][0] if of_round else data
        if value == "gone":
            del place[name]
        elif value == "unknown":
            place[f"{name}_2"] = 1
        else:
            place[name] = value
        path.write_text(json.dumps(data))
        with pytest.raises(SessionError) as found:
            session_file.load(path)
        words = str(found.value)
        assert words.startswith("mine.json ") and words.endswith(".") and len(words) <= 300
        assert name.removesuffix("s") in words or "schedules of 2 numbers" in words, words
        assert "\n" not in words


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '{"format": 1}', "[" * 100_000])
def test_a_damaged_file_is_refused_and_stays(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_text(text)
    for act in (
        lambda: session_file.load(path),
        lambda: session_file.answer(path, 1, A),
        lambda: session_file.change(path, lambda s: s, session.begin("mine", 4)),
    ):
        with pytest.raises(SessionError, match=r"^mine\.json"):
            act()
    assert path.read_text() == text
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SessionError, match="damaged"):
        session_file.load(path)


def test_start_over_keeps_the_old_file(tmp_path):
    path = tmp_path / "mine.json"
    assert session_file.start_over(path) is None
    for rounds in (1, 2):
        session_file.store(path, ran(rounds))
        assert len(session_file.load(session_file.start_over(path)).rounds) == rounds
        assert not path.exists()
    assert len(os.listdir(tmp_path)) == 2


def test_a_full_disk_leaves_the_session(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    session_file.store(path, ran(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SessionError, match="No space left"):
        session_file.store(path, ran(2))
    assert session_file.load(path) == ran(1)
    assert os.listdir(tmp_path) == ["mine.json"]


def test_what_no_prompt_and_no_pictures_get():
    for prompts, pictures, words in [([], 4, "prompts is empty"), (["a"], 0, "pictures is")]:
        with pytest.raises(SessionError, match=words):
            session.next_round(session.begin("mine", 4), prompts, pictures)


def test_the_last_sheets(tmp_path):
    with pytest.raises(SessionError, match="11 choices, expected 12"):
        session.compare_round(ran(11), PROMPTS)
    now, seen = ran(12), set()
    for sheet in now.rounds:
        seen |= set(sheet.seeds)
    assert verdict.compared(now) == ""
    found = tuple(round(float(x), 4) for x in taste.best(now.belief()))
    for number in (1, 2, 3):
        now = session.compare_round(now, PROMPTS)
        sheet = now.open
        assert (sheet.kind, sheet.steps) == (COMPARE, (4, 4, 5))
        assert sheet.shown == (found, shapes.off(4), shapes.off(4))
        assert not seen & set(sheet.seeds)
        seen |= set(sheet.seeds)
        now = session.answered(now, 0, sheet.order.index(FOUND) + 1)
        assert f"the found one in {number} of {number} sheet" in verdict.compared(now)
    assert len(now.answers()) == 12  # they teach nothing
    for place, words in ((OFF, "could not tell it from off"), (MORE, "could not tell it from off")):
        other = session.compare_round(now, PROMPTS)
        other = session.answered(other, 0, other.open.order.index(place) + 1)
        assert words in verdict.compared(other)
    now = ran(12)
    for _ in range(3):
        now = session.compare_round(now, PROMPTS)
        now = session.answered(now, 0, now.open.order.index(MORE) + 1)
    assert "one more step looks better" in verdict.compared(now)


def test_a_last_sheet_without_an_answer_makes_room():
    now = session.compare_round(ran(12), PROMPTS)
    on = session.next_round(now, PROMPTS)
    assert [sheet.kind for sheet in on.rounds] == ["choose"] * 13
    assert not set(on.open.seeds) & set(now.open.seeds)
