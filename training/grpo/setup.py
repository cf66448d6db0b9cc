"""What a run is made of, loaded and put together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ...tpm.checkpoint import load_tpm
from ...tpm.metadata import TPMMeta
from ...tpm.network import TimestepPredictionModule, TPMConfig
from ..backbones import Backbone
from ..data.identity import identities
from ..data.prompts import PromptList, load_prompts, training_order
from ..evaluation.paired import load_models, set_up
from ..rewards import RewardSet
from ..run import distributed
from ..run.config import Config
from ..run.distributed import World
from ..run.phase import phase
from ..run.rng import number
from .validation import Validation


@dataclass
class Training:
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
    places: dict[str, dict]  # setting -> what lies there (identity.py), on rank 0


def load_training(
    config: Config,
    world: World,
    backbone: Backbone | None = None,
    rewards: RewardSet | None = None,
    init: str = "",
) -> Training:
    """Loads what the settings name; the caller's Config stays as it is. init: the TPM file that the
    module begins as, empty for a new one. Raises ValueError, OSError or RuntimeError of one
    sentence."""
    config, device = set_up(config, world)
    given = load_tpm(init) if init else None
    phase("reading the prompts")
    prompts = load_prompts(config.data, "train")
    held_out = load_prompts(config.data, "validation")
    check_held_out(config, len(held_out))
    distributed.shard(
        world, config.grpo.prompts_per_iteration, config.grpo.num_generations
    )  # refuses early
    backbone, rewards = load_models(config, device, backbone, rewards)
    places = identities(config, backbone.weights) if world.main else {}
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
    if given is not None:
        check_init(init, given[1], network, config, backbone)
        module.load_state_dict(given[0].state_dict())
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=config.grpo.lr,
        betas=tuple(config.grpo.betas),
        eps=config.grpo.eps,
        weight_decay=config.grpo.weight_decay,
    )
    validation = Validation(config, backbone, rewards, held_out)
    order = training_order(prompts, config.seed)
    return Training(
        config,
        world,
        device,
        backbone,
        rewards,
        prompts,
        validation,
        module,
        optimizer,
        order,
        places,
    )


def check_init(
    init: str, meta: TPMMeta, network: TPMConfig, config: Config, backbone: Backbone
) -> None:
    """Raises ValueError naming the first thing in which the TPM of --init is not one of these
    settings: its numbers would mean something else."""
    if meta.model_family != backbone.family:
        raise ValueError(
            f"--init {init} is for the model family {meta.model_family}, expected "
            f"{backbone.family}; choose another file, or the --preset that it was made with."
        )
    pairs = [
        (f"policy.{field.name}", getattr(meta.network, field.name), getattr(network, field.name))
        for field in fields(TPMConfig)
    ]
    own = ["deviation_bound"] + ["omega_range"] * (meta.actions in ("omega", "both"))
    for name in own:
        pairs.append((f"policy.{name}", getattr(meta, name), getattr(config.policy, name)))
    for name, there, here in pairs:
        if there != here:
            raise ValueError(
                f"--init {init} has {name.removeprefix('policy.')} {there!r} and {name} is "
                f"{here!r}, expected the same; give the settings that the file was trained with."
            )


def begun_from(init: str) -> str:
    """A line above the settings of a run that began from a TPM."""
    digest = hashlib.sha256(Path(init).read_bytes()).hexdigest()
    return f"# begun from {json.dumps(init)}, sha256 {digest}\n"


def check_held_out(config: Config, count: int) -> None:
    """Raises ValueError where the validation prompts are too few for what is made of them: a
    validation divides by their spread, a sample grid shows them."""
    log, data = config.log, config.data
    told = f"data.validation_prompts is {data.validation_prompts}"
    if data.validation:
        told += f" and data.validation {data.validation}, which gives {count}"
    if log.validate_every and count < 2:
        raise ValueError(
            f"{told}, but log.validate_every is {log.validate_every} and a validation needs 2 "
            "prompts or more (half of a file is kept for evaluation); give it more, or set "
            "log.validate_every to 0 for a run without validation."
        )
    if log.samples_every and log.samples and not count:
        raise ValueError(
            f"{told}, but log.samples_every is {log.samples_every} and a sample grid shows "
            "validation prompts; give it one, or set log.samples_every to 0."
        )
