"""search_schedule.py and export_schedule.py as a user starts them, on the embedded model."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from small_model import small_model
from two_ranks import on_two_ranks

from async_timestep.bench import schedule_study
from async_timestep.tpm.schedule import Schedule
from async_timestep.tpm.schedule_file import ScheduleMeta, load_schedule, save_schedule
from async_timestep.training.evaluation.command import main as evaluate
from async_timestep.training.run.console import Report
from async_timestep.training.run.distributed import World
from async_timestep.training.run.settings import parse
from async_timestep.training.run.stopping import Stopped
from async_timestep.training.search.command import main, options
from async_timestep.training.search.export import main as export
from async_timestep.training.search.generations import Plan
from async_timestep.training.search.result import Outcome, concluded
from async_timestep.training.search.setup import check_plan, load_search
from async_timestep.training.tiny.backbone import simple_sigmas

SMALL = [
    "--preset=tiny", "--backbone.precision=fp32", "--backbone.path", small_model(), "--threads=1",
    "--steps=3", "--data.validation_prompts=4", "--data.evaluation_prompts=6", "--prompts=4",
    "--candidates=4", "--n=0",
]  # fmt: skip


def search(out, *more: str) -> int:
    return main([*SMALL, "--images", "60", "--out", str(out), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished search of three generations."""
    out = tmp_path_factory.mktemp("search") / "whole"
    assert search(out) == 0
    return out


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]


def test_it_leaves_a_file_a_table_and_a_plot(whole):
    schedule, meta = load_schedule(whole / "schedule.safetensors")
    found, believed = load_schedule(whole / "found.safetensors")
    assert meta.images == believed.images == sum(one["images"] for one in lines(whole)) <= 60
    assert meta.model_family == "tiny" and meta.reward == "scene" and meta.gain_n == 6
    assert found.times == tuple(simple_sigmas(3).double().tolist()) == schedule.times
    assert (schedule.deviation == found.deviation) == (meta.gain > 2 * meta.gain_se > 0)
    assert bool(meta.note) == (meta.gain == 0)
    table = (whole / "evaluation" / "table.md").read_text()
    for row in ("schedule found", "D=0", "D=+0.5", "lying D=+0.25", "+1 step"):
        assert row in table
    assert (whole / "search.png").stat().st_size > 10_000


@pytest.mark.parametrize("kept", [1, "half a line"])
def test_it_goes_on_to_the_bit(whole, tmp_path, kept):
    out = tmp_path / "again"
    out.mkdir()
    shutil.copy(whole / "study.json", out)
    text = (whole / "generations.jsonl").read_text().splitlines(keepends=True)
    begun = "".join(text[:1]) + text[1][:40] if kept == "half a line" else "".join(text[:kept])
    (out / "generations.jsonl").write_text(begun)
    assert search(out, "--resume") == 0
    assert (out / "generations.jsonl").read_bytes() == (whole / "generations.jsonl").read_bytes()
    for name in ("found", "schedule"):
        there, here = (folder / f"{name}.safetensors" for folder in (whole, out))
        assert here.read_bytes() == there.read_bytes()


def test_what_was_measured_is_not_measured_again(whole, tmp_path):
    """A number that no measurement gives stays as it stands in the file."""
    out = tmp_path / "again"
    out.mkdir()
    shutil.copy(whole / "study.json", out)
    first = {**lines(whole)[0], "scale": {"scene": 0.12345}}
    (out / "generations.jsonl").write_text(json.dumps(first) + "\n")
    assert search(out, "--resume") == 0
    assert lines(out)[0] == first and lines(out)[1]["scale"] == first["scale"]


@pytest.mark.parametrize("line", ["", '{"generation": 1}'])
def test_what_is_behind_a_broken_line_is_made_again_and_nothing_is_lost(
    whole, tmp_path, line, capsys
):
    out = tmp_path / "again"
    out.mkdir()
    shutil.copy(whole / "study.json", out)
    text = (whole / "generations.jsonl").read_text().splitlines(keepends=True)
    touched = "".join([text[0], f"{line}\n", *text[1:]])
    (out / "generations.jsonl").write_text(touched)
    assert search(out, "--resume") == 0
    assert (out / "generations.jsonl.damaged_1").read_text() == touched
    assert "from line 2 on" in capsys.readouterr().err
    assert (out / "generations.jsonl").read_bytes() == (whole / "generations.jsonl").read_bytes()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 3}', "[" * 50_000, "\x00"])
