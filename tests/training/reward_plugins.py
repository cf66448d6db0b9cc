"""Plugin files of rewards, for the tests of training/rewards/plugin.py."""

from __future__ import annotations

from pathlib import Path

import torch

from async_timestep.training.rewards import load_rewards
from async_timestep.training.run.config import RewardsConfig

CPU = torch.device("cpu")
BLUE = "def score(images, prompts):\n    return images[:, 2].mean((1, 2))\n"


def own(path: Path, text: str, **more):
    """The rewards of a plugin with this text, under the name `mine`."""
    path.write_text(text)
    return load_rewards(RewardsConfig(weights={"mine": 1.0}, plugin=str(path), **more), CPU)


def random_images() -> torch.Tensor:
    return torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
