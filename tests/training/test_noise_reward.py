"""The noise meter as a penalty: noisier images of a group lose, detail hardly does."""

from __future__ import annotations

import pytest
import torch

from async_timestep.training.grpo.update import advantages
from async_timestep.training.rewards import RewardSet, load_rewards
from async_timestep.training.rewards.noise import NoiseReward
from async_timestep.training.run.config import GRPOConfig, RewardsConfig
from async_timestep.training.tiny.scenes import held_out_scenes, render

CPU = torch.device("cpu")
STRENGTHS = (0.01, 0.02, 0.04)


def scenes() -> torch.Tensor:
    """Rendered scenes (n, 3, 64, 64), without the stripes, that are as loud as noise of 0.05."""
    chosen = [scene for scene in held_out_scenes(16, 3) if scene.texture != "striped"]
    return render(chosen, torch.Generator().manual_seed(3))[0]


def photograph() -> torch.Tensor:
    """Four tiles (4, 3, 128, 128) of a photograph that scikit-image ships."""
    data = pytest.importorskip("skimage.data")
    image = torch.tensor(data.chelsea()).movedim(-1, 0) / 255
    return image[:, :256, :256].unfold(1, 128, 128).unfold(2, 128, 128).movedim(0, 2).flatten(0, 1)


def level(images: torch.Tensor) -> torch.Tensor:
    rewards = load_rewards(RewardsConfig(weights={"noise": -1.0}), CPU)
    return rewards(images, [""] * len(images))["noise"]


@pytest.mark.parametrize("originals", [scenes, photograph])
def test_white_noise_raises_the_level_of_every_image_and_gamma_hardly(originals):
    images = originals()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    noisy = [level((images + std * noise).clamp(0, 1)) for std in STRENGTHS]
    levels = torch.stack([level(images), *noisy])
    assert bool((levels.diff(dim=0) > 0).all())
    gamma = (level(images**1.1) - levels[0]).abs()
    assert bool((gamma < levels[1] - levels[0]).all())


class Sharpness:
    """Total variation: a naive metric of detail, which noise pleases."""

    names = ("sharpness",)

    def __call__(self, images, prompts):
        return {"sharpness": images.diff(dim=-1).abs().mean((1, 2, 3))}


def test_a_negative_weight_turns_noise_into_a_lower_advantage():
    images = scenes()[:6]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    group = torch.stack([images, *(images + std * noise for std in STRENGTHS)], dim=1)

    def advantage(**weights: float) -> torch.Tensor:
        rewards = RewardSet([Sharpness(), NoiseReward()], weights)
        scores = rewards(group.flatten(0, 1).clamp(0, 1), [""] * group[:, :, 0, 0, 0].numel())
        groups = {name: values.view(len(images), -1) for name, values in scores.items()}
        return advantages(groups, weights, GRPOConfig())[0]

    assert bool((advantage(noise=-1.0).diff(dim=1) < 0).all())
    alone, both = advantage(sharpness=1.0, noise=0.0), advantage(sharpness=1.0, noise=-2.0)
    assert bool((alone[:, -1] > alone[:, 0]).all())  # the noisiest wins
    assert bool((both[:, -1] < both[:, 0]).all())  # and loses to the clean one


def test_the_floor_ignores_detail_in_a_part_of_the_image_and_sees_noise_everywhere():
    images = torch.full((1, 3, 64, 64), 0.5)
    detailed = images.clone()
    detailed[..., 16:48, 16:48] += 0.2 * (torch.arange(32) % 2).view(1, 1, 1, 32)
    noisy = images + 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    rewards = load_rewards(RewardsConfig(weights={"noise": 0.0, "noise_floor": -1.0}), CPU)
    floor = rewards(torch.cat([images, detailed, noisy]), [""] * 3)["noise_floor"]
    assert floor[0] == 0 and floor[1] < 1e-4 and floor[2] > 0.005