def test_a_study_that_is_none_is_one_sentence(tmp_path, text, capsys):
    (tmp_path / "study.json").write_text(text)
    assert search(tmp_path, "--resume") == 1
    assert "study.json is not what this program wrote" in capsys.readouterr().err


def test_two_ranks_search_as_one(whole, tmp_path, warm):
    """On two machines. They begin with the same candidates, and what they write down of any is what
    one process measures of it; the batches are smaller, so there is kernel noise."""
    out, other = tmp_path / "first" / "two", tmp_path / "second"
    for folder in (out.parent, other):
        folder.mkdir()
    words = [*SMALL, "--images", "60", "--out", out.name]
    on_two_ranks(warm, "search.command", words, (out.parent, other))
    assert not list(other.iterdir())
    one, two = lines(whole), lines(out)
    assert one[0]["points"] == two[0]["points"]
    assert [g["generation"] for g in one] == [g["generation"] for g in two]
    config, _ = parse(SMALL, more=options)
    space, measure, _ = load_search(config, "deviation", Plan(60, 4, 4, 42), World(), Report())
    measure.scale = two[0]["scale"]
    for generation in two:
        points = torch.tensor(generation["points"], dtype=torch.float64)
        again = measure(generation["generation"], list(map(space.schedule, points)), range(4))
        for mine, theirs in zip(again.tolist(), generation["differences"], strict=True):
            assert mine[: len(theirs)] == pytest.approx(theirs, abs=1e-3)
        assert float(again.abs().max()) > 1e-2


def test_noise_is_a_penalty():
    """Each metric in standard deviations at D = 0, by its weight."""
    config, _ = parse([*SMALL, "--rewards.weights.noise=-0.5"], more=options)
    plan = Plan(60, 4, 4, 42)
    space, measure, _ = load_search(config, "deviation", plan, World(), Report())
    schedule = space.schedule(torch.tensor([0.4, 0.4], dtype=torch.float64))
    found = measure(0, [schedule], range(4))[0].numpy()
    base, own = (
        {name: values.numpy() for name, values in measure.scores(0, range(4), policy).items()}
        for policy in (None, schedule)
    )
    parts = {name: (own[name] - base[name]) / base[name].std(ddof=1) for name in ("scene", "noise")}
    assert found == pytest.approx((parts["scene"] - 0.5 * parts["noise"]) / 1.5, abs=1e-4)
    assert abs(parts["noise"]).max() > 1e-3


def test_more_images_go_on_from_a_finished_one(whole, tmp_path, capsys):
    """What was found before is another schedule: its rows stay, and the new one has its own."""
    out = tmp_path / "more"
    shutil.copytree(whole, out)
    assert search(out, "--resume", "--images", "90") == 0
    rows, before = (
        [line.split(",") for line in path.read_text().splitlines() if "schedule found" in line]
        for path in (out / "evaluation" / f"per_prompt.csv{end}" for end in ("", ".before_1"))
    )
    assert "as it was it is" in capsys.readouterr().err
    assert len(rows) == len(before) == 6
    digest = hashlib.sha256((out / "found.safetensors").read_bytes()).hexdigest()
    assert {row[-1] for row in rows} == {digest} and digest not in {row[-1] for row in before}
    assert lines(out)[: len(lines(whole)) - 1] == lines(whole)[:-1]
    assert 60 < sum(one["images"] for one in lines(out)) <= 90


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--images", "39"], "--images is 39, expected 40 or more"),
        (["--prompts", "5"], "--prompts is 5, expected an even number from 4."),
        (["--candidates", "1"], "--candidates is 1, expected 2 to 64."),
        (["--steps", "[3, 4]"], "steps is [3, 4], expected one number"),
        (["--resume"], "--resume finds no search in"),
    ],
)
def test_what_no_search_can_be_made_of_is_one_sentence(tmp_path, capsys, more, sentence):
    out = tmp_path / "none"
    assert search(out, *more) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if "search_schedule" in line]
    assert len(said) == 1 and sentence in said[0] and said[0].endswith(".")
    assert not out.exists()


def test_a_space_that_is_none(tmp_path):
    with pytest.raises(Stopped):
        search(tmp_path / "none", "--space", "colour")


def test_nothing_is_overwritten(whole, tmp_path, capsys):
    assert search(whole) == 1
    assert "holds a search; choose another --out, or go on" in capsys.readouterr().err
    assert search(whole, "--resume", "--space", "follow_time") == 1
    assert "a search with space 'deviation', and this one has" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert search(other) == 1
    assert "is not empty: notes.txt is there" in capsys.readouterr().err
    assert [p.name for p in other.iterdir()] == ["notes.txt"]


