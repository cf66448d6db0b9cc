"""A small finished run, made once, and a copy of it for each test that damages it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run of three iterations with two checkpoints."""
    from small_run import SMALL

    from async_timestep.training.grpo import command as train_command

    out = tmp_path_factory.mktemp("finished") / "run"
    assert train_command.main([*SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))
