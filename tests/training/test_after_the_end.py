"""A run that has come to its end: left alone, gone on with, and the beginning of another."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
from small_run import SMALL, contents, resume, resumed

from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.training.grpo import command as train_command
from async_timestep.training.run.settings import parse


@pytest.mark.parametrize("more", [(), ("--iterations", "2"), ("--threads", "1")])
def test_a_finished_run_is_left_alone(run, capsys, more):
    (run / "README.md").write_text("edited by hand")
    (run / "tpm.safetensors").unlink()  # as where nothing was better than D = 0
    before = contents(run)
    code, sentence = resume(run, capsys, *more)
    assert code == 0 and sentence.startswith(f"Nothing is left to do in {run}")
    assert contents(run) == before


def test_what_a_kill_at_the_very_end_left_out_is_written(run, capsys):
    wanted = contents(run)
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        (run / name).unlink()
    assert resume(run, capsys)[0] == 0
    found = contents(run)
    assert found.keys() == wanted.keys()
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        assert found[name] == wanted[name]


def test_a_finished_run_goes_on_with_more_iterations(run, tmp_path, capsys):
    """To the bits of a run that was longer from the start; what the first end wrote is kept."""
    (run / "README.md").write_text("edited by hand")
    before = contents(run)
    code, text = resumed(run, capsys, "--iterations", "5")
    assert code == 0 and "config.yaml.before_1" in text
    assert parse(["--config", str(run / "config.yaml")])[0].iterations == 5
    aside = run / "result_000003"
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        assert (aside / name).read_bytes() == before[name]
    assert (run / "config.yaml.before_1").read_bytes() == before["config.yaml"]
    assert (run / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])
    straight = tmp_path / "straight"
    assert train_command.main([*SMALL, "--iterations", "5", "--out", str(straight)]) == 0
    weights = [load_tpm(out / "tpm_last.safetensors")[0].state_dict() for out in (run, straight)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert load_tpm(run / "tpm_last.safetensors")[1].iterations == 5
    assert resume(run, capsys)[1].startswith("Nothing is left to do")  # config.yaml knows


@pytest.mark.parametrize("name", ["br[ab] it's", "x[/x]"])
def test_the_printed_command_goes_on_whatever_the_folder_is_called(tmp_path, capsys, name):
    """A shell reads it as it is printed, and no part of it is markup; the hours count in all, so it
    takes the limit off."""
    out = tmp_path / name
    assert train_command.main([*SMALL, "--max_hours", "1e-9", "--out", str(out)]) == 0
    printed = capsys.readouterr().err.strip().splitlines()[-1].partition("go on with: ")[2]
    words = shlex.split(printed)
    assert words[:2] == ["python", "training/train_tpm.py"] and words[-1] == str(out)
    assert train_command.main(words[2:]) == 0
    assert load_tpm(out / "tpm_last.safetensors")[1].iterations == 3


def linear(out: Path, *more: str) -> int:
    small = [word for word in SMALL if "lr_schedule" not in word]
    return train_command.main([*small, "--grpo.lr_schedule=linear", "--out", str(out), *more])


def test_where_the_rate_has_fallen_to_0_a_new_run_begins_from_the_tpm(tmp_path, capsys):
    out, new = tmp_path / "br[ab] 'n'", tmp_path / "new"
    assert linear(out, "--iterations", "2") == 0
    code, sentence = resume(out, capsys, "--iterations", "4")
    assert code == 1 and "iterations is 4" in sentence and "had 2" in sentence
    assert "--init" in sentence
    how = resume(out, capsys)[1]
    file = shlex.split(how.removesuffix("."))[-1]
    assert how.startswith("Nothing is left") and file == str(out / "tpm_last.safetensors")
    assert linear(new, "--iterations", "2", "--init", file) == 0
    settings = (new / "config.yaml").read_text()
    assert settings.startswith("# begun from ") and parse(["--config", str(new / "config.yaml")])
    first = json.loads((new / "validation.jsonl").read_text().splitlines()[0])
    last = json.loads((out / "validation.jsonl").read_text().splitlines()[-1])
    assert first["iteration"] == 0 and first["metrics"] == last["metrics"]


WRONG_INIT = {
    "none.safetensors was not found": ["--init", "none.safetensors"],
    "has width 64 and policy.width is 32": ["--policy.width=32"],
    "has deviation_bound 0.5 and policy.deviation_bound is 1.0": ["--policy.deviation_bound=1.0"],
    "has actions 'deviation' and policy.actions is 'both'": ["--policy.actions=both", "--steps=3"],
    "--init and --resume were both given": ["--resume"],
}


@pytest.mark.parametrize("sentence", WRONG_INIT)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_a_tpm_that_a_run_cannot_begin_from(finished, tmp_path, capsys, sentence, dry):
    own = ["--init", str(finished / "tpm_last.safetensors"), "--policy.deviation_bound=0.5"]
    capsys.readouterr()
    assert linear(tmp_path / "other", *own, *WRONG_INIT[sentence], *dry) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence in said and said.endswith(".")
    assert not (tmp_path / "other").exists()
