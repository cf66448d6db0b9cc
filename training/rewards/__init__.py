"""What images are scored with, behind one small interface.

    rewards = load_rewards(config.rewards, device)
    scores = rewards(images, prompts)  # metric -> (B,) float32 on the CPU

A reward gives one or more named metrics, one number an image. A reward that fails, or gives a
number that is not finite, stops the run with its name: it never becomes 0.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..run.config import RewardsConfig
from ..run.phase import phase

PAPER = ("image_reward", "hps", "clip", "pick")  # Eq. 16
SCENE = "scene"  # the exact judge of training/tiny; scene_iou, scene_clean, ... are its parts
NOISE = ("noise", "noise_floor")
KNOWN = f"{', '.join(PAPER)}, scene, scene_iou (or another part), scorer, noise, noise_floor"


class Reward(Protocol):
    """Names of its metrics, and how to get them."""

    names: tuple[str, ...]

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) float32 in [0, 1], one prompt each -> metric -> (B,) float32."""


class RewardError(RuntimeError):
    """A reward that failed; the message names it."""


class RewardSet:
    """All metrics that a config names, by as few rewards as possible."""

    def __init__(self, rewards: list[Reward], weights: dict[str, float], batch: int = 16):
        if batch < 1:
            raise ValueError(f"rewards.batch is {batch}, expected 1 or more images at a time.")
        self.rewards, self.weights, self.batch = rewards, dict(weights), batch
        self.names = tuple(weights)
        offered = {name for reward in rewards for name in reward.names}
        if lost := [name for name in self.names if name not in offered]:
            raise ValueError(
                f"rewards.weights names {lost[0]!r}, expected some of {', '.join(sorted(offered))}."
            )

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] -> metric -> (B,). Raises RewardError naming the metric."""
        scores: dict[str, Tensor] = {}
        for reward in self.rewards:
            parts = []
            for i in range(0, len(prompts), self.batch):
                rows = slice(i, i + self.batch)
                try:
                    parts.append(reward(images[rows], prompts[rows]))
                except (RewardError, torch.OutOfMemoryError):  # the latter has a cure of its own
                    raise
                except Exception as error:  # whatever a model raises, the user needs its name
                    raise RewardError(f"The reward {reward.names[0]} failed: {error}") from error
            for name in parts[0]:
                scores[name] = torch.cat([part[name].detach().float().cpu() for part in parts])
        for name in self.names:
            if not bool(scores[name].isfinite().all()):
                bad = int((~scores[name].isfinite()).nonzero()[0])
                raise RewardError(
                    f"The reward {name} gave {scores[name][bad].item()} for the prompt "
                    f"{prompts[bad]!r}, expected a finite number; nothing was updated."
                )
        return {name: scores[name] for name in self.names}


def load_rewards(config: RewardsConfig, device: torch.device) -> RewardSet:
    """All rewards of a config. A name that none of the built-in ones has is the plugin's.

    Raises ValueError on an unknown metric, OSError or ValueError on a missing or wrong file,
    RewardError when the worker of backend packages does not answer.
    """
    phase("loading the rewards")
    names, rewards = list(config.weights), []
    own = [name for name in names if not built_in(name)]
    if config.plugin:
        from .plugin import PluginReward, own_metric

        rewards.append(PluginReward(config.plugin, own_metric(config.plugin, own, KNOWN)))
    elif own:
        raise ValueError(
            f"rewards.weights names {own[0]!r}, expected some of {KNOWN}; or name the file that "
            "scores it by --rewards.plugin."
        )
    scene = [name for name in names if name == SCENE or name.startswith(SCENE + "_")]
    if scene or "scorer" in names:
        from .scene import SceneReward, ScorerReward

        rewards += [SceneReward(tuple(scene))] if scene else []
        rewards += [ScorerReward()] if "scorer" in names else []
    if noise := tuple(name for name in names if name in NOISE):
        from .noise import NoiseReward

        rewards.append(NoiseReward(noise))
    paper = [name for name in names if name in PAPER]
    if paper and config.backend == "packages":
        from .packages import PackageRewards

        phase(f"waiting for the reward worker at {config.address}")
        remote = tuple(name for name in paper if name in ("image_reward", "hps"))
        rewards += [PackageRewards(config, remote)] if remote else []
        paper = [name for name in paper if name not in remote]
    for name in paper:
        phase(f"loading the reward {name}")
        rewards.append(own_reward(name, config, device))
    return RewardSet(rewards, config.weights, config.batch)


def built_in(name: str) -> bool:
    """Whether a metric is of this package; any other name is a plugin's."""
    return name in (*PAPER, *NOISE, SCENE, "scorer") or name.startswith(SCENE + "_")


def own_reward(name: str, config: RewardsConfig, device: torch.device) -> Reward:
    """One of the paper's four from its published weights, in transformers' classes."""
    if name == "image_reward":
        from .image_reward import ImageReward

        return ImageReward(config, device)
    if name == "hps":
        from .hps import HPSv2

        return HPSv2(config, device)
    if name == "clip":
        from .clip import CLIPScore

        return CLIPScore(config, device)
    from .pick import PickScore

    return PickScore(config, device)
