"""The search itself: generations of candidates on common prompts, each paired with D = 0.

    generations = list(search(measure, space, plan))
    numbers, gain, error = conclusion(space, plan, generations)

`measure(g, schedules, rows)` gives (C, n) differences to D = 0, and costs n (C + 1) images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tpm.schedule import Schedule
from ..run.rng import generator
from .space import Space
from .surrogate import Surrogate, covariance_of_means

PLACES = 512  # of which a posterior sample takes its maximum
CAUTION = 1.0  # standard deviations that the search takes off what it believes
LEAST = 4  # prompts of a generation: fewer say nothing of their own spread
BEHIND = 2.0  # standard errors by which a candidate falls behind and is measured no further


@dataclass(frozen=True)
class Plan:
    """images: all that may be rolled out, those of D = 0 among them. prompts: of a generation.
    candidates: of a generation. seed: of everything that is drawn."""

    images: int
    prompts: int = 20
    candidates: int = 7
    seed: int = 0

    def room(self, done: Sequence[Generation]) -> int:
        """Prompts of the next generation: an even number, fewer at the end; 0 where none fit."""
        left = self.images - sum(one.images for one in done)
        fit = min(self.prompts, left // (self.candidates + 1))
        return fit - fit % 2 if fit >= LEAST else 0


@dataclass(frozen=True)
class Generation:
    """points: (C, m). differences: C lists of paired differences to D = 0, in standard deviations
    of the objective at D = 0; a dropped candidate has the first half only."""

    index: int
    points: Tensor
    differences: list[list[float]]

    @property
    def images(self) -> int:
        counts = [len(own) for own in self.differences]
        return sum(counts) + max(counts)

    @property
    def means(self) -> Tensor:
        return torch.tensor([sum(own) / len(own) for own in self.differences], dtype=torch.float64)


def surrogate_of(generations: Sequence[Generation]) -> Surrogate:
    return Surrogate(
        [one.points for one in generations],
        [one.means for one in generations],
        [covariance_of_means(one.differences) for one in generations],
    )


def next_points(space: Space, plan: Plan, done: Sequence[Generation]) -> Tensor:
    """(C, m): the first generation has the guesses and random places; each later candidate is the
    maximum of a function drawn from the posterior (Thompson sampling)."""
    draw = generator(plan.seed, "search", "points", len(done))
    if not done:
        guesses = space.guesses()[: plan.candidates]
        return torch.cat([guesses, space.random(plan.candidates - len(guesses), draw)])
    surrogate, half = surrogate_of(done), PLACES // 2
    best = maximum(space, surrogate, draw)
    places = torch.cat([space.random(half, draw), space.around(best, half, draw)])
    drawn = surrogate.samples(places, plan.candidates, draw)
    return places[drawn.argmax(dim=1)]


def maximum(
    space: Space, surrogate: Surrogate, draw: torch.Generator, caution: float = CAUTION
) -> Tensor:
    """(m,) where the posterior mean less `caution` standard deviations is highest: random places,
    then ever closer ones. Without caution a corner where nothing was measured would win."""
    best = torch.zeros(space.numbers, dtype=torch.float64)
    places = torch.cat([best[None], space.random(2 * PLACES, draw)])
    for _ in range(5):
        mean, error = surrogate.mean_and_error(places)
        best = places[(mean - caution * error).argmax()]
        places = torch.cat([best[None], space.around(best, PLACES, draw)])
    return best


def run_generation(
    measure: Callable[[int, list[Schedule], range], Tensor],
    space: Space,
    plan: Plan,
    done: Sequence[Generation],
    agree: Callable[[Tensor], Tensor],
) -> Generation:
    """The next generation. After half of the prompts, who is clearly behind the best is dropped."""
    index, points = len(done), agree(next_points(space, plan, done))
    prompts = plan.room(done)
    schedules, half = [space.schedule(point) for point in points], prompts // 2
    first = measure(index, schedules, range(half)).double()
    best = first[first.mean(dim=1).argmax()]
    lag = best - first
    error = lag.std(dim=1) / half**0.5
    left = [i for i in range(len(points)) if float(lag[i].mean()) <= BEHIND * float(error[i])]
    second = measure(index, [schedules[i] for i in left], range(half, prompts)).double()
    differences = first.tolist()
    for place, i in enumerate(left):
        differences[i] += second[place].tolist()
    return Generation(index, points, differences)


def search(
    measure: Callable[[int, list[Schedule], range], Tensor],
    space: Space,
    plan: Plan,
    done: Sequence[Generation] = (),
    agree: Callable[[Tensor], Tensor] = lambda points: points,
) -> Iterator[Generation]:
    """Every generation that `plan.images` still has room for, as it is finished. done: those of an
    interrupted search. agree: takes rank 0's points, where several ranks work together."""
    generations = list(done)
    while plan.room(generations):
        generations.append(run_generation(measure, space, plan, generations, agree))
        yield generations[-1]


def conclusion(space: Space, plan: Plan, done: Sequence[Generation]) -> tuple[Tensor, float, float]:
    """(m,) of the highest cautious belief, the gain that is believed of it, and its error."""
    surrogate = surrogate_of(done)
    best = maximum(space, surrogate, generator(plan.seed, "search", "conclusion"))
    mean, error = surrogate.mean_and_error(best[None])
    return best, float(mean), float(error)
