"""One method on paired noises: the model, rewards and prompts of an evaluation or validation.

    measurement = load_measurement(config, count=256, report=report)
    scores, record, seconds = measurement.measure("evaluation", range(16), 4, Constant(0.5))

The noise of a prompt is the same for every method, so what differs is the method's.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...report.trace import Run
from ...tpm.policies import Policy
from ...tpm.schedule import Schedule
from ..backbones import Backbone, load_backbone
from ..backbones.sampling import column
from ..data.identity import identities
from ..data.prompts import PromptList, load_prompts
from ..rewards import RewardSet, load_rewards
from ..run import distributed
from ..run.config import Config, as_used
from ..run.console import Report
from ..run.distributed import World
from ..run.phase import phase
from ..run.rng import generator
from ..run.settings import NEWER, PLACES, as_dict, flat

# settings that change no number
NOT_BINDING = ("backbone.batch", "backbone.decode_batch", "backbone.compile")
NOT_BINDING += ("rewards.batch", "rewards.address", "backbone.comfyui")


@dataclass
class PairedMeasurement:
    """Model, rewards and prompts: any policy on them, always from the same noises."""

    config: Config
    backbone: Backbone
    rewards: RewardSet
    prompts: dict[str, PromptList]  # split, such as "validation" -> prompts
    report: Report | None = None  # None: who measures tells by itself how far it is
    places: dict[str, dict] = field(default_factory=dict)  # what lies there, see identity.py

    def begin(self, description: str, total: int) -> None:
        """A new task, in network evaluations of one image."""
        if self.report is not None:
            self.report.begin(description, total)

    def advance(self, count: int, description: str | None = None) -> None:
        if self.report is not None:
            self.report.advance(count, description)

    def phase(self, what: str) -> None:
        """What is being done now, for whoever listens (run/phase.py)."""
        if self.report is not None:
            phase(what)

    def texts(self, split: str) -> list[str]:
        return list(self.prompts[split].texts)

    def generators(self, split: str, rows: Sequence[int]) -> list[torch.Generator]:
        """What the noises of some prompts of a split are drawn from."""
        return [generator(self.config.data.seed, split, i) for i in rows]

    def sampled(
        self,
        split: str,
        rows: Sequence[int],
        steps: int,
        policy: Policy | None,
        solver: str = "euler",
    ) -> tuple[Tensor, Run, float]:
        """Latents of some prompts of a split, what was told, and the seconds it took. The noise of
        prompt i is the same for every method."""
        everything = self.texts(split)
        conditioning = self.backbone.encode([everything[i] for i in rows])
        noise = self.backbone.noise(self.generators(split, rows))
        self.phase("sampling")
        sigmas = self.backbone.sigmas(steps)
        record = Run(policy.label if policy else "D = 0", self.backbone.family, sigmas.tolist())
        start = time.perf_counter()
        latents = self.backbone.sample(conditioning, noise, sigmas, policy, solver, record)
        distributed.synchronize(latents.device)
        return latents, record, time.perf_counter() - start

    def measure(
        self,
        split: str,
        rows: Sequence[int],
        steps: int,
        policy: Policy | None,
        solver: str = "euler",
    ) -> tuple[dict[str, Tensor], Run, float]:
        """metric -> (len(rows),), what was told, seconds of sampling."""
        latents, record, seconds = self.sampled(split, rows, steps, policy, solver)
        everything = self.texts(split)
        self.phase("scoring")
        scores = self.rewards(self.backbone.decode(latents), [everything[i] for i in rows])
        return scores, record, seconds

    def scored(
        self, texts: list[str], noises: list[torch.Generator], steps: int, policy: Policy | None
    ) -> dict[str, Tensor]:
        """metric -> (len(texts),), Euler, of prompts and noises that belong to no split."""
        conditioning, noise = self.backbone.encode(texts), self.backbone.noise(noises)
        self.phase("sampling")
        latents = self.backbone.sample(conditioning, noise, self.backbone.sigmas(steps), policy)
        self.phase("scoring")
        return self.rewards(self.backbone.decode(latents), texts)

    def batches(self, split: str, first: int = 0) -> list[range]:
        size, count = self.rewards.batch, len(self.prompts[split])
        return [range(i, min(i + size, count)) for i in range(first, count, size)]

    def whole(self, split: str, steps: int, policy: Policy | None) -> dict[str, Tensor]:
        """metric -> one score per prompt of the split, Euler."""
        parts = []
        for rows in self.batches(split):
            parts.append(self.measure(split, rows, steps, policy)[0])
            self.advance(len(rows) * steps)
        return {name: torch.cat([part[name] for part in parts]) for name in self.rewards.names}

    def mean_schedule(self, steps: int, policy: Policy) -> Schedule:
        """A policy's mean decision over the validation prompts, one per grid point."""
        deviation, omega = [], []
        for rows in self.batches("validation"):
            record = self.sampled("validation", rows, steps, policy)[1]
            deviation.append(column(record, "deviation"))
            omega.append(column(record, "omega"))
            self.advance(len(rows) * steps)
        return Schedule(
            self.backbone.times(steps),
            tuple(torch.cat(deviation).double().mean(0).tolist()),
            tuple(torch.cat(omega).double().mean(0).tolist()),
        )


