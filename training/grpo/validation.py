"""Validation: the mode of the policy (Eq. 18) against D = 0, on prompts held out of training, with
the same noises every time."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ...report.trace import Run
from ...tpm.learned import TPMPolicy
from ...tpm.network import TimestepPredictionModule
from ...tpm.policies import Policy
from ..backbones import Backbone
from ..backbones.sampling import column
from ..data.prompts import PromptList
from ..evaluation.grids import write_grid
from ..rewards import RewardSet
from ..run import distributed
from ..run.config import Config
from ..run.distributed import World
from ..run.phase import phase
from ..run.rng import generator


class Validation:
    """Fixed prompts, noises and, where K is a list, a fixed K for every prompt."""

    def __init__(self, config: Config, backbone: Backbone, rewards: RewardSet, prompts: PromptList):
        self.config, self.backbone, self.rewards = config, backbone, rewards
        self.prompts, self.texts = prompts, list(prompts.texts)
        every = config.step_counts
        self.steps = [every[i % len(every)] for i in range(len(self.texts))]
        self.baseline: dict[str, list[float]] = {}  # metric -> one score a prompt, at D = 0

    def run(self, world: World, module: TimestepPredictionModule) -> dict:
        """metrics: name -> mean, paired difference to D = 0 and its standard error; mean_deviation;
        deviation by decision (of the largest K); objective: the weighted mean of the differences
        in units of the baseline's std, what `log.best` goes by."""
        if not self.baseline:
            self.baseline = self.score(world, None)[0]
        scores, deviation = self.score(world, TPMPolicy(module, self.config.policy))
        weights = self.config.rewards.weights
        total = sum(abs(weight) for weight in weights.values())
        metrics, objective = {}, 0.0
        for name, values in scores.items():
            new, base = torch.tensor(values), torch.tensor(self.baseline[name])
            change = new - base
            metrics[name] = {
                "mean": float(new.mean()),
                "difference": float(change.mean()),
                "error": float(change.std() / len(change) ** 0.5),
            }
            spread = float(base.std().clamp(min=1e-6))
            objective += weights.get(name, 0.0) / total * float(change.mean()) / spread
        largest = max(self.steps)
        at_largest = torch.tensor([d for d, k in zip(deviation, self.steps, strict=True)
                                   if k == largest])  # fmt: skip
        means = [sum(row) / len(row) for row in deviation]
        return {
            "metrics": metrics,
            "mean_deviation": sum(means) / len(means),
            "deviation": at_largest.mean(0).tolist(),
            "objective": objective,
        }

    def score(
        self, world: World, policy: Policy | None
    ) -> tuple[dict[str, list[float]], list[list[float]]]:
        """metric -> one score a prompt, and the deviations of every prompt; this rank computes its
        share, every rank gets all."""
        rows = list(range(world.rank, len(self.texts), world.size))
        scores: dict[str, dict[int, float]] = {}
        deviation: dict[int, list[float]] = {}
        doing = "validation" if policy else "validation of the baseline"
        for k in sorted(set(self.steps)):
            same = [i for i in rows if self.steps[i] == k]
            for at in range(0, len(same), self.rewards.batch):
                phase(doing, len(deviation), len(rows))
                part = same[at : at + self.rewards.batch]
                images, record = self.images(part, k, policy)
                found = self.rewards(images, [self.texts[i] for i in part])
                for name, values in found.items():
                    scores.setdefault(name, {}).update(zip(part, values.tolist(), strict=True))
                told = column(record, "deviation")[:, 1:].tolist()
                deviation.update(zip(part, told, strict=True))
        if world.size > 1:
            boxes: list = [None] * world.size
            with distributed.together():
                dist.all_gather_object(boxes, (scores, deviation))
            scores = {name: {} for name in boxes[0][0]}
            for some, told in boxes:
                deviation |= told
                for name, values in some.items():
                    scores[name] |= values
        count = range(len(self.texts))
        return (
            {name: [values[i] for i in count] for name, values in scores.items()},
            [deviation[i] for i in count],
        )

    def images(self, rows: list[int], steps: int, policy: Policy | None) -> tuple[Tensor, Run]:
        """Images (B, 3, H, W) of some validation prompts, and what was told."""
        conditioning = self.backbone.encode([self.texts[i] for i in rows])
        noise = self.backbone.noise(
            [generator(self.config.data.seed, "validation", i) for i in rows]
        )
        sigmas = self.backbone.sigmas(steps)
        record = Run(policy.label if policy else "D = 0", self.backbone.family, sigmas.tolist())
        latents = self.backbone.sample(conditioning, noise, sigmas, policy, record=record)
        return self.backbone.decode(latents), record

    def write_grid(self, path: Path, module: TimestepPredictionModule, advice: str) -> None:
        """The first prompts, baseline | async, as a PNG. advice: what to do on a full disk."""
        count = min(self.config.log.samples, len(self.texts))
        if not count:
            return
        columns: dict[str, list[Tensor]] = {"D = 0": [], "TPM": []}
        policies = (None, TPMPolicy(module, self.config.policy))
        for policy, images in zip(policies, columns.values(), strict=True):
            images += [self.images([i], self.steps[i], policy)[0][0].cpu() for i in range(count)]
        write_grid(path, columns, self.texts[:count], advice)
