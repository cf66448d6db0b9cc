"""`--dry_run`: everything is loaded, one small rollout is made, nothing is written."""

from __future__ import annotations

from .cost import estimate, table
from .result import device_memory
from .trainer import Parts, one_iteration, steps_of


def dry_run(parts: Parts, price_per_hour: float) -> None:
    """Prints memory, seconds per phase, hours for training and evaluation, and the cost.

    A first rollout warms the kernels up, the second is measured: `minibatch` groups of 2 images.
    """
    config = parts.config
    full = config.grpo.group
    config.grpo.group = 2 * parts.world.size
    config.grpo.minibatch, config.grpo.prompts = config.grpo.group, 1
    one_iteration(parts, 0)
    record = one_iteration(parts, 0)
    if not parts.world.main:
        return
    config.grpo.group = full
    steps = steps_of(config, 0)
    print(table(estimate(config, record["seconds"], 2, steps), price_per_hour))
    print(f"peak memory: {device_memory(parts.device):.2f} GiB on {parts.device}")
