"""The conditioning time t*: which time the network is told while the sampler integrates with
its own.

All times are in the model's own coordinate u = model_sampling.timestep(sigma): the flow time t
(times its multiplier) for flow models, the index in the training table for eps/v models.
Equation numbers are those of the AsyncDiff paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

FLOW_TIME_MIN = 1e-3  # smallest conditioning time of a flow model (paper, Algorithm 2, line 10)
PERCENT_UNIT = 0.1  # unit "percent": a deviation of 1 takes 10 % off the time


def grid_index(sigmas: Sequence[float], sigma: float) -> int:
    """Index k of `sigma` in a descending grid (K+1,); a value between two nodes belongs to the
    interval's end.

    The relative slack of 1e-4 absorbs what samplers lose by exp(log(sigma)).
    """
    limit = sigma * (1 + 1e-4)
    return sum(node > limit for node in sigmas)


def conditioning_time(
    u: torch.Tensor,
    u_previous: torch.Tensor | float,
    deviation: torch.Tensor,
    cut: torch.Tensor | float = 0.0,
    low: float = 0.0,
    high: float = float("inf"),
) -> torch.Tensor:
    """u* = u_k + gamma D_k (u_k - u_{k-1}) - cut, clamped to [low, high]. Eq. 6 and 12.

    `deviation` is gamma * D, a share of the interval just passed; `cut` is taken off the time
    (what unit percent makes of a share); positive is cleaner. Both have shape (B,), as `u` and
    the result. A sample with neither keeps its u exactly, unclamped.
    """
    u_star = (u + deviation * (u - u_previous) - cut).clamp(max=high)
    # a grid may end below `low` (karras): then the bound is the time itself, never a noisier one
    u_star = torch.maximum(u_star, u.clamp(max=low))
    return torch.where((deviation == 0) & (torch.as_tensor(cut, device=u.device) == 0), u, u_star)


def deviation_of_action(r: torch.Tensor, bound: float) -> torch.Tensor:
    """Deviation D of a policy action r in (0, 1): r - 1/2 for bound 0.5 (Eq. 7), 2 r - 1 for
    the lifted bound 1 (Eq. 13).
    """
    return (r - 0.5) * (2.0 * bound)
