"""evaluate.py --suite asyndm on the embedded model: files, pairing, what a rerun goes on from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from async_timestep.harness.tiny_models import write_checkpoint
from async_timestep.training.backbones.comfy.pictures import Pictures
from async_timestep.training.rewards import RewardError
from async_timestep.training.run.backbone_config import BackboneConfig
from async_timestep.training.suite import graphs, prompts, scores
from async_timestep.training.suite.command import main

TEXTS = {
    "a red circle above a blue star on a dark rough background": [1, 5],
    "two green squares on a light plain background": [2],
}
METHODS = ("plain", "cfgpp", "asyndm")
OPTIONS = (
    "--suite asyndm --preset tiny --threads 1 --images 2 --seed 1234 --methods cfgpp asyndm seg"
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Two prompts of our own, and one with a cat, in the layout of the official repository."""
    folder = tmp_path_factory.mktemp("asyndm")
    (folder / "config/prompt").mkdir(parents=True)
    for name, texts in {"scenes": TEXTS, "animal": {"a cat riding a bike": [1, 4]}}.items():
        items = {"item_idx": texts, "item_k": {t: [0.3] * len(i) for t, i in texts.items()}}
        (folder / f"config/prompt/{name}.json").write_text(json.dumps(list(texts)))
        (folder / f"config/prompt/{name}_item.json").write_text(json.dumps(items))
    return folder


@pytest.fixture(scope="module")
def arguments(checkout) -> list[str]:
    return [*OPTIONS.split(), "--asyndm", str(checkout), "--sets", "scenes"]


@pytest.fixture(scope="module")
def out(arguments, pack, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suite") / "out"
    assert main([*arguments, "--out", str(folder)]) == 0
    return folder


def rows_of(out: Path) -> list[dict]:
    with open(out / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))


def values(rows: list[dict], method: str, name: str = "scene") -> np.ndarray:
    own = [row for row in rows if row["method"] == method]
    keys = [(row["prompt"], int(row["seed"])) for row in own]
    assert keys == [(text, seed) for text in TEXTS for seed in (1234, 1235)]
    return np.array([float(row[name]) for row in own])


def pixels(out: Path) -> dict[str, bytes]:
    return {
        p.relative_to(out).as_posix(): Image.open(p).tobytes() for p in out.rglob("images/**/*.png")
    }


def test_every_image_is_there_with_its_graph_and_scores(out):
    rows = rows_of(out)
    assert {row["method"] for row in rows} == set(METHODS)
    for row in rows:
        with Image.open(out / row["image"]) as image:
            assert image.size == (128, 128)
            graph = json.loads(image.text["prompt"])
        assert graph["sampler"]["inputs"]["seed"] == int(row["seed"])
        assert graph["positive"]["inputs"]["text"] == row["prompt"]
        assert float(row["seconds"]) > 0 and -1 < float(row["scene"]) <= 3
        assert 0 < float(row["noise"]) < 0.1
    assert values(rows, "plain").mean() > 1
    for method in ("cfgpp", "asyndm"):
        assert not np.array_equal(values(rows, "plain"), values(rows, method))
    with Image.open(out / "grid_scenes.png") as grid:
        assert grid.width > 256 and grid.height > 256


def test_the_graph_in_a_picture_is_what_a_server_makes_of_it(out, server):
    """So that what stands in a picture can be opened, and the executor here is no other ComfyUI."""
    for method in ("plain", "asyndm"):
        path = out / f"images/scenes/{method}/00_1234.png"
        with Image.open(path) as image:
            graph, own = json.loads(image.text["prompt"]), np.asarray(image).astype(int)
        entry = server.run(graph)["preview"]["images"][0]
        shown = server.fetch(entry)
        other = np.asarray(Image.open(io.BytesIO(shown)).convert("RGB")).astype(int)
        assert abs(own - other).max() <= 1  # the node cuts where we round


