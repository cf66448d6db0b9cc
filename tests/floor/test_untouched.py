"""The pack adds nothing to ComfyUI's lists and replaces none of its functions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from async_timestep.harness.host import ensure_host


@pytest.fixture(scope="module")
def found() -> dict:
    tree, python = ensure_host()
    script = Path(__file__).with_name("untouched.py")
    done = subprocess.run([python, script, tree], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_pack_changes_nothing(found):
    assert len(found["nodes"]) == 15 and found["looked_at"] > 10_000
    assert found["after_import"] == []


def test_sampling_changes_nothing_and_leaves_nothing_on_the_model(found):
    assert found["after_sampling"] == [] and found["left_on_the_model"] == []


def test_the_comparison_sees_a_patch(found):
    """A sampler name, a scheduler, a method and a function, as other packs change them."""
    assert found["after_patches"] == [
        "comfy.model_base.BaseModel.apply_model",
        "comfy.samplers.KSAMPLER_NAMES",
        "comfy.samplers.SCHEDULER_HANDLERS['a_scheduler']",
        "comfy.samplers.sampling_function",
    ]
