"""Tune by Eye through a real server: lists of schedules, prompts and seeds through stock nodes."""

from __future__ import annotations

import io
import json
import re
import time

import pytest
from node_texts import node_texts
from PIL import Image

from async_timestep.harness import graphs
from async_timestep.harness.comfy_server import error_message
from async_timestep.harness.graphs_eye import by_eye, small

OFF = [0.0, 0.0]  # the numbers of three steps


def shown(server, graph: dict) -> dict:
    return server.run(graph)["choose"]["tune_by_eye"][0]


def kept(server, session: str) -> dict:
    file = server.base / "user" / "default" / "async_timestep" / f"{session}.json"
    return json.loads(file.read_text())


def pixels(server, entry: dict) -> bytes:
    """Without the graph, which the server writes into some files."""
    return Image.open(io.BytesIO(server.fetch(entry))).tobytes()


def ask(server, what: str, **body) -> dict:
    return server.post(f"/async_timestep/eye/{what}", body)


def stock_pictures(server, prompt: str, seed: int, batch: int = 1) -> list[bytes]:
    graph = small(batch, prompt=prompt, seed=seed)
    return [pixels(server, entry) for entry in server.run(graph)["preview"]["images"]]


@pytest.mark.parametrize("sampler, batch", [("ksampler", 1), ("patch", 2)])
def test_the_lists_keep_their_order_and_off_is_the_stock_picture(server, sampler, batch):
    """Of a batch every image is a row."""
    name = f"order {sampler}"
    sheet = shown(server, by_eye(name, sampler, batch))
    (own,) = kept(server, name)["rounds"]
    off = own["order"].index(own["shown"].index(OFF))
    pictures = [[pixels(server, entry) for entry in row] for row in sheet["pictures"]]
    assert len(pictures) == 2 * batch
    stock = [
        picture
        for prompt, seed in zip(own["prompts"], own["seeds"], strict=True)
        for picture in stock_pictures(server, prompt, seed, batch)
    ]
    for row, wanted in zip(pictures, stock, strict=True):
        assert [picture == wanted for picture in row] == [k == off for k in range(4)]
        assert len(set(row)) == 4


def test_nothing_is_made_again_until_there_is_an_answer(server):
    first = shown(server, by_eye("cached"))
    assert shown(server, by_eye("cached"))["pictures"] == first["pictures"]  # the same files
    assert ask(server, "answer", session="cached", round=1, choice=2)["answer"] == 2
    second = shown(server, by_eye("cached"))
    assert second["round"] == 2 and second["pictures"] != first["pictures"]
    by_number = [shown(server, by_eye("cached", choice=1, round=2)) for _ in range(3)]
    assert [sheet["round"] for sheet in by_number] == [3] * 3
    assert by_number[0]["pictures"] == by_number[2]["pictures"]
    assert [r["answer"] for r in kept(server, "cached")["rounds"]] == [2, 1, 0]


def test_from_choices_to_a_file_that_samples(server):
    shown(server, by_eye("saved"))
    ask(server, "answer", session="saved", round=1, choice=3)
    said = ask(server, "save", session="saved", round=1, name="by eye")["said"]
    assert "Saved as by eye.safetensors" in said
    again = ask(server, "save", session="saved", round=1, name="by eye")["error"]
    assert "nothing is overwritten" in again
    graph = graphs.model_patch(batch=1)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name="by eye.safetensors")
    graph["patch"]["inputs"]["deviation"] = ["tpm", 0]
    assert "schedule by eye" in server.run(graph)["plot"]["text"][0]
    (server.base / "models" / "tpm" / "by eye.safetensors").unlink()
    plot = server.fetch_path("/async_timestep/eye/plot?session=saved")
    assert Image.open(io.BytesIO(plot)).size[0] >= 300


def test_the_sampler_does_not_say_which_column_is_which(server):
    """Else its line would be that of the last column."""
    found = node_texts(server, by_eye("secret", pictures=1))["sampler"]
    assert "is not said, so that you choose by eye" in found and "detail" not in found


def test_scores_let_the_queue_search_alone(server):
    graph = by_eye("scores", pictures=1)
    graph["meter"] = graphs.node("AsyncTimestepNoiseMeter", image=["decode", 0])
    graph["show"] = graphs.node("PreviewAny", source=["meter", 0])
    graph["choose"]["inputs"]["score"] = ["meter", 0]
    best = []
    for _ in range(3):
        outputs = server.run(graph)
        noise = [float(text) for text in outputs["show"]["text"]]
        best.append(noise.index(max(noise)) + 1)
    assert [r["answer"] for r in kept(server, "scores")["rounds"]] == best


def test_a_sheet_that_is_interrupted_counts_nothing(server):
    graph = by_eye("interrupted", steps=1000)
    queued = server.queue(graph)
    while not re.search(r" [1-9]\d*/1000 \[", server.log.read_text()):  # its bar: it is sampling
        assert not server.get(f"/history/{queued}"), "it ended before it was interrupted"
        time.sleep(0.05)
    server.post("/interrupt", {})
    assert error_message(server.wait(queued)) == "interrupted"
    data = kept(server, "interrupted")
    assert [r["answer"] for r in data["rounds"]] == [0] and data["times"] == []


def test_what_is_wrong_is_one_sentence(server):
    graph = by_eye("wrong")
    graph["sampler"]["inputs"]["deviation_scale"] = 0.0
    del graph["sampler"]["inputs"]["deviation"]
    with pytest.raises(RuntimeError, match="in which no schedule was used"):
        server.run(graph)
    for what, body, sentence in (
        ("answer", {"session": "wrong", "round": "x", "choice": 1}, "round is 'x'"),
        ("answer", {"session": "wrong", "round": 1, "choice": 9}, "choice is 9"),
        ("answer", {"session": "../wrong", "round": 1, "choice": 1}, "expected a name"),
        ("answer", {"session": "nobody", "round": 1, "choice": 1}, "is not there"),
        ("save", {"session": "wrong", "round": 1, "name": "a"}, "has no choice yet"),
        ("compare", {"session": "wrong", "round": 1}, "expected 12 or more"),
        ("start_over", {}, "session is None"),
    ):
        said = ask(server, what, **body)["error"]
        assert sentence in said and "\n" not in said and len(said) <= 300
    assert [r["answer"] for r in kept(server, "wrong")["rounds"]] == [0]
