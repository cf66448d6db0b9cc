"""Algorithm 2 of the AsyncDiff paper with any policy, for a backbone that has a velocity.

    latents = backbone.sample(conditioning, noise, sigmas, Constant(0.5))

The policies are those of the nodes (tpm.policies), so what is measured here is what a user runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from ...report.trace import Run
from ...tpm.conditioning import FLOW_TIME_MIN, PERCENT_UNIT, conditioning_time
from ...tpm.policies import Constant, Decision, Evaluation, Policy, State
from .solvers import SOLVERS


@dataclass(frozen=True)
class Tokens:
    """The `Conditioning` of a backbone that has a velocity: one row per prompt. tokens: (B, L, W)
    for the network; pooled: (B, P), which the TPM reads too."""

    prompts: tuple[str, ...]
    tokens: Tensor
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: list[int]) -> Tokens:
        """The given rows, in the given order; a row may be taken more than once."""
        at = torch.tensor(index, device=self.tokens.device)
        prompts = tuple(self.prompts[i] for i in index)
        return replace(self, prompts=prompts, tokens=self.tokens[at], pooled=self.pooled[at])


class VelocityBackbone:
    """`Backbone.sample` over a velocity; a family adds the velocity."""

    family: str
    # what only ComfyUI's models tell of themselves
    latent_format, weights_sha256, frames = "", "", 1
    weights: Mapping[tuple[str, str], list[Path]] = MappingProxyType({})

    def group(self, prompt: str) -> str | None:
        return None

    def times(self, steps: int) -> tuple[float, ...]:
        return tuple(self.sigmas(steps).tolist())  # a flow model's sigma is the share of noise

    def parts(self, conditioning: Tokens) -> list[list[int]]:
        return [list(range(len(conditioning)))]  # the network's own batches are cut in `velocity`

    def velocity(self, x: Tensor, t_star: Tensor, conditioning: Tokens) -> Tensor:
        """v*_k (B, C, h, w) float32 at the told times t_star (B,): with CFG the guided one
        (Algorithm 2, lines 4-6), both halves as one batch."""
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        conditioning: Tokens,
        noise: Tensor,
        sigmas: Tensor,
        policy: Policy | None = None,
        solver: str = "euler",
        record: Run | None = None,
    ) -> Tensor:
        """See `Backbone.sample`. A group of rows with one noise and one prompt has one first
        velocity, which is computed once."""
        policy = policy or Constant(0.0)
        steps, batch = len(sigmas) - 1, len(noise)
        times = sigmas.to(noise.device)
        integrator = SOLVERS[solver](times)
        x, evaluation = noise * times[0], None
        for k in range(steps):
            t = times[k].expand(batch)
            decision = policy.decide(grid_state(self.family, sigmas, k, x, evaluation))
            t_star = t
            if k > 0:  # t*_0 = t_0: no interval has passed
                t_star = conditioning_time(
                    t, times[k - 1], decision.deviation, decision.cut * t, FLOW_TIME_MIN
                )
            if k == 0 and (group := shared_noise_group(conditioning, noise)) > 1:
                first = conditioning.rows(list(range(0, batch, group)))
                v = self.velocity(x[::group], t_star[::group], first)
                v = v.repeat_interleave(group, dim=0)
            else:
                v = self.velocity(x, t_star, conditioning)
            evaluation = Evaluation(x, v, x - t[0] * v, t, t_star, conditioning.pooled)
            omega = t_star / t if decision.follow else decision.omega
            if record is not None:
                write_down(record, k, sigmas, t_star, decision, omega)
            x = integrator.step(k, x, omega.view(-1, 1, 1, 1) * v)  # exact where omega is 1
        if policy.terminal:
            policy.decide(grid_state(self.family, sigmas, steps, x, evaluation))
        return x


def shared_noise_group(conditioning: Tokens, noise: Tensor) -> int:
    """How many rows in a row have one noise and one prompt, where all rows come in groups of that
    size; else 1."""
    prompts, batch = conditioning.prompts, len(noise)
    size = 1
    while size < batch and prompts[size] == prompts[0] and torch.equal(noise[size], noise[0]):
        size += 1
    if size == 1 or batch % size:
        return 1
    alike = all(prompts[i] == prompts[i - i % size] for i in range(batch))
    return size if alike and torch.equal(noise, noise[::size].repeat_interleave(size, 0)) else 1


def grid_state(
    family: str, sigmas: Tensor, k: int, x: Tensor, evaluation: Evaluation | None
) -> State:
    """The policy's view of grid point k, where the latents are x, as the nodes build it."""
    steps = len(sigmas) - 1
    return State(
        k=k,
        steps=steps,
        sigma=float(sigmas[k]),
        last=k + 1 >= steps and float(sigmas[-1]) == 0.0,
        batch=len(x),
        device=x.device,
        family=family,
        percent_to_sigma=lambda percent: 1.0 - percent,
        evaluation=evaluation,
        x=x,
        previous=float(sigmas[k - 1]) if k else None,
    )


def write_down(
    record: Run, k: int, sigmas: Tensor, t_star: Tensor, decision: Decision, omega: Tensor
) -> None:
    """Adds an evaluation to a record, in flow time; at grid point 0 nothing deviates. The cut is
    that of t*, whatever made it, as in the nodes' records."""
    sigma, moved = float(sigmas[k]), k > 0
    record.add(
        step=k,
        sigma=sigma,
        t=sigma,
        t_star=t_star.tolist(),
        deviation=(decision.deviation * moved).tolist(),
        percent=(decision.cut * moved / PERCENT_UNIT).tolist(),
        cut_percent=(100 * (1 - t_star / sigma)).tolist(),
        omega=omega.tolist(),
    )


def column(record: Run, name: str) -> Tensor:
    """(B, K) on the CPU: one of the lists of a record, a row per image and a column per step."""
    return torch.tensor([step[name] for step in record.steps]).T
