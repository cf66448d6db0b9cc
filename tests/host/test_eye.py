"""Tune by Eye in this process: what Try hands out, what Choose counts, and what is kept."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from sampling import sample

import folder_paths

SETTINGS = {
    "session": "mine",
    "prompts": "a red circle\na blue star",
    "steps": 4,
    "mode": "conditioning",
    "pictures": 2,
    "first_seed": 7,
}
OFF = (0.0, 0.0, 0.0)


@pytest.fixture
def eye(pack, tmp_path, monkeypatch):
    """The node file, with a user folder and a models/tpm of its own."""
    pack("nodes").register_tpm_folder()
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    own = ([str(tmp_path / "tpm"), *folder_paths.get_folder_paths("tpm")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", own)
    pack("nodes.eye_store").generations.clear()
    return pack("nodes.eye")


@pytest.fixture
def store(pack, eye):
    return pack("nodes.eye_store")


@pytest.fixture
def routes(pack, eye):
    return pack("nodes.eye_routes")


def try_out(eye, **changed):
    """(deviations, prompts, seeds, steps, tuning)."""
    return eye.AsyncTimestepTry.execute(**{**SETTINGS, **changed}).result


def mark(eye, **changed) -> str:
    return eye.AsyncTimestepTry.fingerprint_inputs(**{**SETTINGS, **changed})


def watched_run(outputs, steps: int = 4, family: str = "tiny") -> None:
    """As if a sampler of a flow model had run every entry: its first decision of each step."""
    policies = inspect.getmodule(type(outputs[0][0])).State
    grid = tuple(1 - k / steps for k in range(steps + 1))
    for policy, own in zip(outputs[0], outputs[3], strict=True):
        nodes = grid if own == 4 else tuple(1 - k / own for k in range(own + 1))
        for k in range(len(nodes) - 1):
            policy.decide(
                policies(
                    k, len(nodes) - 1, nodes[k], k == len(nodes) - 2, 1, "cpu", family, float,
                    x=torch.zeros(1, 16, 8, 8), grid=nodes,
                )
            )  # fmt: skip


def pictures(outputs, batch: int = 1, size: int = 8) -> list[torch.Tensor]:
    """One an entry, each of another grey."""
    count = len(outputs[0])
    return [torch.full((batch, size, size, 3), i / count) for i in range(count)]


def choose(eye, outputs, images=None, **more):
    """What the node shows, and its outputs."""
    images = pictures(outputs) if images is None else images
    node = eye.AsyncTimestepChoose.execute([outputs[4]], images, **more)
    return node.ui["tune_by_eye"][0], node.result


def answer(routes, number: int, choice: int, session: str = "mine") -> dict:
    return routes.answer({"session": session, "round": number, "choice": choice})


def through(eye, routes, rounds: int, like=max) -> None:
    """So many sheets, of which the column with the most deviation is chosen, or by `like`."""
    for number in range(1, rounds + 1):
        outputs = try_out(eye)
        watched_run(outputs)
        choose(eye, outputs)
        amounts = [sum(d) for d in deviations(outputs[0])[:4]]
        answer(routes, number, amounts.index(like(amounts)) + 1)


def nearest_to_off(amounts: list[float]) -> float:
    return min(amounts, key=abs)


def deviations(policies, steps: int = 4) -> list[list[float]]:
    """D of each policy at the grid points 1 ... K-1 of an even flow grid."""
    state = inspect.getmodule(type(policies[0])).State
    grid = tuple(1 - k / steps for k in range(steps + 1))
    return [
        [
            float(policy.decide(state(k, steps, grid[k], False, 1, "cpu", "tiny", float, grid=grid))
                  .deviation)
            for k in range(1, steps)
        ]
        for policy in policies
    ]  # fmt: skip


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


def test_start_over_keeps_the_old_file_and_takes_nothing_from_the_cache(eye, routes, store):
    through(eye, routes, 2)
    old, before = store.path_of("mine").read_bytes(), mark(eye)
    said = routes.start_over({"session": "mine", "round": 2})["said"]
    folder = store.path_of("mine").parent
    (kept,) = [p for p in folder.iterdir() if p.read_bytes() == old]
    assert kept.name in said and not store.path_of("mine").exists()
    fresh = mark(eye)
    assert fresh != before and try_out(eye)[4].round == 1
    assert mark(eye) == fresh
    with pytest.raises(ValueError, match="round is 5"):
        answer(routes, 5, 1)


def demo_family(pack) -> tuple:
    """(model, positive, negative, latent) of the embedded model, for `sample`."""
    demo = pack("nodes.demo")
    clip = demo.load_demo_clip()
    texts = [clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in ("a red circle", "")]
    return demo.load_demo_model(), *texts, torch.zeros(1, 16, 8, 8)


def test_a_save_is_what_was_looked_at_and_overwrites_nothing(eye, routes, pack):
    """On the real model: the saved file samples what the column of its numbers did, to the bit."""
    hook, family = pack("nodes.run.hook"), demo_family(pack)
    outputs = try_out(eye, pictures=1, prompts="")
    drawn = [sample(family, hook.attach(family[0], p)[0], steps=4)[0] for p in outputs[0]]
    choose(eye, outputs)
    with pytest.raises(ValueError, match="has no choice yet"):
        routes.save({"session": "mine", "round": 1, "name": "found"})
    for _ in range(2):
        answer(routes, 1, 2)
    status = routes.save({"session": "mine", "round": 1, "name": "found"})
    assert "Saved as found.safetensors" in status["said"]
    with pytest.raises(ValueError, match="already, and nothing is overwritten"):
        routes.save({"session": "mine", "round": 1, "name": "found.safetensors"})
    loaded = eye_file(pack, "found.safetensors")
    assert loaded.meta.source == "eye" and loaded.meta.latent_channels == drawn[0].shape[1]
    _, (_, _, own) = choose(eye, outputs)
    assert own.deviation == loaded.deviation and own.times == loaded.times
    saved = sample(family, hook.attach(family[0], loaded)[0], steps=4)[0]
    plain = pack("eye.shapes").schedule
    sheet = pack("nodes.eye_store").load("mine").rounds[0]
    for column, place in enumerate(sheet.order):
        again = plain(sheet.shown[place], loaded.times)
        same = sample(family, hook.attach(family[0], again)[0], steps=4)[0]
        assert torch.equal(same, drawn[column])
        assert torch.equal(saved, drawn[column]) == (again.deviation == loaded.deviation)


def eye_file(pack, name: str):
    return pack("nodes.deviation").AsyncTimestepTPMLoader.execute(name).result[0]


def test_a_graph_can_save_too(eye, routes, pack):
    through(eye, routes, 1)
    outputs = try_out(eye)
    watched_run(outputs)
    shown, _ = choose(eye, outputs, file_name=["by graph"])
    assert "Saved as by graph.safetensors" in shown["status"]["said"]
    shown, _ = choose(eye, outputs, file_name=["by graph"])
    assert "nothing is overwritten" in shown["status"]["said"]
    assert eye_file(pack, "by graph.safetensors").steps == 4


def test_the_last_sheets_compare_on_new_seeds_with_one_more_step(eye, routes, store, pack):
    through(eye, routes, 12)
    seeds = {seed for r in store.load("mine").rounds for seed in r.seeds}
    status = routes.compare({"session": "mine", "round": 12})
    assert "press Run" in status["said"]
    for place in range(3):
        outputs = try_out(eye)
        assert sorted(outputs[3]) == [4, 4, 4, 4, 5, 5] and not seeds & set(outputs[2])
        seeds |= set(outputs[2])
        watched_run(outputs)
        shown, _ = choose(eye, outputs)
        assert shown["kind"] == "compare" and shown["letters"] == ["A", "B", "C"]
        assert shown["status"]["place"] == f"{place + 1} of 3"
        found = store.load("mine").rounds[-1].order.index(0) + 1
        status = answer(routes, shown["round"], found)
    assert "you chose the found one in 3 of 3 sheets" in status["line"]
    assert choose_kind(eye) == "choose"  # and then the search goes on


def test_off_itself_is_not_compared_with_off(eye, routes):
    """Whoever always likes off best has found it."""
    through(eye, routes, 12, nearest_to_off)
    for ask in (
        lambda: routes.compare({"session": "mine", "round": 12}),
        lambda: try_out(eye, compare=True),
    ):
        with pytest.raises(ValueError, match="would pick off now, or next to it"):
            ask()
    assert choose_kind(eye) == "choose"


def choose_kind(eye) -> str:
    outputs = try_out(eye)
    watched_run(outputs)
    return choose(eye, outputs)[0]["kind"]


def test_one_more_step_that_was_not_made_is_said(eye, routes):
    through(eye, routes, 12)
    outputs = try_out(eye, compare=True)
    watched_run([*outputs[:3], [4] * len(outputs[3])])
    with pytest.raises(ValueError, match="needs pictures with 5 steps too"):
        choose(eye, outputs)


def test_the_session_is_one_small_json_file_in_the_user_folder(eye, routes, tmp_path):
    through(eye, routes, 3)
    (path,) = (tmp_path / "default" / "async_timestep").iterdir()
    data = json.loads(path.read_text())
    assert path.name == "mine.json" and len(data["rounds"]) == 3
    assert data["times"] == [1.0, 0.75, 0.5, 0.25, 0.0] and data["model_family"] == "tiny"


def test_what_the_graph_says_of_itself_is_in_the_file(pack):
    made_by = pack("nodes.eye_made").made_by
    graph = {
        "1": {"inputs": {"ckpt_name": "good.safetensors"}},
        "2": {
            "inputs": {"model": ["1", 0], "cfg": 5, "sampler_name": "euler", "scheduler": "beta"}
        },
        "3": {"inputs": {"latent": ["2", 0], "cfg": ["2", 0], "sampler_name": "heun"}},
        "4": {"inputs": {"images": ["3", 0]}},
        "5": {"inputs": {"cfg": 99.0}},
    }
    wanted = {"sampler": "euler", "scheduler": "beta", "guidance": 5.0}
    assert made_by(graph, "4") == {**wanted, "base_model": "good.safetensors"}
    assert made_by({"4": {"inputs": {"images": ["4", 0]}}}, "4") == {}
