"""The embedded model with one layer and random weights, for tests of what does not depend on how
good the pictures are: a network evaluation takes a tenth of the time.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from async_timestep.training.tiny.backbone import FILES, WEIGHTS, new_transformer


@functools.cache
def small_model() -> str:
    """A folder for backbone.path, the same files in every process; it goes when this one ends."""
    folder = Path(tempfile.mkdtemp(prefix="small model "))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in FILES[1:]:
        shutil.copy(WEIGHTS / name, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = new_transformer(layers=1).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / FILES[0])
    return str(folder)
