"""A rollout: the frozen model runs to the end while the TPM draws its actions (Algorithm 2).

What the update needs is kept: the states that the TPM saw, and what it drew.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...tpm.learned import TPMPolicy
from ...tpm.network import (
    ACTIONS,
    TimestepPredictionModule,
    log_prob,
    middle_frame,
    sample,
)
from ...tpm.policies import Evaluation, State
from ..backbones import Backbone, Conditioning
from ..run.config import PolicyConfig
from ..run.distributed import synchronize


@dataclass(frozen=True)
class Rollout:
    """B trajectories of N decisions with A actions each, one row per image.

    x, v: (B, N, C, h, w) float32 of grid points 0..N-1; t, t_star: (B, N); pooled: (B, P); r:
    (B, N, A) the actions; raw: (B, N, A, 2) the policy that drew them. steps: K. mask: (N, A), 0
    where an action cannot change the image.
    """

    x: Tensor
    v: Tensor
    t: Tensor
    t_star: Tensor
    pooled: Tensor
    r: Tensor
    raw: Tensor
    mask: Tensor
    steps: int

    def rows(self, index: Tensor) -> Rollout:
        """Some of the trajectories."""
        return Rollout(**{**self.parts(lambda part: part[index])})

    def parts(self, change) -> dict:
        """Every per-trajectory tensor changed by a function; mask and steps as they are."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = ("mask", "steps")
        return {name: v if name in kept else change(v) for name, v in values.items()}


class Actor(TPMPolicy):
    """Draws from the TPM's Beta policy and remembers what it saw; one generator per image."""

    label = "TPM, drawn"

    def __init__(
        self,
        module: TimestepPredictionModule,
        config: PolicyConfig,
        generators: list[torch.Generator],
    ):
        super().__init__(module, config, draw=self.sampled)
        self.generators = generators
        self.terminal = config.include_terminal_action  # r_K of Algorithm 2
        self.evaluations: list[Evaluation] = []
        self.drawn: list[tuple[Tensor, Tensor]] = []  # raw (B, A, 2) and r (B, A) of each of them
        self.seconds = 0.0

    def act(self, evaluation: Evaluation, state: State) -> Tensor:
        synchronize(evaluation.x.device)
        start = time.perf_counter()
        r = super().act(evaluation, state)
        self.evaluations.append(middle_frame(evaluation))
        synchronize(evaluation.x.device)
        self.seconds += time.perf_counter() - start
        return r

    def of(self, rows: list[int]) -> Actor:
        """The same policy for some of the images."""
        return Actor(self.module, self.meta, [self.generators[i] for i in rows])

    def sampled(self, raw: Tensor) -> Tensor:
        """r ~ Beta of every row, by its own generator (Algorithm 2, line 9)."""
        r = torch.stack([sample(row, g) for row, g in zip(raw, self.generators, strict=True)])
        self.drawn.append((raw, r))
        return r


def rollout(
    backbone: Backbone,
    actor: Actor,
    conditioning: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
) -> tuple[Tensor, Rollout]:
    """Latents (B, C, h, w) at the end of the grid (K + 1,), and the trajectories behind them. Where
    the backbone samples the rows in parts, each part has an actor of its own."""
    parts = backbone.parts(conditioning)
    if len(parts) == 1:
        return rollout_of_part(backbone, actor, conditioning, noise, sigmas)
    found = []
    for rows in parts:
        own = actor.of(rows)
        found.append(rollout_of_part(backbone, own, conditioning.rows(rows), noise[rows], sigmas))
        actor.seconds += own.seconds
    latents, states = zip(*found, strict=True)
    order = torch.tensor([row for rows in parts for row in rows]).argsort().to(noise.device)
    whole = {
        name: torch.cat([getattr(part, name) for part in states])
        for name in states[0].parts(lambda part: part)
        if name not in ("mask", "steps")
    }
    whole |= {"mask": states[0].mask, "steps": states[0].steps}
    return torch.cat(latents)[order.to(latents[0].device)], Rollout(**whole).rows(order)


def rollout_of_part(
    backbone: Backbone,
    actor: Actor,
    conditioning: Conditioning,
    noise: Tensor,
    sigmas: Tensor,
) -> tuple[Tensor, Rollout]:
    """The same for rows that are sampled together."""
    config = actor.meta
    latents = backbone.sample(conditioning, noise, sigmas, actor)
    raw, r = zip(*actor.drawn, strict=True)

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(e, name) for e in actor.evaluations], dim=1)

    return latents, Rollout(
        x=stacked("x"),
        v=stacked("v"),
        t=stacked("t"),
        t_star=stacked("t_star"),
        pooled=conditioning.pooled,
        r=torch.stack(r, dim=1),
        raw=torch.stack(raw, dim=1),
        mask=action_mask(config, sigmas).to(noise.device),
        steps=len(sigmas) - 1,
    )


def action_mask(config: PolicyConfig, sigmas: Tensor) -> Tensor:
    """(N, A): 0 for omega on the last step of a grid that ends at 0, where it is 1 by definition,
    unless the terminal action, which has no effect either, is asked for too."""
    decisions = len(sigmas) - 2 + config.include_terminal_action
    mask = torch.ones(decisions, ACTIONS[config.actions])
    omega = config.actions in ("omega", "both")
    if omega and not config.include_terminal_action and sigmas[-1] == 0:
        mask[-1, -1] = 0
    return mask


def log_probs(module: TimestepPredictionModule, states: Rollout) -> tuple[Tensor, Tensor]:
    """log pi of the drawn actions under the module's present policy: (B, N, A) and raw values
    (B, N, A, 2). One forward pass over all B * N states."""
    batch, decisions = states.t.shape
    x, v, t, t_star = (part.flatten(0, 1) for part in (states.x, states.v, states.t, states.t_star))
    pooled = states.pooled.repeat_interleave(decisions, dim=0)
    evaluation = Evaluation(x, v, x - t.view(-1, 1, 1, 1) * v, t, t_star, pooled)
    k = torch.arange(1, decisions + 1, device=t.device).repeat(batch)
    raw = module.ask(evaluation, k, states.steps).unflatten(0, (batch, decisions))
    return log_prob(raw, states.r) * states.mask, raw
