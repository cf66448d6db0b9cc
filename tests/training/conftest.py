"""Gradients on: the host's tests, which may run in the same process, turn them off as ComfyUI does."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gradients():
    with torch.enable_grad():
        yield
