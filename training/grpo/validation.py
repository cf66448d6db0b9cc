"""Validation: the mode of the policy (Eq. 18) against D = 0, on prompts held out of training, with
the same noises every time."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from ...tpm.learned import TPMPolicy
from ...tpm.network import TimestepPredictionModule
from ...tpm.policies import Policy
from ..backbones import Backbone
from ..backbones.sampling import column
from ..data.prompts import PromptList
from ..evaluation.grids import write_grid
from ..evaluation.paired import PairedMeasurement
from ..evaluation.statistics import difference, mean_error, objective
from ..rewards import RewardSet
from ..run import distributed
from ..run.config import Config
from ..run.distributed import World
from ..run.phase import phase

SPLIT = "validation"


class Validation:
    """Fixed prompts, noises and, where K is a list, a fixed K for every prompt."""

    def __init__(self, config: Config, backbone: Backbone, rewards: RewardSet, prompts: PromptList):
        self.measurement = PairedMeasurement(config, backbone, rewards, {SPLIT: prompts})
        self.config, self.prompts, self.texts = config, prompts, list(prompts.texts)
        every = config.step_counts
        self.steps = [every[i % len(every)] for i in range(len(self.texts))]
        self.baseline: dict[str, list[float]] = {}  # metric -> one score per prompt, at D = 0

    def run(self, world: World, module: TimestepPredictionModule) -> dict:
        """metrics: name -> mean, paired difference to D = 0 and its standard error; mean_deviation;
        deviation by decision (of the largest K); objective: the weighted mean of the differences
        in units of the baseline's std, what `log.best` goes by."""
        if not self.baseline:
            self.baseline = self.score(world, None)[0]
        scores, deviation = self.score(world, TPMPolicy(module, self.config.policy))
        new, base = (
            {name: torch.tensor(values) for name, values in some.items()}
            for some in (scores, self.baseline)
        )
        metrics = {}
        for name, values in new.items():
            change, error = difference(values, base[name])
            mean = mean_error(values)[0]
            metrics[name] = {"mean": mean, "difference": change, "error": error}
        largest = max(self.steps)
        at_largest = torch.tensor(
            [d for d, k in zip(deviation, self.steps, strict=True) if k == largest]
        )
        means = [sum(row) / len(row) for row in deviation]
        return {
            "metrics": metrics,
            "mean_deviation": sum(means) / len(means),
            "deviation": at_largest.mean(0).tolist(),
            "objective": objective(new, base, self.config.rewards.weights),
        }

    def score(
        self, world: World, policy: Policy | None
    ) -> tuple[dict[str, list[float]], list[list[float]]]:
        """metric -> one score per prompt, and the deviations of every prompt; this rank computes
        its share, every rank gets all."""
        rows = list(range(world.rank, len(self.texts), world.size))
        scores: dict[str, dict[int, float]] = {}
        deviation: dict[int, list[float]] = {}
        size = self.measurement.rewards.batch
        doing = "validation" if policy else "validation of the baseline"
        for k in sorted(set(self.steps)):
            same = [i for i in rows if self.steps[i] == k]
            for at in range(0, len(same), size):
                phase(doing, len(deviation), len(rows))
                part = same[at : at + size]
                found, record, _ = self.measurement.measure(SPLIT, part, k, policy)
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

    def write_grid(self, path: Path, module: TimestepPredictionModule, advice: str) -> None:
        """The first prompts, baseline | async, as a PNG. advice: what to do on a full disk."""
        count = min(self.config.log.samples, len(self.texts))
        if not count:
            return
        columns: dict[str, list[Tensor]] = {"D = 0": [], "TPM": []}
        policies = (None, TPMPolicy(module, self.config.policy))
        for policy, images in zip(policies, columns.values(), strict=True):
            for i in range(count):
                latents = self.measurement.sampled(SPLIT, [i], self.steps[i], policy)[0]
                images.append(self.measurement.backbone.decode(latents)[0].cpu())
        write_grid(path, columns, self.texts[:count], advice)
