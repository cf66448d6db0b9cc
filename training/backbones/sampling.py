"""Algorithm 2 of the AsyncDiff paper with any policy: the one sampling loop of the trainer and of
the evaluation.

    latents = sample(backbone, conditioning, noise, sigmas, Constant(0.5))

The policies are those of the nodes (tpm.policies), so what is measured here is what a user runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ...tpm.conditioning import FLOW_TIME_MIN, conditioning_time
from ...tpm.policies import Constant, Decision, Evaluation, Policy, State
from . import Backbone, Conditioning


class Solver(Protocol):
    """Integrates from grid point to grid point with the sampler's own times."""

    def step(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        """x_{k+1} (B, C, h, w) from x_k and the (scaled) velocity there."""


class Euler:
    """Eq. 9: x_{k+1} = x_k + (t_{k+1} - t_k) v."""

    def __init__(self, sigmas: Tensor):
        self.sigmas = sigmas

    def step(self, k: int, x: Tensor, v: Tensor) -> Tensor:
        return x + (self.sigmas[k + 1] - self.sigmas[k]) * v


@dataclass
class Trace:
    """What was told, by step; lists of (B,) tensors on the CPU."""

    t_star: list[Tensor] = field(default_factory=list)
    deviation: list[Tensor] = field(default_factory=list)
    omega: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def sample(
    backbone: Backbone,
    conditioning: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
    policy: Policy | None = None,
    solver: Callable[[Tensor], Solver] = Euler,
    trace: Trace | None = None,
    twins: int = 1,
    terminal: bool = False,
) -> Tensor:
    """Latents (B, C, h, w) at sigmas[-1], from `noise` at sigmas[0].

    sigmas: (K + 1,) falling, flow times. policy: None is synchronous. twins: rows come in groups of
    that many with one noise and one prompt, so the first velocity is computed once a group.
    terminal: also ask the policy for grid point K, where no evaluation follows.
    """
    policy = policy or Constant(0.0)
    steps, batch = len(sigmas) - 1, len(noise)
    times = sigmas.to(noise.device)
    integrator = solver(times)
    x, evaluation = noise * times[0], None
    for k in range(steps):
        t = times[k].expand(batch)
        decision = policy.decide(grid_state(backbone, sigmas, k, noise, evaluation))
        t_star = t
        if k > 0:  # t*_0 = t_0: no interval has passed
            t_star = conditioning_time(
                t, times[k - 1], decision.deviation, decision.cut * t, FLOW_TIME_MIN
            )
        if k == 0 and twins > 1:
            first = conditioning.rows(list(range(0, batch, twins)))
            v = backbone.velocity(x[::twins], t_star[::twins], first)
            v = v.repeat_interleave(twins, dim=0)
        else:
            v = backbone.velocity(x, t_star, conditioning)
        evaluation = Evaluation(x, v, x - t[0] * v, t, t_star, conditioning.pooled)
        omega = t_star / t if decision.follow else decision.omega
        if trace is not None:
            write_down(trace, k, t_star, decision, omega)
        x = integrator.step(k, x, omega.view(-1, 1, 1, 1) * v)  # exact where omega is 1
    if terminal:
        policy.decide(grid_state(backbone, sigmas, steps, noise, evaluation))
    return x


def grid_state(
    backbone: Backbone, sigmas: Tensor, k: int, noise: Tensor, evaluation: Evaluation | None
) -> State:
    """The policy's view of grid point k, as the nodes build it."""
    steps = len(sigmas) - 1
    return State(
        k=k,
        steps=steps,
        sigma=float(sigmas[k]),
        last=k + 1 >= steps and float(sigmas[-1]) == 0.0,
        batch=len(noise),
        device=noise.device,
        family=backbone.family,
        percent_to_sigma=lambda percent: 1.0 - percent,
        evaluation=evaluation,
    )


def write_down(trace: Trace, k: int, t_star: Tensor, decision: Decision, omega: Tensor) -> None:
    trace.t_star.append(t_star.cpu())
    trace.deviation.append((decision.deviation * (k > 0)).cpu())
    trace.omega.append(omega.cpu())
