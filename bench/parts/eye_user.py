"""A simulated person for Tune by Eye: looks at sheets of real pictures of the embedded model, and
takes the column that the exact judge likes best, but for some slips.

    person = Person(measure, wrong=0.1, seed=3)
    found = tuned(person, begin("seed 3", 4, "conditioning", seed=3), choices=20, pictures=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from async_timestep.bench.parts.searched import METRIC
from async_timestep.eye import session
from async_timestep.eye.session import Entry, Round, Session
from async_timestep.eye.shapes import Shaped
from async_timestep.tpm.policies import Decision, Policy, State
from async_timestep.training.evaluation.paired import PairedMeasurement
from async_timestep.training.run.rng import generator, number
from async_timestep.training.search.measure import Measure


@dataclass(frozen=True)
class EachItsOwn(Policy):
    """A policy for every image of a batch, so that schedules share the first step."""

    policies: tuple[Policy, ...]

    def decide(self, state: State) -> Decision:
        one = replace(state, batch=1)
        own = [policy.decide(one) for policy in self.policies]
        names = ("deviation", "cut", "omega")
        parts = {name: torch.cat([getattr(each, name) for each in own]) for name in names}
        return Decision(**parts, follow=own[0].follow)


@dataclass(frozen=True)
class Person:
    """wrong: the share of choices that go to any of the other columns. measure: the model, the
    judge and the prompts of the search; None: a person who chooses at random, without looking."""

    measure: Measure | None
    wrong: float
    seed: int

    def choice(self, sheet: Round, mode: str, index: int) -> int:
        """1 for column A, and so on."""
        slip = generator(self.seed, "person", index)
        if self.measure is None:
            return 1 + int(torch.randint(sheet.columns, (1,), generator=slip))
        best = int(self.scores(sheet.entries(), mode).view(sheet.rows, -1).mean(0).argmax())
        if float(torch.rand(1, generator=slip)) < self.wrong:
            best += 1 + int(torch.randint(sheet.columns - 1, (1,), generator=slip))
        return 1 + best % sheet.columns

    def scores(self, entries: Sequence[Entry], mode: str) -> Tensor:
        """(entries,) of the judge; the pictures of a row have one noise."""
        measurement = self.measure.measurement
        policy = EachItsOwn(tuple(Shaped(entry.numbers, mode) for entry in entries))
        noises = [torch.Generator().manual_seed(entry.seed) for entry in entries]
        texts = [entry.prompt for entry in entries]
        return measurement.scored(texts, noises, self.measure.steps, policy)[METRIC].double()


def tuned(person: Person, own: Session, choices: int, pictures: int) -> Session:
    """The session after so many choices, on the prompts of the training split in their order."""
    first = number(person.seed, "prompts") % 10_000
    prompts = ["a prompt"]
    if person.measure is not None:
        prompts = [person.measure.order(first + i) for i in range(choices * pictures)]
    for index in range(choices):
        own = session.next_round(own, prompts, pictures)
        own = session.answered(own, 0, person.choice(own.open, own.mode, index))
    return own


def together(
    measurement: PairedMeasurement, split: str, steps: int, policies: Sequence[Policy]
) -> Tensor:
    """(policies, prompts) scores on a split, as `measurement.whole` gives one after the other; the
    first step, at which nothing deviates, is computed once for all."""
    texts, count = measurement.texts(split), len(policies)
    size = max(1, measurement.rewards.batch // count)
    found = []
    for first in range(0, len(texts), size):
        rows = [row for row in range(first, min(first + size, len(texts))) for _ in policies]
        policy = EachItsOwn(tuple(policies) * (len(rows) // count))
        noises = measurement.generators(split, rows)
        scores = measurement.scored([texts[row] for row in rows], noises, steps, policy)[METRIC]
        found.append(scores.view(-1, count))
    return torch.cat(found).T
