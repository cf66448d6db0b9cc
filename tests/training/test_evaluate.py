"""evaluate.py on the embedded model: what is compared, the numbers, resuming."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import SMALL, rows, write_tpm
from plain_loop import plain_loop

from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones.sampling import VelocityBackbone, column
from async_timestep.training.evaluation import command as evaluate_command
from async_timestep.training.evaluation.methods import Options, methods, read_tpms
from async_timestep.training.evaluation.paired import categories, load_measurement
from async_timestep.training.evaluation.per_prompt import PerPrompt
from async_timestep.training.evaluation.selection import Selection, read_selection
from async_timestep.training.grpo.validation import Validation
from async_timestep.training.run.console import Report
from async_timestep.training.run.distributed import World
from async_timestep.training.run.rng import generator
from async_timestep.training.run.settings import parse
from async_timestep.training.tiny.backbone import simple_sigmas


@pytest.fixture(scope="module")
def tpms(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("tpms")
    one = write_tpm(folder / "one.safetensors", 1)
    two = write_tpm(folder / "two.safetensors", 2, deviation_bound=1.0)
    return ["--tpm", str(one), str(two)]


def arguments(tpms: list[str], out: Path, *more: str) -> list[str]:
    chosen = ["--gammas", "0", "1", "--fixed", "0.5", "--lying", "0.5", "--mean_schedule"]
    return [*SMALL, *tpms, *chosen, "--solvers", "unipc", "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(tpms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert evaluate_command.main(arguments(tpms, out)) == 0
    return out


@pytest.fixture(scope="module")
def bench():
    config, rest = parse(SMALL, more=evaluate_command.options)
    bench = load_measurement(config, rest.n, Report(shown=False))
    bench.begin("test", 1)
    return bench


def test_every_method_has_every_prompt_once_and_a_row_in_the_table(whole):
    found = rows(whole)
    assert list(found) == [
        "D=0", "D=+0.5", "one gamma=0", "one gamma=1", "one mean schedule", "two gamma=0",
        "two gamma=1", "two mean schedule", "lying D=+0.5", "+1 step", "unipc D=0",
        *(["unipc D=+0.5"] if "unipc D=+0.5" in found else []), "unipc one", "unipc two",
    ]  # fmt: skip
    for name, own in found.items():
        assert [int(row["prompt"]) for row in own] == list(range(8)), name
    assert [row["category"] for row in found["D=0"]] == ["plain", "striped", "dotted", "rough"] * 2
    table = (whole / "table.md").read_text()
    for name in found:
        assert f"| {name} " in table
    assert "two gamma=1 (bound 1, lifted)" in table and "best fixed D" in table
    assert "two gamma=1 | two mean schedule" in table and "one gamma=1 | +1 step" in table
    assert "| rough (2) |" in (whole / "categories.md").read_text()
    assert "two (2 x r*)" in (whole / "paper_table.md").read_text()
    summary = json.loads((whole / "_summary.json").read_text())
    assert len(summary["prompts"]["evaluation"]["sha256"]) == 64 and "--tpm" in summary["command"]
    assert summary["settings"]["rewards"]["weights"] == {"scene": 1.0, "noise": 0.0}
    for name in ("grid_tpm.png", "gamma.png", "deviation.png"):
        assert (whole / name).stat().st_size > 1000


def test_gamma_0_is_the_baseline_bit_for_bit(whole):
    found = rows(whole, "method", "seconds", "file")
    assert found["one gamma=0"] == found["D=0"] == found["two gamma=0"]
    assert found["one gamma=1"] != found["D=0"]


def test_the_baseline_is_that_of_the_training_run_on_the_same_noises(bench):
    own = bench.whole("validation", 3, None)
    validation = Validation(
        bench.config, bench.backbone, bench.rewards, bench.prompts["validation"]
    )
    scores, _ = validation.score(World(), None)
    assert scores.keys() == own.keys() == {"scene", "noise"}
    for name, values in scores.items():
        assert own[name].tolist() == values


@pytest.mark.parametrize("mode", ["conditioning", "follow_time"])
def test_a_fixed_deviation_is_that_of_the_laboratory(bench, mode):
    latents, record, _ = bench.sampled("evaluation", range(4), 3, Constant(0.5, mode=mode))
    seed = bench.config.data.seed
    noise = bench.backbone.noise([generator(seed, "evaluation", i) for i in range(4)])
    expected = plain_loop(
        bench.backbone.model,
        bench.texts("evaluation")[:4],
        noise,
        simple_sigmas(3),
        3.0,
        deviation=0.5,
        lying=mode == "follow_time",
    )
    print(
        "MAXDIFF",
        (latents - expected).abs().max(),
        (bench.backbone.decode(latents) - bench.backbone.decode(expected)).abs().max(),
        expected.abs().max(),
    )
    decode = bench.backbone.decode
    assert torch.allclose(decode(latents), decode(expected), atol=1e-5)
    assert torch.allclose(latents, expected, atol=1e-5 * float(expected.abs().max()))
    assert record.steps[1]["deviation"] == [0.5] * 4


def test_table_csv_holds_the_differences_of_per_prompt_csv(whole):
    found = rows(whole)
    base, one = (
        np.array([float(r["scene"]) for r in found[name]]) for name in ("D=0", "one gamma=1")
    )
    with open(whole / "table.csv", newline="") as file:
        row = next(r for r in csv.DictReader(file) if r["method"] == "one gamma=1")
    assert float(row["scene_difference"]) == pytest.approx((one - base).mean())
    assert float(row["scene_difference_se"]) == pytest.approx((one - base).std(ddof=1) / 8**0.5)
    more = next(csv.DictReader([*(whole / "table.csv").read_text().splitlines()]))
    assert float(more["cost"]) == 1.0


def test_the_mean_schedule_is_measured_on_the_validation_prompts(whole, bench, tpms):
    one = read_tpms(tpms[1:], "tiny")[0]
    record = bench.sampled("validation", range(4), 3, one.policy)[1]
    schedules = json.loads((whole / "selection.json").read_text())["schedules"]["3"]
    expected = column(record, "deviation").double().mean(0).tolist()
    assert schedules[one.sha256]["deviation"] == pytest.approx(expected, abs=1e-6)
    told = {row["deviation_by_step"] for row in rows(whole)["one mean schedule"]}
    assert len(told) == 1
    assert [float(d) for d in told.pop().split()] == pytest.approx(expected[1:], abs=1e-6)


def test_an_interrupted_evaluation_goes_on_and_ends_as_the_whole_one(
    whole, tpms, tmp_path, monkeypatch
):
    append, calls = PerPrompt.append, []

    def cut(self, steps, method, new):
        calls.append(method.name)
        if len(calls) == 8:  # the second batch of the fourth method
            raise KeyboardInterrupt
        append(self, steps, method, new)

    with monkeypatch.context() as patch:
        patch.setattr(PerPrompt, "append", cut)
        assert evaluate_command.main(arguments(tpms, tmp_path)) == 130
    path = tmp_path / "per_prompt.csv"
    path.write_bytes(path.read_bytes()[:-9])  # and its last row is only half on the disk
    assert len(rows(tmp_path)["one gamma=0"]) == 8
    calls.clear()

    def count(self, steps, method, new):
        calls.append(method.name)
        append(self, steps, method, new)

    monkeypatch.setattr(PerPrompt, "append", count)
    assert evaluate_command.main(arguments(tpms, tmp_path)) == 0
    assert not {"D=0", "D=+0.5", "one gamma=0"} & set(calls)
    assert calls.count("one gamma=1") == 2  # the torn row's batch is measured again
    assert rows(tmp_path, "seconds") == rows(whole, "seconds")


def without(whole: Path, tmp_path: Path, change) -> Path:
    """An evaluation's folder whose rows somebody has changed."""
    out = Path(shutil.copytree(whole, tmp_path / "touched"))
    path = out / "per_prompt.csv"
    lines = path.read_bytes().decode().splitlines(keepends=True)
    path.write_bytes("".join(change(lines)).encode("utf-8", "surrogateescape"))
    return out


