"""`--dry_run`: everything is loaded, one small rollout is made, nothing is written."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from .cost import estimate, table
from .result import device_memory
from .setup import Training
from .trainer import one_iteration, steps_of

IMAGES = 2  # of the small rollout, on each rank


def dry_run(training: Training, price_per_hour: float) -> None:
    """Prints memory, seconds per phase, hours for training and evaluation, and the cost. A first
    rollout warms the kernels up, the second is measured."""
    small = copy.deepcopy(training.config)
    small.grpo.num_generations = small.grpo.minibatch_size = IMAGES * training.world.size
    small.grpo.prompts_per_iteration = 1
    trial = replace(training, config=small)
    one_iteration(trial, 0)
    record = one_iteration(trial, 0)
    if not training.world.main:
        return
    steps = steps_of(small, 0)
    found = estimate(training.config, record["seconds"], IMAGES, steps, training.world.size)
    print(table(found, price_per_hour))
    print(f"peak memory: {peak(training.device)}")


def peak(device: torch.device) -> str:
    memory = device_memory(device)
    if memory is None:
        return f"not known on this system, which has no psutil ({device})"
    return f"{memory:.2f} GiB on {device}"
