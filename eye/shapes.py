"""The numbers that a person's taste is about, and the schedule that they stand for.

    numbers = (0.5, 0.1, 0.0)                    # level, slope, end
    deviations(numbers, steps=4)                 # (0.6, 0.4, 0.0) at grid points 1, 2, 3
    schedule(numbers, times)                     # tpm.schedule.Schedule on (K+1,) flow times
    in_words(numbers)                            # "D +.6, +.4, 0"

D over the steps is a broken line through three knots: at grid point 1, in the middle, and at the
last, K-1. level and slope are of the first two: D = level + slope, level - slope; end is the third.
Three steps have two deviations (level, end), two steps have one (level). (0, ..., 0) is off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..tpm.policies import Decision, Policy, State, follow_label
from ..tpm.schedule import Schedule

NAMES = ("level", "slope", "end")
LOWEST, HIGHEST = -0.6, 1.2  # of a knot: the best ones that were measured lie from 0 to 1.2
LEAST_STEPS = 2  # one step leaves nothing to decide


def count(steps: int) -> int:
    """How many numbers a schedule of K steps has: 3, and fewer where K - 1 is less. Raises
    ValueError below two steps."""
    if steps < LEAST_STEPS:
        raise ValueError(
            f"steps is {steps}, expected {LEAST_STEPS} or more: one step leaves nothing to tune; "
            "give the steps that you sample with."
        )
    return min(steps - 1, len(NAMES))


def off(steps: int) -> tuple[float, ...]:
    """The numbers of D = 0."""
    return (0.0,) * count(steps)


def knots(numbers: Sequence[float]) -> np.ndarray:
    """(..., m) numbers -> (..., m) deviations at the knots."""
    values = np.asarray(numbers, dtype=np.float64)
    if values.shape[-1] < 3:
        return values.copy()
    level, slope, end = np.moveaxis(values, -1, 0)
    return np.stack([level + slope, level - slope, end], axis=-1)


def of_knots(values: Sequence[float]) -> np.ndarray:
    """The inverse of `knots`."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape[-1] < 3:
        return values.copy()
    first, middle, end = np.moveaxis(values, -1, 0)
    return np.stack([(first + middle) / 2, (first - middle) / 2, end], axis=-1)


def inside(numbers: Sequence[float]) -> np.ndarray:
    """The nearest numbers whose knots are within LOWEST and HIGHEST."""
    return of_knots(np.clip(knots(numbers), LOWEST, HIGHEST))


def anywhere(count: int, numbers: int, rng: np.random.Generator) -> np.ndarray:
    """(count, numbers) places all over what is allowed."""
    return of_knots(rng.uniform(LOWEST, HIGHEST, (count, numbers)))


def deviations(numbers: Sequence[float], steps: int) -> tuple[float, ...]:
    """(K-1,) deviations at grid points 1 ... K-1, on the line through the knots, however many."""
    values = knots(numbers)
    if len(values) == 1:
        return (float(values[0]),) * (steps - 1)
    at = np.linspace(0.0, 1.0, steps - 1)
    line = np.interp(at, np.linspace(0.0, 1.0, len(values)), values)
    return tuple(float(d) for d in line)


@dataclass(frozen=True)
class Shaped(Policy):
    """These numbers by the place k of K, on whatever grid it is sampled: `schedule` before its flow
    times are known."""

    numbers: tuple[float, ...]
    mode: str = "conditioning"
    needs_schedule = True

    @property
    def label(self) -> str:
        return in_words(self.numbers) + follow_label(self.mode)

    def decide(self, state: State) -> Decision:
        moved = 0 < state.k < state.steps
        own = deviations(self.numbers, state.steps)[state.k - 1] if moved else 0.0
        flat = torch.ones(state.batch, device=state.device)
        return Decision(flat * own, flat * 0, flat, follow=self.mode == "follow_time")


def schedule(
    numbers: Sequence[float], times: Sequence[float], mode: str = "conditioning"
) -> Schedule:
    """The policy on (K+1,) falling flow times, as it is saved."""
    steps, own = len(times) - 1, tuple(float(t) for t in times)
    return Schedule(own, (0.0, *deviations(numbers, steps)), (1.0,) * steps, mode)


def in_words(numbers: Sequence[float]) -> str:
    """ "D +.6, +.4, 0": at the beginning, in the middle, at the end."""
    return "D " + ", ".join(short(value) for value in knots(numbers))


def short(value: float) -> str:
    """+.6, -.15, +1.2, 0: two digits at most, and no zero that says nothing."""
    text = f"{value:+.2f}".rstrip("0").rstrip(".")
    sign, digits = text[0], text[1:]
    return "0" if digits == "0" else sign + (digits[1:] if digits.startswith("0.") else digits)