BROKEN = {
    "a row of nothing": lambda lines: [*lines[:5], "\r\n", ",,\r\n", *lines[5:]],
    "a row that is short": lambda lines: [*lines[:5], "D=0,3\r\n", *lines[6:]],
    "a word for a number": lambda lines: [*lines[:5], lines[5].replace("3", "x"), *lines[6:]],
    "no row": lambda lines: [*lines[:5], *lines[6:]],
    "not UTF-8": lambda lines: [*lines[:5], "\udcff\r\n", *lines[5:]],
    "other columns": lambda lines: [lines[0], "a,b\r\n", *lines[2:]],
    "a field without an end": lambda lines: [*lines[:5], "x" * 200_000 + "\r\n", *lines[5:]],
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_left_out_and_the_file_stays(whole, tmp_path, name):
    out = without(whole, tmp_path, BROKEN[name])
    path, good = out / "per_prompt.csv", rows(whole)
    touched = path.read_bytes()
    key = (whole / "per_prompt.csv").read_text().splitlines()[0].removeprefix("# ")
    table = PerPrompt(path, ("scene", "noise"), key, 8)
    assert "per_prompt.csv.damaged_1" in table.open()
    assert (out / "per_prompt.csv.damaged_1").read_bytes() == touched
    for (_, method), found in table.rows.items():
        assert found == good[method][: len(found)]
    assert PerPrompt(path, ("scene", "noise"), key, 8).open() == ""  # mended


def test_what_a_broken_row_said_is_measured_again(whole, tpms, tmp_path, capsys):
    out = without(whole, tmp_path, BROKEN["a word for a number"])
    assert evaluate_command.main(arguments(tpms, out)) == 0
    assert rows(out, "seconds") == rows(whole, "seconds")
    assert "per_prompt.csv.damaged_1" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 3}', "\udcff", "[" * 50_000])
