"""One method on paired noises: the model, the rewards and the prompts of an evaluation.

bench = build(config, count=256, report=report)
scores, trace, seconds = bench.measure("evaluation", range(16), 4, Constant(0.5))
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...report.trace import Run
from ...tpm.policies import Policy
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
from ..run.settings import PLACES, as_dict, flat
from .methods import Schedule

# settings that change no number
NOT_BINDING = ("backbone.batch", "backbone.decode_batch", "backbone.compile")
NOT_BINDING += ("rewards.batch", "rewards.address")


@dataclass
class Bench:
    """Model, rewards and prompts of one evaluation."""

    config: Config
    backbone: Backbone
    rewards: RewardSet
    prompts: dict[str, PromptList]  # "validation" and "evaluation" -> prompts
    report: Report
    places: dict[str, dict] = field(default_factory=dict)  # what lies there, see identity.py

    def begin(self, description: str, total: int) -> None:
        """A new task, in network evaluations of one image."""
        self.report.begin(description, total)

    def advance(self, count: int, description: str | None = None) -> None:
        self.report.advance(count, description)

    def texts(self, split: str) -> list[str]:
        return list(self.prompts[split].texts)

    def sampled(
        self, split: str, rows: range, steps: int, policy: Policy | None, solver: str = "euler"
    ) -> tuple[Tensor, Run, float]:
        """Latents of some prompts of a split, what was told, and the seconds it took. The noise of
        prompt i is the same for every method."""
        everything = self.texts(split)
        conditioning = self.backbone.encode([everything[i] for i in rows])
        noise = self.backbone.noise([generator(self.config.data.seed, split, i) for i in rows])
        phase("sampling")
        sigmas = self.backbone.sigmas(steps)
        record = Run(policy.label if policy else "D = 0", self.backbone.family, sigmas.tolist())
        start = time.perf_counter()
        latents = self.backbone.sample(conditioning, noise, sigmas, policy, solver, record)
        if latents.device.type == "cuda":
            torch.cuda.synchronize(latents.device)
        return latents, record, time.perf_counter() - start

    def measure(
        self, split: str, rows: range, steps: int, policy: Policy | None, solver: str = "euler"
    ) -> tuple[dict[str, Tensor], Run, float]:
        """metric -> (len(rows),), what was told, seconds of sampling."""
        latents, record, seconds = self.sampled(split, rows, steps, policy, solver)
        everything = self.texts(split)
        phase("scoring")
        scores = self.rewards(self.backbone.decode(latents), [everything[i] for i in rows])
        return scores, record, seconds

    def batches(self, split: str, first: int = 0) -> list[range]:
        size, count = self.rewards.batch, len(self.prompts[split])
        return [range(i, min(i + size, count)) for i in range(first, count, size)]

    def whole(self, split: str, steps: int, policy: Policy | None) -> dict[str, Tensor]:
        """metric -> one score a prompt of the split, Euler."""
        parts = []
        for rows in self.batches(split):
            parts.append(self.measure(split, rows, steps, policy)[0])
            self.advance(len(rows) * steps)
        return {name: torch.cat([part[name] for part in parts]) for name in self.rewards.names}

    def mean_schedule(self, steps: int, policy: Policy) -> Schedule:
        """A policy's mean decision over the validation prompts, one a grid point."""
        deviation, omega = [], []
        for rows in self.batches("validation"):
            record = self.sampled("validation", rows, steps, policy)[1]
            deviation.append(column(record, "deviation"))
            omega.append(column(record, "omega"))
            self.advance(len(rows) * steps)
        return Schedule(
            tuple(torch.cat(deviation).double().mean(0).tolist()),
            tuple(torch.cat(omega).double().mean(0).tolist()),
        )


def build(config: Config, count: int, report: Report) -> Bench:
    """Loads what the settings name; count: evaluation prompts, 0 is all of data's. The caller's
    Config stays as it is. Raises ValueError or OSError of one sentence."""
    config = as_used(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = distributed.device_of(World(), config.device)
    phase("reading the prompts")
    prompts = load_prompts(config.data, "evaluation")
    if count < 0 or count > len(prompts):
        raise ValueError(
            f"--n is {count}, but there are {len(prompts)} evaluation prompts; choose fewer, or 0 "
            "for all, or raise data.evaluation_prompts."
        )
    if count:
        prompts = PromptList(prompts.texts[:count], prompts.categories[:count], prompts.source)
    return Bench(
        config,
        load_backbone(config.backbone, device, config.text_encoders == "offload"),
        load_rewards(config.rewards, device),
        {"evaluation": prompts, "validation": load_prompts(config.data, "validation")},
        report,
        places=identities(config),
    )


def categories(prompts: PromptList, family: str) -> list[str]:
    """One a prompt; of the embedded model's scenes their texture, which is where D matters."""
    if family != "tiny":
        return list(prompts.categories)
    words = [prompt.split() for prompt in prompts.texts]
    return [w[-2] if w[-1:] == ["background"] and len(w) > 1 else "" for w in words]


def keys(bench: Bench) -> tuple[str, str]:
    """Hashes of the settings that change a number, and of the prompts of both splits. Of a local
    place its content counts; the second, of an older trainer, has its name."""
    values = flat(as_dict(bench.config))
    own = {
        name: value
        for name, value in values.items()
        if (name.startswith(("backbone.", "rewards.")) and name not in NOT_BINDING)
        or name == "data.seed"
    }
    prompts = "".join(f" {split} {found.sha256[:16]}" for split, found in bench.prompts.items())
    content = {name: value for name, value in own.items() if name not in PLACES}
    content |= {name: found["hub"] or found["files"] for name, found in bench.places.items()}
    return f"settings {digest(content)}{prompts}", f"settings {digest(own)}{prompts}"


def digest(values: dict) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