def set_up(config: Config, world: World) -> tuple[Config, torch.device]:
    """The settings as they are used, a copy, and the device; sets torch's threads, and float32
    products to all their bits. Raises ValueError of one sentence."""
    config = as_used(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = distributed.device_of(world, config.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return config, device


def load_models(
    config: Config,
    device: torch.device,
    backbone: Backbone | None = None,
    rewards: RewardSet | None = None,
) -> tuple[Backbone, RewardSet]:
    """The model and the rewards that the settings name, or the given ones in their place. Raises
    ValueError, OSError or RuntimeError of one sentence."""
    rewards = rewards or load_rewards(config.rewards, device)
    offload = config.text_encoders == "offload"
    return backbone or load_backbone(config.backbone, device, offload), rewards


def load_measurement(
    config: Config,
    count: int,
    report: Report,
    backbone: Backbone | None = None,
    rewards: RewardSet | None = None,
) -> PairedMeasurement:
    """Loads what the settings name, but for what is given; count: evaluation prompts, 0 is all of
    data's. The caller's Config stays as it is. Raises ValueError or OSError of one sentence."""
    config, device = set_up(config, World())
    phase("reading the prompts")
    prompts = load_prompts(config.data, "evaluation")
    if count < 0 or count > len(prompts):
        raise ValueError(
            f"--n is {count}, but there are {len(prompts)} evaluation prompts; choose fewer, or 0 "
            "for all, or raise data.evaluation_prompts."
        )
    if count:
        prompts = PromptList(prompts.texts[:count], prompts.categories[:count], prompts.source)
    splits = {"evaluation": prompts, "validation": load_prompts(config.data, "validation")}
    backbone, rewards = load_models(config, device, backbone, rewards)
    places = identities(config, backbone.weights)
    return PairedMeasurement(config, backbone, rewards, splits, report, places)


def categories(prompts: PromptList, backbone: Backbone) -> list[str]:
    """One per prompt: the model's own groups where it has some, or the categories of the data."""
    groups = [backbone.group(text) for text in prompts.texts]
    return list(prompts.categories) if None in groups else groups


def keys(measurement: PairedMeasurement) -> tuple[str, str]:
    """Hashes of the settings that change a number, and of the prompts of both splits. Of a local
    place its content counts; the second, of an older trainer, has its name."""
    values = flat(as_dict(measurement.config))
    own = {
        name: value
        for name, value in values.items()
        if (name.startswith(("backbone.", "rewards.")) and name not in NOT_BINDING)
        or name == "data.seed"
    }
    own = {name: value for name, value in own.items() if value or name not in NEWER}
    prompts = "".join(
        f" {split} {found.sha256[:16]}" for split, found in measurement.prompts.items()
    )
    content = {name: value for name, value in own.items() if name not in PLACES}
    content |= {name: found["hub"] or found["files"] for name, found in measurement.places.items()}
    return f"settings {digest(content)}{prompts}", f"settings {digest(own)}{prompts}"


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