def test_a_selection_that_is_none_is_found_anew(whole, tpms, tmp_path, text):
    out = Path(shutil.copytree(whole, tmp_path / "touched"))
    (out / "selection.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_selection(out / "selection.json") == {}
    assert (out / "selection.json.damaged_1").read_bytes() == text.encode(
        "utf-8", "surrogateescape"
    )
    assert read_selection(whole / "selection.json")["fixed"]


def test_a_later_run_keeps_the_baseline_and_measures_only_what_is_new(
    tmp_path, tpms, monkeypatch, capsys
):
    few = ["--fixed", "--gammas", "1", "--more_steps", "--out", str(tmp_path)]
    assert evaluate_command.main([*SMALL, *few]) == 0
    append, calls = PerPrompt.append, []

    def count(self, steps, method, new):
        calls.append(method.name)
        append(self, steps, method, new)

    monkeypatch.setattr(PerPrompt, "append", count)
    assert evaluate_command.main([*SMALL, *few, *tpms[:2]]) == 0
    assert set(calls) == {"one gamma=1"}
    capsys.readouterr()
    assert evaluate_command.main([*SMALL, *few, "--backbone.guidance=2"]) == 1
    assert "other settings or prompts" in capsys.readouterr().err
    other = write_tpm(tmp_path / "one.safetensors", 7)
    assert evaluate_command.main([*SMALL, *few, "--tpm", str(other)]) == 1
    assert "of another file" in capsys.readouterr().err
    assert len(rows(tmp_path)["one gamma=1"]) == 8


class Fixed:
    """A bench whose scores are known: scene falls with |D - best|."""

    def __init__(self, bench, best):
        self.bench, self.best, self.rewards = bench, best, bench.rewards
        self.config, self.prompts, self.places = bench.config, bench.prompts, bench.places

    def whole(self, split, steps, policy):
        assert split == "validation"
        deviation = policy.deviation if policy else 0.0
        scene = torch.linspace(0, 1, 4) - abs(deviation - self.best)
        return {"scene": scene, "noise": torch.zeros(4)}


@pytest.mark.parametrize("best, chosen", [(0.3, 0.25), (0.9, 1.0), (-0.01, 0.0)])
def test_the_best_fixed_deviation_is_chosen_on_validation(tmp_path, bench, best, chosen):
    selection = Selection(Fixed(bench, best), tmp_path / "selection.json")
    fixed = [-0.5, 0.25, 0.5, 1.0]
    assert selection.rate(3, fixed) == chosen
    again = Selection(Fixed(bench, 0.5), tmp_path / "selection.json")
    assert again.rate(3, fixed) == chosen and not again.missing(3, fixed)
    own = methods(Options(fixed=(0.25, 1.0), solvers=("unipc",)), [], chosen, {})
    assert [m.name for m in own if m.best] == [f"D={chosen:+g}" if chosen else "D=0"]
    assert [m.name for m in own if m.solver == "unipc" and m.policy] == (
        [f"unipc D={chosen:+g}"] if chosen else []
    )


def test_categories_are_those_of_the_prompts_but_for_scenes(bench):
    prompts = bench.prompts["evaluation"]
    assert categories(prompts, VelocityBackbone()) == list(prompts.categories)
    assert set(categories(prompts, bench.backbone)) == {"plain", "striped", "dotted", "rough"}
