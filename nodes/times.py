"""Times and sigmas of a loaded model: from a decision to the time that the network is told.

`sampling` is the host's model_sampling; its `timestep(sigma)` is u, the network's coordinate.
"""

from __future__ import annotations

import torch

from comfy.model_sampling import CONST

from ..tpm.policies import Decision
from ..tpm.schedule import FLOW_TIME_MIN, conditioning_time


def require_descending(sigmas: torch.Tensor) -> None:
    """Raises ValueError unless the grid never rises (a thousand steps may have equal nodes)."""
    if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] <= sigmas[:-1]).all()):
        raise ValueError(
            f"Async Timestep found sigmas {[round(s, 4) for s in sigmas.flatten().tolist()][:8]}, "
            "expected a schedule of two or more falling values; connect the scheduler's own "
            "SIGMAS, and take the patch off a model that samples backwards (inversion)."
        )


def told_time(
    sampling, grid: torch.Tensor, k: int, u: torch.Tensor, decision: Decision
) -> torch.Tensor:
    """u* (B,) of Eq. 6/12 at grid point k of `grid` (K+1,); `u` (B,) itself where D is 0."""
    deviation, cut = decision.deviation, decision.cut
    if k == 0 or not (bool(deviation.any()) or bool(cut.any())):
        return u
    require_descending(grid)
    nodes = torch.stack(
        [grid[k - 1], lowest_sigma(sampling), torch.as_tensor(sampling.sigma_max).cpu()]
    )
    previous, low, high = sampling.timestep(nodes.to(u.device)).float()
    return conditioning_time(u, previous, deviation.to(u.device), cut.to(u.device), low, high)


def lowest_sigma(sampling) -> torch.Tensor:
    """Smallest conditioning sigma: flow time 1e-3 for flow models, else the table's end."""
    if isinstance(sampling, CONST):
        return torch.tensor(FLOW_TIME_MIN)
    return torch.as_tensor(sampling.sigma_min).cpu()


def velocity_factor(sampling, decision: Decision, u, u_star) -> torch.Tensor | None:
    """omega (B,) of Eq. 19, or None where it is 1 for all and nothing is to be touched."""
    omega = decision.omega.to(u.device)
    if decision.follow and not torch.equal(u_star, u):
        omega = omega * sigma_ratio(sampling, u, u_star)
    return omega if bool((omega != 1).any()) else None


def sigma_ratio(sampling, u, u_star) -> torch.Tensor:
    """sigma* / sigma (B,), exactly 1 where u* = u.

    A flow model's time is its sigma. (Its own `sigma()` maps the unshifted time and is no
    inverse of `timestep()`.)
    """
    if isinstance(sampling, CONST):
        ratio = u_star / u
    else:
        ratio = sampling.sigma(u_star) / sampling.sigma(u)
    return torch.where(u_star == u, torch.ones_like(ratio), ratio)
