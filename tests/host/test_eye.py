"""Tune by Eye in this process: what Try hands out, and what Choose counts."""

from __future__ import annotations

import pytest
import torch
from eye_sheets import answer, choose, deviations, mark, pictures, through, try_out, watched_run


def test_a_sheet_has_every_schedule_in_every_row(eye, store):
    policies, prompts, seeds, steps, tuning = try_out(eye)
    assert prompts == ["a red circle"] * 4 + ["a blue star"] * 4
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1 and seeds[0] != seeds[4]
    assert steps == [4] * 8
    told = deviations(policies)
    assert told[:4] == told[4:] and len({tuple(d) for d in told[:4]}) == 4
    assert [0.0] * 3 in told[:4]  # off is among the first ones
    sheet = store.load("mine").rounds[0]
    wanted = [list(deviations_of(sheet.shown[place])) for place in sheet.order]
    assert torch.allclose(torch.tensor(told[:4]), torch.tensor(wanted))
    assert tuning.round == 1


def deviations_of(numbers) -> tuple[float, float, float]:
    """Level and slope of the first two of three grid points, and the end."""
    level, slope, end = numbers
    return level + slope, level - slope, end


def test_nothing_answered_is_the_same_sheet_and_the_same_mark(eye):
    before = mark(eye)
    first = try_out(eye)
    assert mark(eye) == before
    again = try_out(eye)
    assert first[1:4] == again[1:4] and deviations(first[0]) == deviations(again[0])


def test_a_name_over_a_wire_is_never_taken_from_the_cache(eye):
    assert mark(eye, session=None) != mark(eye, session=None)


def test_a_sheet_of_a_session_that_was_started_over_is_refused(eye, routes):
    through(eye, routes, 2)
    old = try_out(eye)
    routes.start_over({"session": "mine", "round": 3})
    try_out(eye)
    with pytest.raises(ValueError, match="it was started over; run the graph again"):
        choose(eye, old)


def test_an_answer_is_the_next_sheet(eye, routes):
    first, before = try_out(eye), mark(eye)
    answer(routes, 1, 2)
    assert mark(eye) != before
    second = try_out(eye)
    assert second[4].round == 2 and second[2] != first[2]


def test_an_answer_can_be_taken_back_until_the_next_sheet(eye, routes, store):
    try_out(eye)
    for choice in (1, 3, 3, 6):
        assert answer(routes, 1, choice)["answer"] == choice
    assert [r.answer for r in store.load("mine").rounds] == [6]
    try_out(eye)
    with pytest.raises(ValueError, match="has its answer already"):
        answer(routes, 1, 2)
    assert answer(routes, 1, 6)["count"] == 1  # the other tab, a moment later


def test_an_answer_by_number_counts_once_however_often_it_is_queued(eye, store):
    try_out(eye)
    marks = {mark(eye, choice=3, round=1)}
    for _ in range(3):
        outputs = try_out(eye, choice=3, round=1)
        assert outputs[4].round == 2
        marks.add(mark(eye, choice=3, round=1))
    assert [r.answer for r in store.load("mine").rounds] == [3, 0]
    assert len(marks) == 1  # the host takes it from its cache


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"steps": 4.0}, "steps is 4.0, expected a whole number"),
        ({"pictures": None}, "pictures is None"),
        ({"pictures": 9}, "pictures is 9"),
        ({"choice": 3}, "choice is 3 and round is 0, expected the number of the sheet"),
        ({"choice": 3, "round": 9}, "round is 9"),
        ({"steps": 6}, "was begun with steps 4, and steps is 6 now"),
        ({"mode": "follow_time"}, "was begun with mode conditioning"),
        ({"session": "../mine"}, "expected a name of letters"),
        ({"session": "con"}, "expected a name of letters"),
        ({"session": ""}, "expected a name of letters"),
        ({"compare": True}, "has 0 choices, expected 12 or more"),
    ],
)
def test_what_cannot_be_is_one_sentence(eye, store, changed, sentence):
    try_out(eye)
    before = store.path_of("mine").read_bytes()
    with pytest.raises(ValueError, match=sentence) as caught:
        try_out(eye, **changed)
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 300
    assert store.path_of("mine").read_bytes() == before
    assert isinstance(mark(eye, **changed), str)  # the host asks it first


@pytest.mark.parametrize("count", [1, 2, 50])
def test_prompts_come_in_turn(eye, routes, count):
    texts = [f"a red circle {i}" for i in range(count)]
    seen, seeds = [], []
    for number in range(1, 14):
        outputs = try_out(eye, prompts="\n\n".join(texts) + "\n", pictures=4)
        seen += outputs[1][::4]
        seeds += outputs[2][::4]
        answer(routes, number, 1)
    assert seen == [texts[i % count] for i in range(len(seen))]
    assert len(set(seeds)) == len(seeds)


def test_no_prompt_at_all_is_an_empty_one(eye):
    assert set(try_out(eye, prompts=" \n ")[1]) == {""}


def test_two_steps_leave_one_number_and_it_is_said(eye):
    outputs = try_out(eye, steps=2)
    watched_run(outputs, steps=2)
    shown, (_, text, _) = choose(eye, outputs)
    assert "2 steps leave one number to tune" in text and text == shown["status"]["line"]


def test_a_batch_gives_more_rows_and_a_video_not_too_many(eye):
    outputs = try_out(eye)
    watched_run(outputs)
    shown, (sheet, _, _) = choose(eye, outputs, pictures(outputs, batch=3))
    assert len(shown["pictures"]) == 6 and all(len(row) == 4 for row in shown["pictures"])
    assert shown["prompts"] == ["a red circle"] * 3 + ["a blue star"] * 3
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3
    shown, _ = choose(eye, outputs, pictures(outputs, batch=81))
    assert len(shown["pictures"]) == 16


def test_pictures_that_are_not_the_sheets_are_refused(eye):
    outputs = try_out(eye)
    own = pictures(outputs)
    for images, sentence in (
        (own[:5], "got 5 pictures, expected 8"),
        ([*own[:-1], torch.zeros(1, 8, 16, 3)], "of the sizes 16 x 8 and 8 x 8"),
        ([*own[:-1], torch.zeros(8, 8, 3)], "expected pictures"),
        (own, "in which no schedule was used"),
    ):
        with pytest.raises(ValueError, match=sentence):
            choose(eye, outputs, images)


def test_another_model_is_refused_where_it_is_seen(eye):
    outputs = try_out(eye)
    watched_run(outputs)
    choose(eye, outputs)
    with pytest.raises(ValueError, match="found the model family sdxl, expected tiny"):
        watched_run(try_out(eye), family="sdxl")


def test_scores_choose_alone(eye, store):
    for number, best in enumerate((2, 0, 3), 1):
        outputs = try_out(eye)
        watched_run(outputs)
        scores = [0.1 * row + (column == best) for row in range(2) for column in range(4)]
        shown, _ = choose(eye, outputs, score=scores)
        assert shown["status"]["answer"] == best + 1 and shown["round"] == number
        choose(eye, outputs, score=scores)  # the same run again
    outputs = try_out(eye)
    choose(eye, outputs, score=[0.5] * 8)
    assert [r.answer for r in store.load("mine").rounds] == [3, 1, 4, 6]
    for wrong in ([1.0] * 7, [float("nan")] * 8, [], ["good"] * 8):
        with pytest.raises(ValueError, match="expected 8 finite numbers"):
            choose(eye, try_out(eye), score=wrong)
