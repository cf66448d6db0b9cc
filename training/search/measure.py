"""What a generation costs and says: candidates and D = 0 on the same prompts and noises.

measure = Measure(measurement, order, weights, steps, seed, prompts)
differences = measure(3, schedules, range(10))      # (C, 10), in units of `measure.scale`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...tpm.policies import Policy
from ...tpm.schedule import Schedule
from ..evaluation.paired import PairedMeasurement
from ..evaluation.statistics import SPREAD_MIN
from ..run import distributed
from ..run.distributed import World
from ..run.rng import generator


@dataclass
class Measure:
    """order: i-th prompt of the search -> its text. weights: metric -> its weight. prompts: of a
    generation. scale: metric -> standard deviation at D = 0 over the first generation, which makes
    several metrics comparable; empty until that is measured. world: its ranks share the prompts.
    """

    measurement: PairedMeasurement
    order: Callable[[int], str]
    weights: dict[str, float]
    steps: int
    seed: int
    prompts: int
    world: World = field(default_factory=World)
    scale: dict[str, float] = field(default_factory=dict)
    known: tuple[int, dict[str, Tensor]] = (-1, {})

    def __call__(self, index: int, schedules: list[Schedule], rows: range) -> Tensor:
        """(C, rows) weighted differences to D = 0, in standard deviations."""
        base = self.baseline(index, rows)
        found = []
        for schedule in schedules:
            scores = self.scores(index, rows, schedule)
            parts = [
                weight * (scores[name] - base[name][rows.start : rows.stop]) / self.scale[name]
                for name, weight in self.weights.items()
            ]
            found.append(torch.stack(parts).sum(0) / sum(map(abs, self.weights.values())))
        return torch.stack(found) if found else torch.zeros(0, len(rows), dtype=torch.float64)

    def baseline(self, index: int, rows: range) -> dict[str, Tensor]:
        """D = 0 on the prompts of a generation up to these, each measured once; of the first
        generation on all, since that makes the scale."""
        if self.known[0] != index:
            nothing = torch.zeros(0, dtype=torch.float64)
            self.known = index, dict.fromkeys(self.weights, nothing)
        known = self.known[1]
        first = len(next(iter(known.values())))
        fresh = range(first, rows.stop if self.scale else self.prompts)
        if fresh:
            scores = self.scores(index, fresh, None)
            known.update({name: torch.cat([known[name], scores[name]]) for name in known})
        self.scale = self.scale or {
            name: max(float(values.std()), SPREAD_MIN) for name, values in known.items()
        }
        return known

    def scores(self, index: int, rows: range, policy: Policy | None) -> dict[str, Tensor]:
        """metric -> (rows,), float64; the ranks take every n-th prompt."""
        own = [row for row in rows if row % self.world.size == self.world.rank]
        texts = [self.order(index * self.prompts + row) for row in own]
        parts: list[dict[str, Tensor]] = []
        size = self.measurement.rewards.batch
        for first in range(0, len(own), size):
            part = slice(first, first + size)
            seeds = [generator(self.seed, "search", index, row) for row in own[part]]
            parts.append(self.measurement.scored(texts[part], seeds, self.steps, policy))
            self.measurement.advance(len(own[part]) * self.world.size)
        names = list(self.weights)
        values = {
            name: torch.cat([part[name].double().cpu() for part in parts])
            if parts
            else torch.zeros(0, dtype=torch.float64)
            for name in names
        }
        return self.gathered(values, rows, own)

    def gathered(self, values: dict[str, Tensor], rows: range, own: list[int]) -> dict[str, Tensor]:
        """Every rank's prompts in their order, the same on every rank."""
        if self.world.size == 1:
            return values
        whole = torch.zeros(len(values), len(rows), dtype=torch.float64)
        for place, name in enumerate(values):
            for k, row in enumerate(own):
                whole[place, row - rows.start] = values[name][k]
        whole = distributed.total(self.world, whole, self.measurement.backbone.device)
        return {name: whole[place] for place, name in enumerate(values)}
