"""What Tune by Eye keeps: the session, the schedule that is saved, and the last sheets."""

from __future__ import annotations

import json

import pytest
import torch
from eye_sheets import answer, choose, mark, nearest_to_off, through, try_out, watched_run
from sampling import sample


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
