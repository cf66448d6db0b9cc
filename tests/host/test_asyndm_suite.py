"""The AsynDM suite on the real server with the embedded model: files, pairing, what it goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from async_timestep.bench import asyndm_suite
from async_timestep.bench.parts import asyndm_graphs, asyndm_scores

ROOT = Path(__file__).parents[2]

TEXTS = {
    "a red circle above a blue star on a dark rough background": [1, 5],
    "two green squares on a light plain background": [2],
}
ASYNDM = set(asyndm_graphs.ASYNDM_NODES)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Two prompts of our own in the layout of the official repository."""
    folder = tmp_path_factory.mktemp("asyndm")
    (folder / "config/prompt").mkdir(parents=True)
    items = {"item_idx": TEXTS, "item_k": {t: [0.3] * len(i) for t, i in TEXTS.items()}}
    (folder / "config/prompt/scenes.json").write_text(json.dumps(list(TEXTS)))
    (folder / "config/prompt/scenes_item.json").write_text(json.dumps(items))
    return folder


@pytest.fixture(scope="module")
def arguments(checkout, tmp_path_factory) -> list[str]:
    out = tmp_path_factory.mktemp("suite") / "out"
    options = "--checkpoint demo --sets scenes --images 2 --steps 4 --cfg 3 --scheduler simple"
    methods = "--methods cfgpp asyndm seg --device cpu"
    return ["--asyndm", str(checkout), "--out", str(out), *options.split(), *methods.split()]


@pytest.fixture(scope="module")
def result(server, arguments) -> tuple[Path, list[dict]]:
    args = asyndm_suite.parse(arguments)
    asyndm_suite.run(args, server)
    with open(args.out / "per_image.csv", newline="") as file:
        return args.out, list(csv.DictReader(file))


def values(rows: list[dict], method: str, name: str = "scene") -> np.ndarray:
    own = [row for row in rows if row["method"] == method]
    keys = [(row["prompt"], int(row["seed"])) for row in own]
    assert keys == [(text, seed) for text in TEXTS for seed in (1234, 1235)]
    return np.array([float(row[name]) for row in own])


def test_every_image_is_there_with_its_graph_and_scores(result):
    out, rows = result
    assert {row["method"] for row in rows} >= {"plain", "cfgpp"}
    for row in rows:
        with Image.open(out / row["image"]) as image:
            assert image.size == (128, 128)
            graph = json.loads(image.text["prompt"])
        assert graph["sampler"]["inputs"]["seed"] == int(row["seed"])
        assert graph["positive"]["inputs"]["text"] == row["prompt"]
        assert float(row["seconds"]) > 0 and -1 < float(row["scene"]) <= 3
    assert values(rows, "plain").mean() > 1
    assert not np.array_equal(values(rows, "plain"), values(rows, "cfgpp"))
    with Image.open(out / "grid_scenes.png") as grid:
        assert grid.width > 256 and grid.height > 256


def test_differences_are_paired(result):
    out, rows = result
    change = values(rows, "cfgpp") - values(rows, "plain")
    line = next(s for s in (out / "table.md").read_text().splitlines() if s.startswith("| cfgpp"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    mean, error = (float(part) for part in cells[2].split("±"))
    assert mean == pytest.approx(change.mean(), abs=1e-3)
    assert error == pytest.approx(change.std(ddof=1) / len(change) ** 0.5, abs=1e-3)
    assert len(cells) == 5


def test_missing_nodes_are_left_out_by_name(server, result):
    out, rows = result
    table = (out / "table.md").read_text()
    lines = {line.split(":")[0]: line for line in table.splitlines() if line.startswith("- ")}
    assert "no node SmoothedEnergyGuidanceAdvanced (pamparamm/sd-p" in lines["- seg"]
    if ASYNDM <= set(server.get("/object_info")):
        assert "asyndm" in {row["method"] for row in rows} or "failed" in lines["- asyndm"]
    else:
        assert "no node AsynDMRegionMask and AsynDMKSampler" in lines["- asyndm"]


def test_a_second_run_makes_nothing_and_other_settings_are_refused(server, result, arguments):
    out, rows = result
    before = {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")}
    scores = (out / "scores.csv").stat().st_mtime_ns
    asyndm_suite.run(asyndm_suite.parse(arguments), server)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")} == before
    assert (out / "scores.csv").stat().st_mtime_ns == scores
    gone = out / next(row["image"] for row in rows if row["method"] == "cfgpp")
    gone.unlink()  # as after an interruption
    asyndm_suite.run(asyndm_suite.parse(arguments), server)
    assert {p for p in before if p.stat().st_mtime_ns != before[p]} == {gone}
    with pytest.raises(SystemExit, match="other settings than this run"):
        asyndm_suite.run(asyndm_suite.parse([*arguments, "--steps", "5"]), server)


def test_graphs_of_absent_nodes_have_their_inputs(checkout):
    prompt = asyndm_graphs.read_set(checkout, "scenes")[0]
    setting = asyndm_graphs.Setting("sd.safetensors", 50, 5.0, "ddim", "ddim_uniform", 512, 0.4)
    way = asyndm_graphs.METHODS["asyndm"][0]
    graph = way.graph(prompt, setting, 7)
    assert prompt.words == ("red", "blue") and graph["region"]["inputs"]["words"] == "red, blue"
    assert (
        graph["sampler"]["inputs"] | {"strength": 0.3, "eta": 0.0, "seed": 7}
        == (graph["sampler"]["inputs"])
    )
    plain = asyndm_graphs.METHODS["plain"][0].graph(prompt, setting, 7)["sampler"]["inputs"]
    assert plain.items() <= graph["sampler"]["inputs"].items()
    zigzag = asyndm_graphs.choose("zsampling", {"ZSampler": {"input": {"required": {}}}})
    assert zigzag.graph(prompt, setting, 7)["sampler"]["class_type"] == "ZSampler"


def test_words_are_counted_without_punctuation():
    words = asyndm_graphs.split_words("A cross-section view of a dog's hat, and a brain.")
    assert words[6] == "dog's" and words[7] == "hat" and words[-1] == "brain"


def test_bert_f1_and_grades():
    a, b = torch.eye(3)[:2], torch.eye(3)[[1, 2]]
    both = torch.tensor([True, True])
    assert asyndm_scores.bert_f1((a, both), (a, both)) == 1.0
    assert asyndm_scores.bert_f1((a, both), (b, both)) == 0.5
    assert asyndm_scores.read_grade("8.5 of 10") == 8.5
    with pytest.raises(asyndm_scores.RewardError, match="answered 'no idea'"):
        asyndm_scores.read_grade("no idea")


def test_a_wrong_checkout_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match="--asyndm takes a checkout of hu-zijing/AsynDM"):
        asyndm_graphs.read_set(tmp_path, "animal")
