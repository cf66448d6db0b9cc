"""The peak memory of a run."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

MIB = 2**20


def size(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def memory(run: Callable[[], object], weights: int, cuda: bool) -> int:
    """Peak bytes while `run` runs. On CUDA: all that torch has allocated there. On the CPU: the
    weights, plus the largest sum of the tensors that were made in the run and still lived, from
    torch's profiler; scratch space inside of oneDNN and the like is not seen."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it looks for a GPU and complains
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        run()
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    live, most = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return weights + most
