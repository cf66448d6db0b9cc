"""Gradients for every training, and a small finished run, made once, with a copy for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def gradients():
    """Tests of the host switch them off, and may have run before in this process."""
    with torch.enable_grad():
        yield


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
