"""What is believed of the gain as a function of a schedule's numbers: a Gaussian process through 0.

    surrogate = Surrogate(points, means, covariances)
    surrogate.samples(places, count, generator)       # of the posterior: Thompson sampling
    surrogate.mean_and_error(places)

The gain of D = 0 over D = 0 is 0, exactly, so the process is conditioned on it. Candidates of one
generation were measured on the same prompts and noises, so their errors go together: each
generation's error is its own covariance (C, C), not a number per candidate. That is what tells two
good candidates apart: their difference is known far better than either.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

# where the process's own numbers are looked for: the gain at a corner of the box in standard
# deviations of the objective, the length, and the weight of what no quadratic follows
GAINS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
LENGTHS = (0.35, 0.5, 0.7, 1.0, 1.4)
BENDS = (0.05, 0.2, 0.5, 1.0)
JITTER = 1e-9


def covariance_of_means(differences: Sequence[Sequence[float]]) -> Tensor:
    """(C, C) covariance of the means of C lists of paired differences, all on the same prompts; a
    shorter list has the first of them.

    Few prompts tell little, so variances are drawn towards their mean (with four prompts' weight)
    and correlations towards theirs (with C prompts' weight), after Ledoit and Wolf's constant
    correlation. Means over the first a and the first b prompts go together by 1 / max(a, b).
    """
    counts = torch.tensor([len(own) for own in differences], dtype=torch.float64)
    common = int(counts.min())
    together = torch.tensor([list(own)[:common] for own in differences], dtype=torch.float64)
    correlation = torch.corrcoef(together).reshape(len(counts), len(counts)).nan_to_num(0.0)
    off = ~torch.eye(len(counts), dtype=torch.bool)
    mean = correlation[off].mean().clamp(0, 0.95) if len(counts) > 1 else torch.zeros(())
    prior = torch.where(off, mean.double(), torch.ones((), dtype=torch.float64))
    weight = len(counts) / (len(counts) + common)
    blended = weight * prior + (1 - weight) * correlation
    variances = torch.stack([torch.tensor(list(own)).double().var() for own in differences])
    variances = (variances * (counts - 1) + 4 * variances.mean()) / (counts + 3)
    spread = variances.clamp(min=1e-12).sqrt()
    return blended * spread[:, None] * spread[None] / torch.maximum(counts[:, None], counts[None])


def kernel(a: Tensor, b: Tensor, gain: float, length: float, bend: float) -> Tensor:
    """Prior covariance of the gain at (A, m) and (B, m), in box coordinates: a quadratic through
    the origin, and a smooth rest. `gain` is the standard deviation at a corner of the box."""
    product = a @ b.T / a.shape[1]
    quadratic = (product + product**2) / 2
    distance = torch.cdist(a, b) ** 2 / a.shape[1]
    smooth = torch.exp(-distance / (2 * length**2))
    return gain**2 * ((1 - bend) * quadratic + bend * smooth)


def through_zero(a: Tensor, b: Tensor, *numbers: float) -> Tensor:
    """The same, knowing that the gain at the origin is 0."""
    zero = torch.zeros(1, a.shape[1], dtype=a.dtype)
    own = kernel(zero, zero, *numbers)
    return kernel(a, b, *numbers) - kernel(a, zero, *numbers) @ kernel(zero, b, *numbers) / own


def prior_variance(places: Tensor, gain: float, length: float, bend: float) -> Tensor:
    """The diagonal of `through_zero(places, places)`."""
    square = (places**2).sum(1) / places.shape[1]
    smooth = torch.exp(-square / (2 * length**2))
    own = (1 - bend) * (square + square**2) / 2 + bend
    return gain**2 * (own - bend * smooth**2)


class Surrogate:
    """points: (C, m) of each generation in box coordinates, -1 to 1; means: (C,) paired gains;
    covariances: (C, C) of their errors. The process's own numbers are those of the highest
    posterior density on a grid, with a prior that is flat in their logarithms."""

    def __init__(
        self, points: Sequence[Tensor], means: Sequence[Tensor], covariances: Sequence[Tensor]
    ):
        self.points, self.means = torch.cat(list(points)), torch.cat(list(means))
        self.errors = torch.block_diag(*covariances)
        grid = list(itertools.product(GAINS, LENGTHS, BENDS))
        self.numbers = max(grid, key=self.evidence)
        self.factor = self.cholesky(self.numbers)
        self.weights = torch.cholesky_solve(self.means[:, None], self.factor)[:, 0]

    def cholesky(self, numbers: tuple[float, ...]) -> Tensor:
        own = through_zero(self.points, self.points, *numbers) + self.errors
        scale = own.diagonal().mean()
        return torch.linalg.cholesky(own + JITTER * scale * torch.eye(len(own), dtype=own.dtype))

    def evidence(self, numbers: tuple[float, ...]) -> float:
        """Log marginal likelihood of what was measured."""
        factor = self.cholesky(numbers)
        white = torch.linalg.solve_triangular(factor, self.means[:, None], upper=False)
        return float(-0.5 * (white**2).sum() - factor.diagonal().log().sum())

    def mean(self, places: Tensor) -> Tensor:
        """(N,) at (N, m)."""
        return through_zero(places, self.points, *self.numbers) @ self.weights

    def posterior(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (N,) and covariance (N, N) at (N, m)."""
        across = through_zero(places, self.points, *self.numbers)
        reduced = torch.linalg.solve_triangular(self.factor, across.T, upper=False)
        own = through_zero(places, places, *self.numbers)
        return across @ self.weights, own - reduced.T @ reduced

    def mean_and_error(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (N,) each, at (N, m)."""
        across = through_zero(places, self.points, *self.numbers)
        reduced = torch.linalg.solve_triangular(self.factor, across.T, upper=False)
        own = prior_variance(places, *self.numbers)
        variance = own - (reduced**2).sum(0)
        return across @ self.weights, variance.clamp(min=0).sqrt()

    def samples(self, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(count, N) functions of the posterior at (N, m)."""
        mean, covariance = self.posterior(places)
        scale = max(float(covariance.diagonal().mean()), 1e-12)
        for jitter in (1e-8, 1e-6, 1e-4):
            factor, failed = torch.linalg.cholesky_ex(
                covariance + jitter * scale * torch.eye(len(places), dtype=places.dtype)
            )
            if not int(failed):
                break
        noise = torch.randn(count, len(places), generator=generator, dtype=places.dtype)
        return mean + noise @ factor.T
