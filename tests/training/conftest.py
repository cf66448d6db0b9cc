"""Gradients on: the host tests, which may share the process, turn them off as ComfyUI does."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gradients():
    with torch.enable_grad():
        yield
