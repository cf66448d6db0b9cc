"""A fixed draw of damaged run folders, and every hostile file of settings (`make fuzz` has all)."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from small_model import small_model

from async_timestep.harness import hostile_files, hostile_folders
from async_timestep.training.grpo import command

DRAWN = random.Random(17).sample(
    [case for case in hostile_folders.cases() if case.partition(": ")[2] not in
     hostile_folders.SETTINGS], 12,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    small = [*hostile_folders.RUN, "--backbone.path", small_model(), "--log.samples_every=0"]
    assert command.main([*small, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("case", DRAWN)
def test_a_damaged_folder_goes_on_or_is_one_sentence(finished, tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "samples").mkdir(exist_ok=True)
    hostile_folders.damage(run, case, random.Random(case))
    go_on = [*hostile_folders.GO_ON, "--out", str(run)]
    assert hostile_folders.fault_of(run, lambda: command.main(go_on)) == ""


@pytest.mark.parametrize("name", hostile_folders.SETTINGS)
def test_a_file_of_settings_that_is_none_is_one_sentence(tmp_path, name, monkeypatch):
    """One of them stands for 31 billion values."""
    monkeypatch.chdir(tmp_path)
    path = hostile_folders.written_settings(tmp_path, name)
    arguments = ["--config", str(path), "--out", str(tmp_path / "run"), "--dry_run"]
    assert hostile_folders.fault_of(tmp_path, lambda: command.main(arguments)) == ""
    assert not (tmp_path / "run").exists()


def test_the_judge_sees_a_fault(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n')

    def shortens() -> int:
        (tmp_path / "metrics.jsonl").write_text('{"iteration": 1}\n')
        return 0

    def breaks() -> int:
        raise KeyError("module")

    assert hostile_folders.fault_of(tmp_path, breaks) == "KeyError: 'module'"
    assert "lost lines" in hostile_folders.fault_of(tmp_path, shortens)
    assert hostile_folders.fault_of(tmp_path, lambda: 0) == ""
    assert "no sentence" in hostile_folders.fault_of(tmp_path, lambda: 1)


def test_a_fixed_draw_of_hostile_files(tmp_path):
    """TPM and schedule files: bytes, metadata and tensors, with and without a hash that fits."""
    cases = hostile_files.cases(tmp_path)
    assert len(cases) > 5000
    for case in random.Random(17).sample(cases, 60):
        path = hostile_files.written(tmp_path, case, random.Random(str(case)))
        assert hostile_files.fault_of(path) == "", case
    for case in cases:  # all that is huge in a whole file's weights
        if case.kind == "tpm" and case.change == "huge, both signs" and case.hashed:
            path = hostile_files.written(tmp_path, case, random.Random(0))
            assert hostile_files.fault_of(path) == "", case
