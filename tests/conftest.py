"""Gradients on, but for the host tests: they turn them off for their process, as ComfyUI does, and
other tests may share it.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gradients(request):
    if "tests/host" in request.path.as_posix():
        yield
        return
    with torch.enable_grad():
        yield
