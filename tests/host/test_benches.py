"""Every bench runs at a size that says nothing, or ends in the sentence that names what it needs.

asyndm, overhead and peers have no argument for so small a size: `tiny_models` makes them small.
"""

from __future__ import annotations

import gc
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from async_timestep.bench import __main__ as command
from async_timestep.bench import asyndm, asyndm_laboratory, overhead, tiny_study
from async_timestep.bench.parts import frame, judged, official_trained, peers_load, waiting
from async_timestep.training.run.settings import parse

SMALLEST = {  # bench -> (arguments, what it prints)
    "asyndm": ([*"--size sd15 --reps 1".split()], r"\| regional \| \d+\.\d"),
    "asyndm_laboratory": (
        "--n 4 --steps 3 --batch 4 --kinds chain pair --seeds 1 2 --out {out} --methods".split()
        + ["words", "words, inverted", "all but the objects", "random, same area"]
        + ["one more step", "D=+0.25 in the objects", "TPM"],
        r"\| all but the objects \| [+-]\d\.\d{4} ± \d\.\d{4} \|.*\| 8 \| 1 2 \|",
    ),
    "beside": (["--only", "lora"], r"(?i)\| .*lora.* \|"),
    "laboratory": (
        "--n 4 --steps 3 --batch 4 --threads 1 --methods D=+0.5 --out {out}".split(),
        "Wrote laboratory.csv, laboratory.md and laboratory.png",
    ),
    "overhead": (["--rounds", "1"], r"\| TPM \| \d+\.\d+ "),
    "peers": (["--rounds", "1"], r"\| Deviation 0.5 \| \d+ "),
    "planted": (
        "--iterations 1 --seeds 0 --steps=2 --grpo.num_generations=2 "
        "--grpo.prompts_per_iteration=1 --grpo.minibatch_size=2 "
        "--data.validation_prompts=2".split(),
        r"\| 0 \| \+0\.30 \| [+-]\d",
    ),
    "rollout_cost": (
        "--layers 1 --latent 2 --group 4 --steps 2".split(),
        r"\| TPM decides \| \d+\.\d",
    ),
    "knobs": (
        "--steps 2 --guidance 3 --images 80 --prompts 4 --candidates 4 --n 4 --out {out}".split()
        + ["--knobs", "follow_time", "step times", "step times, then deviation"],
        r"\| 2 \| 3 \|( [+-]0\.\d+ ± 0\.\d+ \|){5}",
    ),
    "search_peers": (
        "--images 80 --prompts 4 --candidates 4 --steps 2 --n 4 --seeds 0 --out {out} "
        "--optimizers search_schedule.py".split(),
        r"\| search_schedule.py \| [+-]0\.",
    ),
    "tune_by_eye": (
        "--steps 2 --guidance 3 --seeds 0 --random 1 --choices 2 --pictures 1 --n 4 --together 2 "
        "--out {out}".split(),
        r"\| 3 \| conditioning \| by eye, 1 picture a schedule \| 1 \| [+-]0\.",
    ),
    "untuned": (
        "--models transformer --schedulers karras --steps 3 --n 4 --batch 4 --out {out}".split(),
        r"\| transformer \| karras \| 3 \| interval, at most 5 % \| 5\.0 % \| [+-]0\.",
    ),
    "word_regions": (
        "--n 4 --steps 3 --batch 4 --kinds chain --seeds 1 2 --out {out}".split(),
        r"\| block 3, threshold 1 \| 0\.\d{3} \| 0\.\d{3} \|",
    ),
}
WANTING = {  # bench -> (arguments, the sentence it ends with here)
    "noise_meter": (["--out", "{out}"], "The photographs need scikit-image: pip install"),
    "official": (["--official", "{out}"], "has no asyn_sample.py; give a checkout of hu-zijing/"),
    "official_trained": (["--official", "{out}"], "has no asyn_sample.py; give a checkout of hu-"),
    "peers_conversion": (
        ["--detail-daemon", "{out}"],
        "has no __init__.py; give the folder of a checkout",
    ),
}
ELSEWHERE = {  # its smallest size is another test's
    "kill_and_resume": "tests/training/test_trainer.py",
    "schedule_study": "tests/training/test_search_command.py",
    "tiny_study": "test_the_runs_of_the_study_have_settings",
}


