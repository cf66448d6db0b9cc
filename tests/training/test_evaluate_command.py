"""What evaluate.py says and refuses, and which files it leaves alone."""

from __future__ import annotations

import csv
import shutil

import pytest
from evaluations import SMALL, rows, write_tpm
from safetensors.torch import load_file, save_file

from async_timestep.training.evaluation import command as evaluate_command
from async_timestep.training.evaluation import paired as measuring
from async_timestep.training.evaluation import study as evaluation
from async_timestep.training.evaluation.paired import keys, load_measurement
from async_timestep.training.run.console import Report
from async_timestep.training.run.settings import parse
from async_timestep.training.tiny.backbone import WEIGHTS


def test_refusals_are_one_sentence(tmp_path, capsys):
    one = str(write_tpm(tmp_path / "one.safetensors", 1))
    flux = write_tpm(tmp_path / "flux.safetensors", 1, family="flux1_dev")
    for wrong, said in (
        (["--tpm", str(flux)], "is for the model family flux1_dev, expected tiny"),
        (["--tpm", str(tmp_path / "none.safetensors")], "was not found"),
        (["--tpm", one, one], "several files called"),
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
        lines = [line for line in lines if not line.startswith("No --tpm or --schedule was given")]
        assert len(lines) == 1 and said in lines[0] and lines[0].startswith("evaluate.py: ")
    assert not (tmp_path / "out").exists()


def test_another_grid_is_warned_of_once_and_equal_runs_are_shared(tmp_path, capsys, monkeypatch):
    file = write_tpm(tmp_path / "four.safetensors", 1, steps=4)
    measured = []
    measure = measuring.PairedMeasurement.measure
    monkeypatch.setattr(
        measuring.PairedMeasurement,
        "measure",
        lambda self, *a: measured.append(a[2]) or measure(self, *a),
    )
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
