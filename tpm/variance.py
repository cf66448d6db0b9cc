"""Time shift by variance (TS-DPM, arXiv 2305.15583): the network is told the time whose marginal
has the variance that the latents really have. Nothing is trained.

    VarianceMatch(window=0.5).decide(state)

A sampler makes x_k from x_{k-1} with an error, so that x_k is a little noisier or cleaner than the
latents that the network was trained on at t_k. The paper looks for the time that fits:

    t_s = argmin over tau in [t_k - w, t_k + w] of |var(x_k) - sigma^2_tau|,  for t_k above a cutoff

var(x_k) is that of one image over all channels and pixels, of the very latents that the network is
about to see, whatever sampler made them. sigma^2_tau is the variance of data and noise at tau:
(1 - tau)^2 v + tau^2 where the model mixes them (flow), v + sigma^2 where it adds them (eps, v),
with v the variance of clean latents. The paper has the noise's part alone, which is v = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .policies import Decision, Policy, State, follow_label, synchronous

NAME = "variance match"  # as a preset of the nodes
WINDOW = 0.5  # of the interval just passed, on either side: as far as Eq. 7 of AsyncDiff goes
CUTOFF = 0.5  # share of noise: with v = 1 the mix is at its least variance there
LATENT_VARIANCE = 1.0  # models' latents are scaled to it


def marginal_variance(sigma: Tensor, mixes: bool, data: float = LATENT_VARIANCE) -> Tensor:
    """Variance of the latents at a noise level."""
    return (1 - sigma) ** 2 * data + sigma**2 if mixes else data + sigma**2


def sigma_of_variance(variance: Tensor, mixes: bool, data: float = LATENT_VARIANCE) -> Tensor:
    """The noise level whose marginal is nearest to a variance, float64. A mix has two where it has
    one: the noisier of them is meant, and its turn where the variance is below all."""
    variance = variance.double()
    if not mixes:
        return (variance - data).clamp(min=0).sqrt()
    under_root = data**2 - (1 + data) * (data - variance)
    return (data + under_root.clamp(min=0).sqrt()) / (1 + data)


@dataclass(frozen=True)
class VarianceMatch(Policy):
    """D that tells the network the time of the measured variance, one per image.

    window: the largest |D|; 0 is the stock sampler. cutoff: share of noise up to which nothing is
    shifted, since there the variance says more of the picture's contrast than of its noise. data:
    v, the variance of clean latents; 0 is the paper's formula as it is printed.
    """

    window: float = WINDOW
    cutoff: float = CUTOFF
    data: float = LATENT_VARIANCE
    mode: str = "conditioning"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window) and 0 <= self.window <= 100):
            raise ValueError(
                f"The window of {NAME} is {self.window:g}, expected a number from 0 to 100: the "
                "largest shift, in intervals."
            )

    @property
    def label(self) -> str:
        return f"{NAME}, |D| <= {self.window:g}{follow_label(self.mode)}"

    def idle_warning(self, shares: Sequence[float]) -> str | None:
        """One sentence where no evaluation behind the first is noisy enough to be shifted. shares:
        of noise, at the grid points that are sampled."""
        if self.window == 0 or any(share > self.cutoff for share in shares[1:]):
            return None
        most = max(shares[1:], default=0.0)
        return (
            f"{NAME} shifts nothing here: it acts behind the first step while the latents are more "
            f"than {self.cutoff:.0%} noise, and these steps have {most:.0%} at most; use it on a "
            "whole sampling, or take another preset."
        )

    def decide(self, state: State) -> Decision:
        """Synchronous at the first grid point, and where the variance says nothing."""
        decision = synchronous(state)
        turn = self.data / (1 + self.data) if state.mixes else 0.0
        share = state.sigma if state.mixes else state.sigma / (1 + state.sigma)
        if state.x is None or state.previous is None or share <= self.cutoff or state.sigma < turn:
            return decision
        measured = state.x.flatten(1).float().var(dim=1).to(state.device)
        wanted = sigma_of_variance(measured, state.mixes, self.data)
        nodes = torch.tensor([state.sigma, state.previous], device=state.device)
        u, u_previous = state.timestep(nodes).double()
        if u == u_previous:
            return decision
        deviation = (state.timestep(wanted.float()).double() - u) / (u - u_previous)
        deviation = deviation.clamp(-self.window, self.window).to(decision.deviation)
        follow = self.mode == "follow_time"
        return Decision(deviation, decision.cut, decision.omega, follow)
