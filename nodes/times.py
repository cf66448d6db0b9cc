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


def grid_times(sampling, grid: torch.Tensor, device: torch.device) -> list[float]:
    """u at the grid points 0 ... K-1, then the lowest and the highest u*: the same all run long.

    Raises ValueError on a `grid` (K+1,) that rises.
    """
    require_descending(grid)
    ends = torch.stack([lowest_sigma(sampling), torch.as_tensor(sampling.sigma_max).cpu()])
    return sampling.timestep(torch.cat([grid[:-1], ends]).to(device)).float().tolist()


def told_time(times: list[float], k: int, u: torch.Tensor, decision: Decision) -> torch.Tensor:
    """u* (B,) of Eq. 6/12 at grid point k >= 1; `times` as `grid_times` gives them."""
    deviation, cut = decision.deviation.to(u.device), decision.cut.to(u.device)
    return conditioning_time(u, times[k - 1], deviation, cut, times[-2], times[-1])


def lowest_sigma(sampling) -> torch.Tensor:
    """Smallest conditioning sigma: flow time 1e-3 for flow models, else the table's end."""
    if isinstance(sampling, CONST):
        return torch.tensor(FLOW_TIME_MIN)
    return torch.as_tensor(sampling.sigma_min).cpu()


def velocity_factor(decision: Decision, ratio: torch.Tensor | None) -> torch.Tensor | None:
    """omega of Eq. 19, (B,) or a map, or None where it is 1 for all and nothing is to be touched.

    ratio: sigma* / sigma of the same shape, None where u* = u.
    """
    omega = decision.omega
    if decision.follow and ratio is not None:
        omega = omega.to(ratio.device) * ratio
    return None if bool((omega == 1).all()) else omega


def sigma_ratio(sampling, u, u_star) -> torch.Tensor:
    """sigma* / sigma (B,), exactly 1 where u* = u.

    A flow model's time is its sigma. (Its own `sigma()` maps the unshifted time and is no
    inverse of `timestep()`.)
    """
    if isinstance(sampling, CONST):
        return u_star / u
    ratio = sampling.sigma(u_star) / sampling.sigma(u)
    return torch.where(u_star == u, torch.ones_like(ratio), ratio)
