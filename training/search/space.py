"""What is searched: the numbers of a schedule, as a box from -1 to 1 with D = 0 at its origin.

space = Space("deviation", times)        # times: (K+1,) of the grid
schedule = space.schedule(numbers)       # (m,) -> tpm.schedule.Schedule
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...tpm.schedule import Schedule

SPACES = ("deviation", "follow_time", "deviation_omega")
LARGEST = 1.25  # deviation at the end of the box: the best ones lay near 1 where it was measured
LOWEST = -0.3  # of the box: a noisier time was never better where it was measured
LOG_OMEGA = 0.5  # omega from e^-0.5 to e^0.5
KNOTS = 4  # numbers per quantity: more steps have a broken line through so many


@dataclass(frozen=True)
class Space:
    """name: which numbers; times: (K+1,) falling flow times of the grid.

    D has min(K-1, KNOTS) numbers over the grid points 1 ... K-1, omega as many over 0 ... K-2:
    the last step keeps omega = 1, since nothing after it would take the rest away.
    """

    name: str
    times: tuple[float, ...]

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @property
    def knots(self) -> int:
        return min(self.steps - 1, KNOTS)

    @property
    def numbers(self) -> int:
        return self.knots * (2 if self.name == "deviation_omega" else 1)

    @property
    def low(self) -> Tensor:
        """(m,) lower ends of the box; the upper ones are 1."""
        low = [LOWEST] * self.knots + [-1.0] * (self.numbers - self.knots)
        return torch.tensor(low, dtype=torch.float64)

    def line(self, values: list[float]) -> list[float]:
        """K-1 values on a broken line through the knots."""
        at = np.linspace(0, 1, self.steps - 1) if self.steps > 2 else [0.0]
        return np.interp(
            at, np.linspace(0, 1, self.knots) if self.knots > 1 else [0.0], values
        ).tolist()

    def schedule(self, numbers: Tensor) -> Schedule:
        """Of (m,) numbers in the box."""
        values = numbers.tolist()
        deviation = self.line([LARGEST * value for value in values[: self.knots]])
        omega = [1.0] * (self.steps - 1)
        if self.name == "deviation_omega":
            omega = self.line([math.exp(LOG_OMEGA * value) for value in values[self.knots :]])
        mode = "follow_time" if self.name == "follow_time" else "conditioning"
        return Schedule(self.times, (0.0, *deviation), (*omega, 1.0), mode)

    def guesses(self) -> Tensor:
        """(4, m) places to begin at: the paper's constant, its half, and two that fall to 0."""
        fall = torch.linspace(1, 0, self.knots, dtype=torch.float64)
        flat = torch.ones_like(fall)
        own = torch.stack([0.4 * flat, 0.2 * flat, 0.7 * fall, 0.4 * fall])
        return torch.cat([own, torch.zeros(4, self.numbers - self.knots, dtype=own.dtype)], dim=1)

    def random(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, m) places all over the box."""
        share = torch.rand(count, self.numbers, generator=generator, dtype=torch.float64)
        return self.low + share * (1 - self.low)

    def around(self, centre: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(count, m) places near (m,) one, at widths from half the box to a fiftieth of it."""
        width = torch.logspace(math.log10(0.5), math.log10(0.02), count, dtype=torch.float64)
        steps = torch.randn(count, self.numbers, generator=generator, dtype=torch.float64)
        return torch.maximum(centre + steps * width[:, None], self.low).clamp(max=1.0)
