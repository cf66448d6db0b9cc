"""No test has to be done within some time, which depends on the machine. Gradients on, but for the
host tests: they turn them off for their process, as ComfyUI does, and other tests may share it.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings
from warm import Warm

settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def warm():
    """Starts commands of training/ as processes of their own, without the seconds of imports."""
    process = Warm()
    yield process
    process.close()


@pytest.fixture(autouse=True)
def gradients(request):
    if "tests/host" in request.path.as_posix():
        yield
        return
    with torch.enable_grad():
        yield
