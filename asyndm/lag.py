"""AsynDM's pixel schedules, as lags behind the user's own grid.

A pixel with lag d stands, at step i, where the stock sampler stood d steps earlier: at the
fractional node i - d of the grid. Lag 0 everywhere is the stock sampler. Inside the mask the lag
grows first and shrinks later (the concave curves f of the AsynDM paper, section 3.2); outside it
shrinks linearly; at the last node before 0 all lags are 0 and the pixels meet.

The rules are those of the official code (its `bin`, `lin`, `exp` with `item_k`), rewritten from
timesteps to lags: identical on its grid, and exact at strength 0 on every grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

CURVES = ("quadratic", "linear", "exponential")
MAX_LAG = {"quadratic": 0.25, "linear": 0.5, "exponential": 0.1233}  # of strength * L, steps


def meeting_node(sigmas: Sequence[float]) -> int:
    """L: the last node with sigma > 0 of a grid (N+1,). All pixels have the same sigma there."""
    return len(sigmas) - 2 if sigmas[-1] == 0 else len(sigmas) - 1


def next_lag(
    lag: torch.Tensor, weight: torch.Tensor, step: int, last: int, curve: str = "quadratic"
) -> torch.Tensor:
    """Lag d' at node step + 1 from the lag d at node `step`, in grid steps, of any one shape.

    weight: strength w in [0, 1] times the mask m in [0, 1]; 0 is outside. last: L. With r = L -
    step the remaining steps, outside the mask d' = d (r - 1) / r, and inside

        quadratic    d' = (d + w m r / L) (r - 1) / r           f(i) = T - i^2 / T,   d <= w L / 4
        linear       d' = min(d + w m, w m (r - 1))             f(i) = min(T - i/2, ...), d <= w L/2
        exponential  d' = d + w m - (d + w m r) q_r             f(i) = T (e - e^(i/T)) / (e - 1)
                     q_r = (e^(1/L) - 1) / (e^(r/L) - 1)

    The result is 0 for r <= 1. A weight above 1 would let sigma rise; ValueError on an unknown
    curve.
    """
    r = last - step
    if r <= 1:
        return torch.zeros_like(lag)
    outside = lag * ((r - 1) / r)
    if curve == "quadratic":
        return outside + weight * ((r - 1) / last)
    if curve == "linear":
        inside = torch.maximum(torch.minimum(lag + weight, weight * (r - 1)), outside)
    elif curve == "exponential":
        x = torch.tensor([1.0, float(r)], dtype=torch.float64) / last
        small, large = torch.expm1(x).tolist()
        inside = lag + weight - (lag + weight * r) * (small / large)
    else:
        raise ValueError(f"Found the curve {curve!r}; choose one of {', '.join(CURVES)}.")
    return torch.where(weight > 0, inside, outside)
