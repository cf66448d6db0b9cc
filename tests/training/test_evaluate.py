"""evaluate.py on the embedded model: what is compared, the numbers, resuming, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_loop import plain_loop
from safetensors.torch import load_file, save_file

from async_timestep.tpm.checkpoint import TPMMeta, save_tpm
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig
from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones.sampling import VelocityBackbone, column
from async_timestep.training.evaluation import command as evaluate_command
from async_timestep.training.evaluation import paired as measuring
from async_timestep.training.evaluation import study as evaluation
from async_timestep.training.evaluation.methods import Method, Options, methods, read_tpms
from async_timestep.training.evaluation.paired import categories, keys, load_measurement
from async_timestep.training.evaluation.per_prompt import PerPrompt, Scores
from async_timestep.training.evaluation.selection import Selection
from async_timestep.training.evaluation.statistics import difference, mean_error
from async_timestep.training.evaluation.tables import (
    Result,
    difference_table,
    paper_table,
)
from async_timestep.training.grpo.validation import Validation
from async_timestep.training.run.console import Report
from async_timestep.training.run.distributed import World
from async_timestep.training.run.rng import generator
from async_timestep.training.run.settings import parse
from async_timestep.training.tiny.backbone import WEIGHTS, simple_sigmas
from async_timestep.training.tiny.text import POOLED

SMALL = [
    "--preset=tiny", "--backbone.precision=fp32", "--data.validation_prompts=4",
    "--data.evaluation_prompts=8", "--steps=3", "--rewards.batch=4", "--log.samples=1",
    "--threads=1", "--n", "8",
]  # fmt: skip


def write_tpm(path: Path, seed: int, steps: int = 3, family: str = "tiny", **meta) -> Path:
    """A TPM that was not trained but decides something."""
    config = TPMConfig(
        latent_channels=16, pooled_dim=POOLED, pooled_split=(POOLED,), width=16, layers=1, heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = TimestepPredictionModule(config)
        with torch.no_grad():
            for values in module.raw.parameters():
                values.copy_(torch.randn_like(values))
    sigmas = tuple(simple_sigmas(steps).tolist())
    save_tpm(path, module, TPMMeta(config, family, steps, sigmas, **meta))
    return path


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


def rows(out: Path, *leave: str) -> dict[str, list[dict[str, str]]]:
    """Method -> its rows, without some columns."""
    with open(out / "per_prompt.csv", newline="") as file:
        assert next(file).startswith("# settings ")
        found: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(file):
            own = {k: v for k, v in row.items() if k not in leave}
            found.setdefault(row["method"], []).append(own)
    return found


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
        bench.backbone.model, bench.texts("evaluation")[:4], noise, simple_sigmas(3), 3.0,
        deviation=0.5, lying=mode == "follow_time",
    )  # fmt: skip
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


def test_paired_differences_are_those_of_numpy():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    mean, error = difference(torch.tensor(a), torch.tensor(b))
    assert mean == pytest.approx((a - b).mean())
    assert error == pytest.approx((a - b).std(ddof=1) / np.sqrt(50))
    assert mean_error(torch.tensor(a))[1] == pytest.approx(a.std(ddof=1) / np.sqrt(50))


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


def test_refusals_are_one_sentence(tmp_path, tpms, capsys):
    flux = write_tpm(tmp_path / "flux.safetensors", 1, family="flux1_dev")
    for wrong, said in (
        (["--tpm", str(flux)], "is for the model family flux1_dev, expected tiny"),
        (["--tpm", str(tmp_path / "none.safetensors")], "was not found"),
        (["--tpm", tpms[1], tpms[1]], "several files called"),
        (["--solvers", "heun"], "expected some of dpmpp_2m, unipc"),
        (["--k", "1"], "2 or more steps"),
        (["--n", "9"], "there are 8 evaluation prompts"),
        (["--n=-1"], "--n is -1"),
        (["--k", "1000000000000"], "--k has 1000000000000, expected 2 or more steps"),
        (["--k", "1000", "--more_steps", "1"], "--more_steps has 1 and --k 1000"),
        (["--more_steps", "0"], "--more_steps has 0"),
        (["--fixed", ".nan"], "--fixed has nan, expected numbers from -100 to 100"),
        (["--gammas", "1e30"], "--gammas has 1e+30"),
        (["--omegas", ".inf"], "--omegas has inf"),
        (["--lying", "-1000"], "--lying has -1000"),
        (["--tpm", ""], "was not found"),
        (["--out", str(flux)], "is a file; choose another --out"),
        (["--data.validation_prompts=1"], "There are 1 validation prompts"),
    ):
        capsys.readouterr()
        assert evaluate_command.main([*SMALL, "--out", str(tmp_path / "out"), *wrong]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "so far" not in line]
        lines = [line for line in lines if not line.startswith("No --tpm was given")]
        assert len(lines) == 1 and said in lines[0] and lines[0].startswith("evaluate.py: ")
    assert not (tmp_path / "out").exists()


def test_another_grid_is_warned_of_once_and_equal_runs_are_shared(tmp_path, capsys, monkeypatch):
    file = write_tpm(tmp_path / "four.safetensors", 1, steps=4)
    measured = []
    measure = measuring.PairedMeasurement.measure
    monkeypatch.setattr(
        measuring.PairedMeasurement, "measure",
        lambda self, *a: measured.append(a[2]) or measure(self, *a),
    )  # fmt: skip
    few = ["--fixed", "--gammas", "1", "--k", "2", "3", "--n", "4", "--log.samples", "0"]
    assert (
        evaluate_command.main([*SMALL, *few, "--tpm", str(file), "--out", str(tmp_path / "out")])
        == 0
    )
    assert capsys.readouterr().err.count("was trained on 4 steps") == 1
    assert measured == [2, 2, 3, 3, 4]  # "+1 step" of K = 2 is the baseline of K = 3
    with open(tmp_path / "out" / "per_prompt.csv", newline="") as file:
        next(file)
        found = {(r["K"], r["method"], r["prompt"]): r["scene"] for r in csv.DictReader(file)}
    assert all(found["2", "+1 step", str(i)] == found["3", "D=0", str(i)] for i in range(4))


@pytest.mark.parametrize("option", ["--fixed", "--gammas", "--k", "--n", "--more_steps"])
def test_what_is_no_number_is_one_sentence(option, capsys):
    with pytest.raises(SystemExit):
        evaluate_command.main([*SMALL, option, "word"])
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and f"{option} is word, expected a " in text, text


def test_an_evaluation_goes_on_where_its_weights_have_moved(tmp_path, monkeypatch):
    few = ["--fixed", "--gammas", "--more_steps", "--log.samples=0", "--out", str(tmp_path / "r")]
    for name in ("a", "b"):
        shutil.copytree(WEIGHTS, tmp_path / name)
    assert evaluate_command.main([*SMALL, *few, f"--backbone.path={tmp_path / 'a'}"]) == 0
    before = rows(tmp_path / "r")
    measured = []
    monkeypatch.setattr(measuring.PairedMeasurement, "measure", lambda *a: measured.append(a))
    assert evaluate_command.main([*SMALL, *few, f"--backbone.path={tmp_path / 'b'}"]) == 0
    file = tmp_path / "r" / "per_prompt.csv"
    first, rest = file.read_bytes().split(b"\n", 1)
    moved = parse([*SMALL, f"--backbone.path={tmp_path / 'b'}"], more=evaluate_command.options)[0]
    new, old = keys(load_measurement(moved, 8, Report(shown=False)))
    assert first.decode().strip() == f"# {new}" and new != old
    file.write_bytes(f"# {old}\r\n".encode() + rest)  # as an older trainer wrote it
    assert evaluate_command.main([*SMALL, *few, f"--backbone.path={tmp_path / 'b'}"]) == 0
    assert not measured and rows(tmp_path / "r") == before
    table = load_file(tmp_path / "b" / "vae.safetensors")
    table["mean"] = table["mean"] + 1e-3
    save_file(table, tmp_path / "b" / "vae.safetensors")
    assert evaluate_command.main([*SMALL, *few, f"--backbone.path={tmp_path / 'b'}"]) == 1


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


def result(name: str, kind: str, level: float, **more) -> Result:
    """A method whose metrics lie `level` above those of level 0."""
    sizes = {"image_reward": 0.9, "hps": 0.27, "clip": 0.27, "pick": 22.0, "noise": 0.01}
    values = torch.linspace(0, 1, 5, dtype=torch.float64)
    metrics = {metric: size * (1 + 0.1 * values + level) for metric, size in sizes.items()}
    told = torch.full((5, 3), 0.2 * bool(level), dtype=torch.float64)
    scores = Scores(metrics, told[:, 0], told, torch.ones_like(told), torch.ones(5))
    return Result(Method(name, kind, **more), 4, scores)


def test_the_paper_table_has_the_form_of_tables_1_and_2():
    results = [
        result("D=0", "baseline", 0.0),
        result("a gamma=1", "tpm", 0.1, tpm="a"),
        result("a gamma=2", "tpm", 0.3, tpm="a", gamma=2.0),
        result("b gamma=1", "tpm", 0.2, tpm="b", bound=1.0),
    ]
    lines = paper_table(results, "sd35_medium").splitlines()
    assert lines[0] == ("| Method | ImageReward | HPSv2 | CLIP | PickScore | Mean Deviation |")
    assert (
        lines[2].startswith("| sd35_medium base | 0.9450 | 0.2835 |") and lines[2][-5:] == "| 0 |"
    )
    assert "a (0.5 + r*) | <u>" in lines[3] and lines[3].endswith("| +0.200 |")
    assert "b (2 x r*) | **" in lines[4] and len(lines) == 5


def test_the_second_table_compares_every_tpm():
    results = [
        result("D=0", "baseline", 0.0),
        result("D=+0.5", "fixed", 0.05, best=True),
        result("a gamma=1", "tpm", 0.1, tpm="a"),
        result("a mean schedule", "mean", 0.08, tpm="a"),
        result("b gamma=1", "tpm", 0.2, tpm="b"),
        result("+1 step", "steps", 0.02, more=1),
    ]
    found = [line.split(" | ")[:2] for line in difference_table(results).splitlines()[2:]]
    assert found == [
        ["| a gamma=1", "D=+0.5"], ["| a gamma=1", "a mean schedule"], ["| a gamma=1", "+1 step"],
        ["| b gamma=1", "D=+0.5"], ["| b gamma=1", "+1 step"],
    ]  # fmt: skip
    assert "+0.0450 ± 0.0000" in difference_table(results)  # image_reward: 0.9 * (0.1 - 0.05)


def test_categories_are_those_of_the_prompts_but_for_scenes(bench):
    prompts = bench.prompts["evaluation"]
    assert categories(prompts, VelocityBackbone()) == list(prompts.categories)
    assert set(categories(prompts, bench.backbone)) == {"plain", "striped", "dotted", "rough"}


@pytest.mark.parametrize("name", ["table.md", "_summary.json", "grid_tpm.png", "gamma_K4.png"])
def test_a_file_that_is_no_evaluation_s_is_not_overwritten(tmp_path, capsys, monkeypatch, name):
    """Refused before the model is loaded."""
    monkeypatch.setattr(evaluation, "load_measurement", lambda *a: pytest.fail("loaded"))
    (tmp_path / name).write_text("mine")
    assert evaluate_command.main([*SMALL, "--out", str(tmp_path)]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert f"{name} would be overwritten" in sentence and "--out" in sentence
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_in_the_folder_s_place_is_refused_early(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "load_measurement", lambda *a: pytest.fail("loaded"))
    (tmp_path / "out").write_text("mine")
    assert evaluate_command.main([*SMALL, "--out", str(tmp_path / "out")]) == 1
    assert "out is a file; choose another --out" in capsys.readouterr().err.splitlines()[-1]


def test_it_may_go_into_the_folder_of_a_run(tmp_path):
    """runs/NAME/evaluation and runs/NAME itself: what the run wrote stays."""
    for name in ("config.yaml", "README.md", "tpm.safetensors"):
        (tmp_path / name).write_text("the run's")
    evaluation.check_folder(tmp_path)
    evaluation.check_folder(tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_a_log_file_says_what_is_measured(tmp_path, capsys):
    arguments = [*SMALL, "--fixed", "0.5", "--out", str(tmp_path / "out")]
    assert evaluate_command.main(arguments) == 0
    lines = capsys.readouterr().err.splitlines()
    begun = [line.partition(" 0 of ")[0].partition(";")[0] for line in lines]
    wanted = ["starting", "selection on validation prompts", "evaluation", "tables and pictures"]
    assert [line for line in begun if line in wanted] == wanted