@pytest.fixture
def run(tmp_path, monkeypatch, pack):
    """run(bench, arguments) as `python -m bench` does; what it sets for the process is put back."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    level, threads = logging.getLogger().level, torch.get_num_threads()

    def start(name: str, arguments: list[str]) -> int:
        with torch.enable_grad():
            return command.main([name, *(part.format(out=tmp_path) for part in arguments)])

    yield start
    logging.getLogger().setLevel(level)
    torch.set_num_threads(threads)


def test_every_bench_is_here_and_has_a_line():
    known = command.benches()
    assert set(known) == SMALLEST.keys() | WANTING.keys() | ELSEWHERE.keys()
    assert all(line.endswith((".", "?")) for line in known.values()), known


def test_the_list_and_an_unknown_name(capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(command.benches())
    assert command.main(["laboratry"]) == 2
    assert "There is no bench 'laboratry'; choose one of asyndm, " in capsys.readouterr().err


@pytest.fixture
def tiny_models(monkeypatch, families):
    """The models of asyndm and peers are a tiny one, and overhead takes few steps. Before each run
    they collect garbage, which takes longer than the run where a whole suite is in memory.
    """
    monkeypatch.setattr(gc, "collect", lambda: 0)
    model, positive, negative, latent = families["sd35"]
    case = asyndm.Case("A tiny model", model, positive, latent)
    monkeypatch.setattr(asyndm, "cases", lambda args: [(case, None)])
    setup = peers_load.Setup("A tiny model", model, positive, negative, latent, 3.0, steps=5)
    few = [
        replace(case, steps=4) for case in overhead.cases(SimpleNamespace(size="tiny", rounds=1))
    ]
    monkeypatch.setattr(overhead, "cases", lambda args: few)
    for name in ("wide", "embedded", "unet"):
        monkeypatch.setattr(peers_load, name, lambda: setup)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_size_runs(run, capsys, request, name):
    if name in ("asyndm", "overhead", "peers"):
        request.getfixturevalue("tiny_models")
    arguments, printed = SMALLEST[name]
    assert run(name, arguments) == 0
    assert re.search(printed, capsys.readouterr().out)


@pytest.mark.parametrize("name", WANTING)
def test_what_is_wanting_is_said_in_a_sentence(run, monkeypatch, name):
    arguments, sentence = WANTING[name]
    monkeypatch.setitem(sys.modules, "skimage", None)  # whether it is installed here or not
    with pytest.raises(SystemExit, match=re.escape(sentence)):
        run(name, arguments)


def test_laboratory_goes_on_from_its_rows(run, tmp_path, monkeypatch):
    """What is measured is not measured again; rows of another setting are refused."""
    arguments, _ = SMALLEST["laboratory"]
    assert run("laboratory", arguments) == 0
    csv, page = ((tmp_path / f"laboratory.{kind}").read_bytes() for kind in ("csv", "md"))
    measured = []
    monkeypatch.setattr(judged.Laboratory, "whole", lambda *rest: measured.append(rest))
    assert run("laboratory", arguments) == 0
    assert not measured
    assert csv == (tmp_path / "laboratory.csv").read_bytes()
    assert page == (tmp_path / "laboratory.md").read_bytes()
    with pytest.raises(
        SystemExit, match="was measured with 'n 4, .*; move it away or change --out"
    ):
        run("laboratory", [*arguments, "--guidance", "2"])


def test_laboratory_of_the_second_model(run, tmp_path, capsys):
    """ComfyUI samples it; a sampler or a precision that would do nothing is refused."""
    arguments = [*SMALLEST["laboratory"][0], "--model", "unet", "--sampler", "dpmpp_2m"]
    assert run("laboratory", [*arguments, "--methods", "auto", "percent +1"]) == 0
    page = (tmp_path / "laboratory.md").read_text()
    assert "dpmpp_2m simple in ComfyUI, unet sha256" in page
    for name in ("auto", r"percent \+1"):
        changes = re.findall(rf"^\| {name} \| .*", page, re.MULTILINE)[0]
        assert any(float(value) for value in re.findall(r"[+-]0\.\d+", changes))
    for wrong in (["--bf16"], ["--model", "transformer"]):
        with pytest.raises(SystemExit):
            run("laboratory", [*arguments, *wrong])
        assert "leave" in capsys.readouterr().err


def test_a_page_names_its_command_without_the_folders_of_this_machine(monkeypatch):
    args = SimpleNamespace(detail_daemon=Path("/somewhere"), packs=None, rounds=3)
    shown = frame.chosen(args, detail_daemon="CHECKOUT", packs="FOLDER", rounds="")
    assert frame.command("peers", shown) == (
        "python bench/peers.py --detail-daemon CHECKOUT --rounds 3"
    )
    monkeypatch.setattr(sys, "argv", ["anything", "--out", "a folder"])
    assert frame.made_by(frame.command("peers")) == (
        "Made by `python bench/peers.py --out 'a folder'`."
    )
    assert frame.command("peers", []) == "python bench/peers.py"


def test_the_runs_of_the_study_have_settings(run, capsys, monkeypatch):
    """No run is started: each of its commands has settings that the trainer reads."""
    started = []
    monkeypatch.chdir(".")
    monkeypatch.setattr(tiny_study, "run", started.append)
    assert run("tiny_study", ["--out", "{out}"]) == 0
    trained = [one for one in started if one[1] == "training/train_tpm.py"]
    evaluated = [one for one in started if one[1] == "training/evaluate.py"]
    assert len(trained) == len(tiny_study.RUNS)
    assert len(evaluated) == len(tiny_study.EVALUATIONS)
    for options in tiny_study.RUNS.values():
        config, _ = parse(["--preset=tiny", *options])
        assert config.policy.deviation_bound > 0
    with pytest.raises(SystemExit):
        run("tiny_study", ["--out", "{out}", "--only", "lifted"])
    assert "lifted is none of tpm_s42, " in capsys.readouterr().err


def test_asyndm_laboratory_goes_on_from_its_rows(run, tmp_path, monkeypatch):
    """Two seeds stand in one row; another kind of scenes is refused; what is there stays."""
    waiting = "--n 4 --steps 3 --batch 4 --kinds chain --out {out} --methods words".split()
    assert run("asyndm_laboratory", [*waiting, "--seeds", "1"]) == 0
    before = frame.read_rows(tmp_path / "rows.csv")
    assert run("asyndm_laboratory", [*waiting, "--seeds", "1", "2"]) == 0
    rows = frame.read_rows(tmp_path / "rows.csv")
    assert rows[: len(before)] == before and {row["seed"] for row in rows} == {"1", "2"}
    own = [float(row["reward_d"]) for row in rows if row["method"] == "words"]
    page = (tmp_path / "asyndm_laboratory.md").read_text()
    assert re.search(rf"\| words \| {re.escape(f'{sum(own) / 2:+.4f}')} ± .* \| 8 \| 1 2 \|", page)
    monkeypatch.setattr(asyndm_laboratory, "Laboratory", None)
    assert run("asyndm_laboratory", [*waiting, "--seeds", "2", "1"]) == 0
    with pytest.raises(SystemExit, match="was measured with 'chain, fp32'"):
        run("asyndm_laboratory", [*waiting, "--kinds", "pair"])


def test_asyndm_laboratory_of_the_second_model(run, tmp_path, capsys):
    """The UNet waits in words and masks; what is of the transformer is refused."""
    second = "--n 4 --steps 4 --batch 4 --kinds chain --seeds 1 --model unet --out {out}".split()
    methods = ["--methods", "words", "all but the objects"]
    assert run("asyndm_laboratory", [*second, *methods]) == 0
    page = (tmp_path / "asyndm_laboratory.md").read_text()
    assert page.startswith("# AsynDM on the embedded UNet") and "--model unet --n 4" in page
    rows = frame.read_rows(tmp_path / "rows.csv")
    assert {row["setting"] for row in rows} == {"chain, fp32, unet (eps)"}
    assert all(float(row["noise_d"]) != 0 for row in rows if row["method"] != waiting.PLAIN)
    for other in ("TPM", "words, last block"):
        with pytest.raises(SystemExit):
            run("asyndm_laboratory", [*second, "--methods", other])
        assert f"{other!r} is of the transformer; leave it or" in capsys.readouterr().err


def test_the_official_code_gets_the_second_model_s_numbers(tmp_path):
    """Its `main` for latents of 64 x 64 is read with those of 16 x 16; another text is refused."""
    text = """