def test_a_search_that_found_nothing_is_d_0_and_says_so(tmp_path):
    mine = Schedule((1.0, 0.6, 0.0), (0.0, 0.7), (1.1, 1.0), "follow_time")
    meta = ScheduleMeta("tiny", 4, images=160)
    for outcome in (Outcome(0.01, 0.006, 64, "scene"), Outcome(-0.2, 0.01, 64, "scene")):
        nothing, told = concluded(mine, outcome, meta)
        save_schedule(tmp_path / "x.safetensors", nothing, told)
        loaded, again = load_schedule(tmp_path / "x.safetensors")
        assert set(loaded.deviation) == {0.0} and set(loaded.omega) == {1.0}
        assert loaded.mode == "conditioning" and again.gain == 0
        assert "found nothing that gains beyond 2 standard errors" in again.note
        assert str(outcome) in again.note
    kept, told = concluded(mine, Outcome(0.02, 0.006, 64, "scene"), meta)
    assert kept is mine and (told.gain, told.note) == (0.02, "")


def test_the_study_has_settings_and_a_table(whole, monkeypatch, capsys):
    """Of bench/schedule_study.py: no search is started, the table is that of a finished one."""
    started = []
    monkeypatch.setattr(schedule_study, "run", started.append)
    for name in schedule_study.RUNS:
        schedule_study.search(name, whole.parent, "8")
    for command in started:
        assert command[1] == "training/search_schedule.py"
        config, rest = parse(command[2:], more=options)
        check_plan(config, Plan(rest.images, rest.prompts, rest.candidates, config.seed))
    monkeypatch.setattr(schedule_study, "RUNS", {"whole": (3, "deviation", 60, 42)})
    schedule_study.table(whole.parent)
    _, meta = load_schedule(whole / "schedule.safetensors")
    assert f"| 3 | deviation | {meta.images} | 42 | " in capsys.readouterr().out


def test_evaluate_takes_a_schedule_on_any_number_of_steps(tmp_path):
    """A flat one is a constant deviation, to the bit; at the first point neither deviates."""
    grid = tuple(simple_sigmas(3).tolist())
    flat = Schedule(grid, (0.0, 0.5, 0.5), (1.0,) * 3)
    save_schedule(tmp_path / "flat.safetensors", flat, ScheduleMeta("tiny", 4))
    asked = [
        "--preset",
        "tiny",
        "--data.evaluation_prompts",
        "4",
        "--k",
        "2",
        "3",
        "5",
        "--fixed",
        "0.5",
    ]
    asked += ["--more_steps", "--schedule", str(tmp_path / "flat.safetensors")]
    asked += ["--data.validation_prompts", "2", "--out", str(tmp_path / "out")]
    assert evaluate(asked) == 0
    text = (tmp_path / "out" / "per_prompt.csv").read_text().splitlines()
    rows = [line.split(",") for line in text[1:]]
    place = rows[0].index("scene")
    for steps in ("2", "3", "5"):
        own = {row[0]: [] for row in rows[1:]}
        for row in rows[1:]:
            if row[1] == steps:
                own[row[0]].append(row[place])
        assert own["schedule flat"] == own["D=+0.5"] != own["D=0"]


def test_a_mean_schedule_is_exported_with_its_loss(tmp_path, capsys):
    tpm = "training/tiny/tpm/tiny.safetensors"
    out = tmp_path / "mean.safetensors"
    more = [
        "--backbone.precision",
        "fp32",
        "--data.evaluation_prompts",
        "8",
        "--data.validation_prompts",
        "16",
        "--out",
        str(out),
    ]
    assert export([tpm, *more]) == 0
    schedule, meta = load_schedule(out)
    assert meta.source == "mean of a TPM" and meta.gain_n == 8 and schedule.steps == 4
    assert torch.tensor(schedule.deviation[1:]).numpy() == pytest.approx(
        [0.65, 0.81, 0.04], abs=0.03
    )
    assert set(schedule.omega) == {1.0}
    assert "schedule - TPM" in capsys.readouterr().out
    assert export([tpm, *more]) == 1
    assert "exists already; choose another --out" in capsys.readouterr().err
    assert export(["--preset", "tiny"]) == 1
    assert "--tpm names no file" in capsys.readouterr().err