def test_differences_are_paired(out):
    rows = rows_of(out)
    change = values(rows, "cfgpp") - values(rows, "plain")
    table = (out / "table.md").read_text()
    line = next(s for s in table.splitlines() if s.startswith("| cfgpp"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    mean, error = (float(part) for part in cells[2].split("±"))
    assert mean == pytest.approx(change.mean(), abs=1e-3)
    assert error == pytest.approx(change.std(ddof=1) / len(change) ** 0.5, abs=1e-3)
    assert len(cells) == 7
    assert "no node SmoothedEnergyGuidanceAdvanced (pamparamm/sd-p" in table
    assert "- asyndm: nodes of this pack" in table


def test_a_second_run_makes_nothing_and_other_settings_are_refused(out, arguments, capsys):
    same = [*arguments, "--out", str(out)]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")}
    kept = (out / "scores.csv").stat().st_mtime_ns
    assert main(same) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")} == before
    assert (out / "scores.csv").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert main([*same, "--steps", "5"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "was made with other settings than this run has" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("images/**/*.png")} == before


def test_a_picture_that_was_made_again_is_scored_again(out, arguments, tmp_path):
    """A score that is kept is of the very file, not of its name."""
    again = shutil.copytree(out, tmp_path / "again")
    before = (again / "scores.csv").read_text()
    changed = again / "images/scenes/cfgpp/00_1234.png"
    shutil.copy(again / "images/scenes/plain/00_1234.png", changed)
    with Image.open(changed) as image, Image.open(out / changed.relative_to(again)) as other:
        notes = PngImagePlugin.PngInfo()
        for name, text in other.text.items():
            notes.add_text(name, text)
        image.save(changed, pnginfo=notes)
    assert main([*arguments, "--out", str(again)]) == 0
    found, plain = values(rows_of(again), "cfgpp"), values(rows_of(again), "plain")
    assert found[0] == plain[0] and found[0] != values(rows_of(out), "cfgpp")[0]
    assert np.array_equal(found[1:], values(rows_of(out), "cfgpp")[1:])
    assert (again / "scores.csv").read_text().startswith(before)


def test_an_interrupted_run_goes_on(out, arguments, tmp_path, monkeypatch, capsys):
    """To the same pictures and scores; what it had made is not made again."""
    same, made, make = [*arguments, "--out", str(tmp_path)], [], Pictures.make

    def interrupted(self, graph, link, name):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(name)
        return make(self, graph, link, name)

    monkeypatch.setattr(Pictures, "make", interrupted)
    assert main(same) == 130
    said = capsys.readouterr().err
    assert "images 0 of 12" in said
    assert said.splitlines()[-1] == (
        "evaluate.py: interrupted; the same command goes on from here."
    )
    assert len(pixels(tmp_path)) == 5 and not (tmp_path / "table.md").exists()
    made.clear()
    monkeypatch.setattr(Pictures, "make", lambda *args: made.append(args[-1]) or make(*args))
    assert main(same) == 0
    assert "images 5 of 12" in capsys.readouterr().err and len(made) == 7
    assert pixels(tmp_path) == pixels(out)
    for method in METHODS:
        assert np.array_equal(values(rows_of(tmp_path), method), values(rows_of(out), method))


def test_a_word_that_the_model_does_not_know_is_one_sentence(arguments, tmp_path, capsys):
    """Before anything is sampled."""
    wrong = [*arguments, "animal", "--out", str(tmp_path / "out")]
    assert main(wrong) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "evaluate.py: Prompt 1 of animal, 'a cat riding a bike', cannot be used with this model: "
        "The embedded demo model does not know the word 'cat'; it knows: "
    )
    assert said.endswith("; take it out, or give other --sets.") and said.count(". ") == 0
    assert not (tmp_path / "out").exists()


def test_a_word_that_is_not_in_its_prompt_is_one_sentence(tmp_path, capsys, pack):
    """A mark inside a word; without the method that reads the words it does not matter."""
    (tmp_path / "mine.txt").write_text("a red ci*rcle* on a dark plain background\n")
    own = "--suite asyndm --preset tiny --images 1 --methods".split()
    rest = ["--sets", str(tmp_path / "mine.txt"), "--out", str(tmp_path / "out")]
    assert main([*own, "asyndm", *rest]) == 1
    assert "found no word 'rcle' in the prompt" in capsys.readouterr().err.splitlines()[-1]
    assert main([*own, "cfgpp", *rest]) == 0


def test_the_embedded_model_has_prompts_of_its_own(tmp_path, pack):
    """No option but the suite's name is needed; scenes.txt holds nothing that it does not know."""
    few = "--images 1 --steps 2 --methods plain asyndm --grid 2".split()
    assert main(["--suite", "asyndm", *few, "--out", str(tmp_path)]) == 0
    rows, known = rows_of(tmp_path), prompts.read_set(str(prompts.SCENES))
    assert {row["prompt"] for row in rows} == {prompt.text for prompt in known}
    assert len(rows) == 2 * len(known) == 48
    assert all(len(prompt.words) > 1 and "*" not in prompt.text for prompt in known)


def test_settings_that_the_suite_cannot_run_with(tmp_path, capsys, pack):
    wrong = {
        "--images 0": "--images is 0, expected 1 or more",
        "--strength 2": "--strength is 2, expected a number from 0 to 1",
        "--steps [4,6]": "expected one number",
        "--sets animal": "--sets names animal and --asyndm is empty",
        "--sets nothing.txt": "nothing.txt, where no prompts can be read",
        "--asyndm nowhere": "--asyndm takes a checkout of hu-zijing/AsynDM",
        "--preset workflow --backbone.checkpoint a.ckpt --backbone.sampler heun --steps 4 "
        "--backbone.resolution 512": "backbone.sampler is heun, expected one that AsynDM has",
        "--backbone.checkpoint nowhere.ckpt --asyndm X": "where no file can be read",
        "--backbone.checkpoint nowhere.ckpt": "--asyndm and --sets are empty",
    }
    (tmp_path / "config/prompt").mkdir(parents=True)
    for name in prompts.PAPER:
        for end in ("", "_item"):
            text = "{}" if end else "[]"
            (tmp_path / f"config/prompt/{name}{end}.json").write_text(text)
    for given, said in wrong.items():
        words = given.replace(" X", f" {tmp_path}").split()
        assert main(["--suite", "asyndm", "--out", str(tmp_path / "out"), *words]) == 1, given
        line = capsys.readouterr().err.splitlines()[-1]
        assert said in line and line.startswith("evaluate.py: "), line
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_has_the_papers_settings(model_files, checkout, tmp_path, capsys, pack):
    """Sampled by ComfyUI from a file; there is no reward for it here but the noise meter."""
    file = write_checkpoint(tmp_path, model_files["sd15"])
    own = ["--backbone.checkpoint", str(file), "--steps", "2"]
    own += ["--images", "1", "--methods", "concave", "--rewards.weights", "{noise: 1.0}"]
    own += ["--asyndm", str(checkout), "--sets", "animal", "--backbone.resolution", "128"]
    assert main(["--suite", "asyndm", *own, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out/images/animal/concave/00_1234.png") as image:
        found = json.loads(image.text["prompt"])["sampler"]["inputs"]
    told = {"sampler_name": "ddim", "scheduler": "ddim_uniform", "cfg": 5.0, "strength": 0.3}
    assert found | told == found
    model_alone = ["--backbone.checkpoint", str(model_files["sd15"])]
    assert main(["--suite", "asyndm", *own, *model_alone, "--out", str(tmp_path / "other")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "tiny_sd15.safetensors, which has no text encoder" in said


def test_graphs_of_absent_nodes_have_their_inputs(checkout):
    prompt = prompts.read_set("scenes", str(checkout))[0]
    backbone = BackboneConfig(
        name="workflow", checkpoint="sd.safetensors", guidance=5.0, resolution=512,
        sampler="ddim", scheduler="ddim_uniform",
    )  # fmt: skip
    setting = graphs.Setting(backbone, "sd.safetensors", 50, 0.4)
    graph = graphs.METHODS["asyndm"][0].graph(prompt, setting, 7)
    assert prompt.words == ("red", "blue") and graph["region"]["inputs"]["words"] == "red, blue"
    inputs = graph["sampler"]["inputs"]
    assert inputs | {"strength": 0.3, "eta": 0.0, "seed": 7, "steps": 50} == inputs
    plain = graphs.METHODS["plain"][0].graph(prompt, setting, 7)["sampler"]["inputs"]
    assert plain.items() <= inputs.items()
    way = graphs.choose("zsampling", {"ZSampler": {"required": {}}}.get, "ddim")
    assert way.graph(prompt, setting, 7)["sampler"]["class_type"] == "ZSampler"
    assert "no node ZSampler" in graphs.choose("zsampling", {}.get, "ddim")


def test_words_are_counted_without_punctuation():
    words = prompts.split_words("A cross-section view of a dog's hat, and a brain.")
    assert words[6] == "dog's" and words[7] == "hat" and words[-1] == "brain"


def test_bert_f1_and_grades():
    a, b = torch.eye(3)[:2], torch.eye(3)[[1, 2]]
    both = torch.tensor([True, True])
    assert scores.bert_f1((a, both), (a, both)) == 1.0
    assert scores.bert_f1((a, both), (b, both)) == 0.5
    assert scores.read_grade("8.5 of 10") == 8.5
    with pytest.raises(RewardError, match="answered 'no idea'"):
        scores.read_grade("no idea")
