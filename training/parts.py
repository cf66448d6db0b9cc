"""What a run is made of, loaded and put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tpm.network import TimestepPredictionModule, TPMConfig

from . import distributed
from .backbones import Backbone, load_backbone
from .config import Config
from .distributed import World
from .prompts import PromptList, load_prompts, training_order
from .rewards import RewardSet, load_rewards
from .rng import number
from .validation import Validation


@dataclass
class Parts:
    """Everything that a run is made of."""

    config: Config
    world: World
    device: torch.device
    backbone: Backbone
    rewards: RewardSet
    prompts: PromptList
    validation: Validation
    module: TimestepPredictionModule
    optimizer: torch.optim.Optimizer
    order: Callable[[int], str]  # i-th prompt of the training -> its text


def build(
    config: Config,
    world: World,
    backbone: Backbone | None = None,
    rewards: RewardSet | None = None,
) -> Parts:
    """Loads what the settings name. Raises ValueError, OSError or RuntimeError of one sentence."""
    if config.threads:
        torch.set_num_threads(config.threads)
    device = distributed.device_of(world, config.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    weights = {**config.rewards.weights}
    weights.setdefault("noise", 0.0)  # what the other rewards do not see is always on record
    config.rewards.weights = weights
    prompts = load_prompts(config.data, "train")
    held_out = load_prompts(config.data, "validation")
    rewards = rewards or load_rewards(config.rewards, device)
    backbone = backbone or load_backbone(config.backbone, device, config.text_encoders == "offload")
    policy = config.policy
    network = TPMConfig(
        latent_channels=backbone.latent_channels,
        pooled_dim=backbone.pooled_dim,
        pooled_split=tuple(backbone.pooled_split),
        width=policy.width,
        layers=policy.layers,
        heads=policy.heads,
        patch=policy.patch,
        registers=policy.registers,
        raw_cap=policy.raw_cap,
        global_conditioning=policy.global_conditioning,
        actions=policy.actions,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number(config.seed, "start"))
        module = TimestepPredictionModule(network).to(device)
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=config.grpo.lr,
        betas=tuple(config.grpo.betas),
        eps=config.grpo.eps,
        weight_decay=config.grpo.weight_decay,
    )
    distributed.shard(world, config.grpo.prompts, config.grpo.group)  # refuses early
    validation = Validation(config, backbone, rewards, held_out)
    order = training_order(prompts, config.seed)
    return Parts(
        config, world, device, backbone, rewards, prompts, validation, module, optimizer, order
    )
