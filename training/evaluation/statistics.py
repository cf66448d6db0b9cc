"""The statistics of paired scores: a method and D = 0 on the same prompts and noises."""

from __future__ import annotations

from torch import Tensor

SPREAD_MIN = 1e-6  # of the baseline's scores, which an objective divides by


def mean_error(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) and its standard error (n - 1 degrees of freedom); NaN for one value."""
    values = values.double()
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return float(values.mean()), error


def difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Mean of a - b over prompts (n,), and its standard error."""
    return mean_error(a.double() - b.double())


def objective(new: dict[str, Tensor], base: dict[str, Tensor], weights: dict[str, float]) -> float:
    """Weighted mean of the paired differences, in units of the baseline's std: what the best fixed
    D and `log.best` go by. A metric of weight 0 need not have been measured."""
    total = sum(abs(weight) for weight in weights.values())
    return sum(
        weight
        / total
        * difference(new[name], base[name])[0]
        / max(float(base[name].double().std()), SPREAD_MIN)
        for name, weight in weights.items()
        if weight
    )