def main(_):
    return dict(
        flat=64*64, size=(64,64), latent=(1, 4, 64, 64), mask=(1, 2, 64, 64),
        read={'used_layer_size':16},
    )
"""
    (tmp_path / "asyn_sample.py").write_text(text)
    official = official_trained.fitted(
        SimpleNamespace(folder=tmp_path, sample=SimpleNamespace(main=None))
    )
    assert official.sample.main(None) == {
        "flat": 256, "size": (16, 16), "latent": (1, 16, 16, 16), "mask": (1, 2, 16, 16),
        "read": {"used_layer_size": 8},
    }  # fmt: skip
    (tmp_path / "asyn_sample.py").write_text(text.replace("64*64", "4096"))
    with pytest.raises(SystemExit, match="has no '64.64', expected the released code; give an"):
        official_trained.fitted(official)


def test_masks_around_the_objects():
    """Each region has the pixels that its name says."""
    objects = torch.zeros(2, 64, 64)
    objects[0, 24:40, 24:40], objects[1, 8:24, 30:46] = 1, 1
    twins = [torch.Generator().manual_seed(i) for i in range(2)]

    def pixels(where: str) -> torch.Tensor:
        return waiting.mask_of(where, objects, twins)

    areas = {
        "objects": 256, "inverse": 4096 - 256, "dilated": 1024, "eroded": 100, "ring": 768,
        "beyond": 3072, "random": 256, "shifted": 256,
    }  # fmt: skip
    for where, area in areas.items():
        assert pixels(where).sum((1, 2)).tolist() == pytest.approx([area, area]), where
    assert bool((pixels("dilated")[0, 16:48, 16:48] == 1).all())
    assert bool((pixels("eroded")[0, 27:37, 27:37] == 1).all())
    assert not (pixels("shifted") * objects).any()
    assert not (pixels("beyond") * pixels("ring")).any()
    assert not torch.equal(pixels("random"), objects)


def test_a_sheet_of_pictures_says_how_many_it_chose_from(run, tmp_path, capsys):
    arguments = "--kinds chain --n 16 --batch 16 --steps 3 --seed 1 --out {out}".split()
    assert run("asyndm_laboratory", [*arguments, "--pictures", "{out}/sheet.png"]) == 0
    *captions, counts = capsys.readouterr().out.strip().splitlines()
    mended, spoilt = map(int, re.fullmatch(r"(\d+) mended and (\d+) spoilt of 16", counts).groups())
    assert len(captions) == min(2, mended) + min(2, spoilt) > 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 128 and sheet.height > len(captions) * 128
    assert not (tmp_path / "rows.csv").exists()
