"""Times and sigmas of a loaded model: from a decision to the time that the network is told.

The only file that asks which kind of time a model has; docs/guides/times.md is its table.
"""

from __future__ import annotations

import math

import torch

from comfy.model_sampling import (
    CONST,
    ModelSamplingCosmosRFlow,
    ModelSamplingDiscrete,
    ModelSamplingDiscreteEDM,
)

from ...asyndm.sigmas import Space, flow_space, log_space, table_space
from ...tpm.conditioning import FLOW_TIME_MIN, conditioning_time
from ...tpm.policies import Decision

PROBES = (0.1, 0.25, 0.5, 0.9)  # sigmas that show whether a time is sigma times a constant


class ModelTime:
    """The time coordinate u of a model, u = timestep(sigma) of the host's `model_sampling`.

    is_sigma: u is sigma times a constant (flow models). is_logarithm: u runs through 0 (EDM: log
    sigma / 4), so that a share of it would mean nothing. Neither is asked of a class: packs bring
    their own. lowest, highest: u at the smallest and the largest conditioning sigma; flow time
    1e-3 for flow models (Algorithm 2, line 10), else the ends of the model's own range. Raises
    ValueError where u does not grow with sigma, since then no deviation would mean "cleaner".
    """

    def __init__(self, sampling) -> None:
        self.sampling = sampling
        probes = torch.tensor(PROBES)
        shares = (self.of(probes) / probes).tolist()
        self.is_sigma = all(math.isclose(s, shares[0], rel_tol=1e-5) for s in shares)
        smallest = FLOW_TIME_MIN if self.is_sigma else float(sampling.sigma_min)
        ends = torch.tensor([smallest, float(sampling.sigma_max)])
        self.lowest, self.highest = self.of(ends).tolist()
        self.is_logarithm = self.lowest < 0
        self.mixes = isinstance(sampling, CONST)
        if not self.lowest < self.highest:
            raise ValueError(
                f"Async Timestep found a model whose time goes from {self.lowest:g} to "
                f"{self.highest:g} as the noise grows, expected one that grows with it; take the "
                "node out that changes the model's sampling, or the patch off this model."
            )

    def of(self, sigma: torch.Tensor) -> torch.Tensor:
        """u of sigma, any shape."""
        return self.sampling.timestep(sigma).float()

    def of_map(self, sigma: torch.Tensor) -> torch.Tensor:
        """u of a map of sigmas, any shape, asked for each distinct level once."""
        levels, where = sigma.unique(return_inverse=True)
        return self.of(levels)[where].view(sigma.shape)

    def percent_to_sigma(self, percent: float) -> float:
        """The host's own map from a share of the sampling to a noise level."""
        return float(self.sampling.percent_to_sigma(percent))

    @property
    def noise_scale(self) -> float:
        """What the host's ancestral samplers multiply fresh noise with."""
        return getattr(self.sampling, "noise_scale", 1.0) if self.mixes else 1.0

    @property
    def space(self) -> Space:
        """In which coordinate a grid of sigmas is straight between its nodes."""
        if self.mixes:
            return flow_space()
        table = isinstance(self.sampling, ModelSamplingDiscrete)
        if table and not isinstance(self.sampling, ModelSamplingDiscreteEDM):
            return table_space(self.sampling.log_sigmas)
        return log_space()

    def sigma(self, u: torch.Tensor) -> torch.Tensor:
        """A sigma of each u, of which only ratios mean anything: a shifted model maps its unshifted
        time here."""
        if isinstance(self.sampling, ModelSamplingCosmosRFlow):
            # its sigma() takes one number: it compares the tensor as a whole
            return (u / (1 - u)).clamp(max=float(self.sampling.sigma_max))
        return self.sampling.sigma(u)

    def sigma_ratio(self, u: torch.Tensor, u_star: torch.Tensor) -> torch.Tensor:
        """sigma* / sigma of the same shape, exactly 1 where u* = u."""
        ratio = u_star / u if self.is_sigma else self.sigma(u_star) / self.sigma(u)
        return torch.where(u_star == u, torch.ones_like(ratio), ratio)

    def flow_time(self, sigma: torch.Tensor) -> torch.Tensor:
        """The share of noise in the latent, 0 to 1: what a TPM reads as t on any model."""
        return sigma if self.is_sigma else sigma / (1 + sigma)

    def as_flow(
        self, x: torch.Tensor, denoised: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(x, v) as a flow model has them, what a TPM reads on any model: x mixes image and noise
        by the shares 1 - t and t, t the `flow_time`, and x - t v is the image. x, denoised: (B, C,
        ...) of the sampler, sigma (B,)."""
        sigma = sigma.view(-1, *[1] * (x.ndim - 1))
        noise = (x - denoised) / sigma  # the velocity already, where x is mixed already
        return (x, noise) if self.is_sigma else (x / (1 + sigma), noise - denoised)

    def cut(self, u: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """How much unit percent takes off u: a share of the time or, where the time is a logarithm,
        what a share of sigma makes of it."""
        if not self.is_logarithm:
            return share * u
        sigma = self.sigma(u)
        return self.of(sigma) - self.of(sigma * (1 - share).clamp(min=1e-6))

    def star(self, u: torch.Tensor, u_previous: float, decision: Decision) -> torch.Tensor:
        """u* of Eq. 6/12 for a decision at a grid point after u_previous; shapes as u."""
        deviation, share = decision.deviation.to(u.device), decision.cut.to(u.device)
        cut = self.cut(u, share)
        return conditioning_time(u, u_previous, deviation, cut, self.lowest, self.highest)


def require_descending(sigmas: torch.Tensor) -> None:
    """Raises ValueError unless the grid never rises (a thousand steps may have equal nodes)."""
    falls = sigmas.ndim == 1 and len(sigmas) > 1 and bool((sigmas[1:] <= sigmas[:-1]).all())
    if not falls or not bool(torch.isfinite(sigmas).all()):
        raise ValueError(
            f"Async Timestep found sigmas {[round(s, 4) for s in sigmas.flatten().tolist()][:8]}, "
            "expected a schedule of two or more falling values; connect the scheduler's own "
            "SIGMAS, and take the patch off a model that samples backwards (inversion)."
        )


def grid_times(time: ModelTime, grid: torch.Tensor, device: torch.device) -> list[float]:
    """u at the grid points 0 ... K-1: the same all run long.

    Raises ValueError on a `grid` (K+1,) that rises.
    """
    require_descending(grid)
    return time.of(grid[:-1].to(device)).tolist()


def velocity_factor(decision: Decision, ratio: torch.Tensor | None) -> torch.Tensor | None:
    """omega of Eq. 19, (B,) or a map, or None where it is 1 for all and nothing is to be touched.

    ratio: sigma* / sigma of the same shape, None where u* = u.
    """
    omega = decision.omega
    if decision.follow and ratio is not None:
        omega = omega.to(ratio.device) * ratio
    return None if bool((omega == 1).all()) else omega
