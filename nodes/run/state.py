"""One sampling run: what is decided at an evaluation, and what is carried to the next one.

The lines of Algorithm 2 are the methods of `RunState`, in the order in which `hook.predict_noise`
calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from ...report.trace import Run
from ...tpm.conditioning import PERCENT_UNIT, grid_index
from ...tpm.policies import Decision, Evaluation, Policy, State
from ..pixels.hooks import swapped
from ..pixels.scope import pixel_map
from .checks import require_guidance
from .regional import as_scalars_where_uniform, expand_to, per_sample_or_map, weighted
from .times import ModelTime, grid_times, velocity_factor
from .tracker import RegionTracker


@dataclass(frozen=True)
class Step:
    """One evaluation: where it is, and what was decided for it.

    k: its grid point; between two nodes, the interval's end. sigma: (B,) the sampler's own noise
    levels. u: (B,) their times in the model's coordinate. decision: the policy's. applied: what the
    region leaves of it, (B,) or a map (B, 1, ...). u_star, ratio, omega of the same shape: the
    conditioning time; sigma*/sigma, None where u* = u; the factor of the velocity, None where it
    is 1.
    """

    k: int
    sigma: torch.Tensor
    u: torch.Tensor
    decision: Decision
    applied: Decision
    u_star: torch.Tensor
    ratio: torch.Tensor | None
    omega: torch.Tensor | None

    @property
    def is_map(self) -> bool:
        return self.applied.deviation.ndim > 1

    def scaled(self, x: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
        """x - omega sigma v with sigma v = x - denoised (Eq. 19); denoised itself where omega is 1.
        Both (B, C, ...)."""
        if self.omega is None:
            return denoised
        omega = self.omega.to(x.device)
        omega = omega.view(-1, *[1] * (x.ndim - 1)) if omega.ndim == 1 else omega
        return x - omega * (x - denoised)


@dataclass
class RunState:
    """All that one sampling run carries from evaluation to evaluation."""

    policy: Policy
    family: str
    grid: torch.Tensor  # (K+1,) the whole schedule, on the CPU
    nodes: list[float]  # the same as numbers: searching a tensor costs five times as much
    stage_sigmas: list[float]  # the part of them that this sampler runs
    written: Run  # its record in the trace
    region: RegionTracker | None = None
    decisions: dict[int, Decision] = field(default_factory=dict)  # of a learned policy, by k
    decided_after: set[int] = field(default_factory=set)  # grid points whose answer is final
    time: ModelTime | None = None  # of the model, from the first evaluation on
    times: list[float] | None = None  # u at the grid points, see `grid_times`
    u_star: torch.Tensor | None = None  # (B,) what `hook.apply_model` is to tell the network
    network_called: bool = False

    def begin(self, guider, x: torch.Tensor) -> None:
        """At the first evaluation: the host has loaded the guider's model. Later ones change
        nothing. Raises ValueError where the model's time does not grow with its noise, and where a
        region cannot be told to it."""
        if self.region is not None:
            self.region.fit(guider, x.shape, x.device)
        if self.time is None:
            require_guidance(guider)
            self.time = ModelTime(guider.inner_model.model_sampling)

    @property
    def is_collecting(self) -> bool:
        """True in the plain first pass of a static region."""
        return self.region is not None and self.region.is_collecting

    def locate(self, sigma: torch.Tensor) -> tuple[int, torch.Tensor]:
        """Grid point k and time u (B,) of the sampler's sigma (B,)."""
        return grid_index(self.nodes, float(sigma[0])), self.time.of(sigma)

    def decide(self, k: int, sigma: torch.Tensor, x: torch.Tensor) -> Decision:
        """The policy's decision at grid point k, where the latents are x (B, C, ...): none at the
        first one, where t*_0 = t_0; a learned policy has answered one evaluation earlier."""
        state = replace(self.state_at(k, float(sigma[0]), len(x)), x=x)
        if k == 0:
            return self.policy.decide(state).scaled(0.0)
        return self.decisions.get(k) or self.policy.decide(state)

    def step(self, k: int, sigma: torch.Tensor, u: torch.Tensor, decision: Decision) -> Step:
        """The conditioning time of a decision, and what else follows from it."""
        applied = decision
        if self.region is not None:
            applied = weighted(decision, as_scalars_where_uniform(self.region.weight))
        u_star = self.conditioning_time(k, u, applied)
        given = expand_to(u, u_star)
        ratio = None if torch.equal(u_star, given) else self.time.sigma_ratio(given, u_star)
        omega = velocity_factor(applied, ratio)
        return Step(k, sigma, u, decision, applied, u_star, ratio, omega)

    def conditioning_time(self, k: int, u: torch.Tensor, decision: Decision) -> torch.Tensor:
        """u* of Eq. 6 and 12: (B,) as u, or a map (B, 1, ...) where the decision is one. Raises
        ValueError on a grid that rises."""
        if k == 0 or not bool((decision.deviation != 0).any() or (decision.cut != 0).any()):
            return u
        self.times = self.times or grid_times(self.time, self.grid, u.device)
        return self.time.star(expand_to(u, decision.deviation), self.times[k - 1], decision)

    def evaluate(self, step: Step, network: Callable, model_options: dict) -> torch.Tensor:
        """denoised (B, C, ...) of `network(model_options)`, which is told u*: one time per sample
        by `hook.apply_model`, a map by the region's tracker."""
        u_star, pixels = None if step.ratio is None else step.u_star, None
        if u_star is not None and u_star.ndim > 1:
            u_star, pixels = None, pixel_map(self.region.network, step.u_star[:, 0], step.u)
        evaluation = nullcontext(model_options)
        if self.region is not None:
            evaluation = self.region.evaluation(pixels, model_options)
        self.network_called = False
        with swapped(self, "u_star", u_star), evaluation as options:
            return network(options)

    def record(self, step: Step) -> None:
        """One entry of the trace; its cut_percent compares sigmas and so means the same on every
        model."""
        u_star, applied = step.u_star, step.applied
        if step.is_map and u_star.ndim == 1:
            u_star = expand_to(u_star, applied.deviation)
        ones = [1.0] * (3 if step.is_map else len(step.u))
        ratios = ones if step.ratio is None else per_sample_or_map(step.ratio)
        if step.is_map:
            ratios = ratios[::-1]  # the largest ratio is the smallest cut
        self.written.add(
            step=step.k,
            sigma=float(step.sigma[0]),
            t=float(step.u[0]),
            t_star=per_sample_or_map(u_star),
            deviation=per_sample_or_map(applied.deviation),
            percent=per_sample_or_map(applied.cut / PERCENT_UNIT),
            cut_percent=[100 * (1 - ratio) for ratio in ratios],
            omega=ones if step.omega is None else per_sample_or_map(step.omega),
            map_of=len(step.u) if step.is_map else 0,
        )

    def ask_next(self, step: Step, x, denoised, guider, model_options: dict) -> None:
        """Algorithm 2, lines 6-9: a learned policy decides for grid point k + 1, once, by what the
        network made of k; where a cache answered in the network's place it is not asked.

        x, denoised: (B, C, ...). A sampler that first evaluates between two nodes (dpm_2) gets an
        answer there, so that one is never missing; the answer at the node itself, if it comes,
        replaces it and is final.
        """
        k, nodes = step.k, self.nodes
        if not self.policy.learned or not self.network_ran(model_options):
            return
        over = k + 1 >= len(nodes) or (nodes[k + 1] == 0.0 and not self.policy.terminal)
        if over or k in self.decided_after:
            return
        if abs(float(step.sigma[0]) - nodes[k]) <= 1e-4 * nodes[k]:
            self.decided_after.add(k)
        elif k + 1 in self.decisions:
            return
        # the policy's own t*, which a region may have told to a part of the pixels only
        u_star = self.conditioning_time(k, step.u, step.decision)
        sigma_star = step.sigma.float() * self.time.sigma_ratio(step.u, u_star)
        mixed, v = self.time.as_flow(x, denoised, step.sigma)
        evaluation = Evaluation(
            x=mixed,
            v=v,
            x0=denoised,
            t=self.time.flow_time(step.sigma.float()),
            t_star=self.time.flow_time(sigma_star),
            pooled=pooled_text(guider),
        )
        state = self.state_at(k + 1, nodes[k + 1], len(x), evaluation)
        self.decisions[k + 1] = self.policy.decide(state)

    def network_ran(self, model_options: dict) -> bool:
        """False where a cache answered in the network's place.

        LazyCache does not even call the model; EasyCache answers inside the network and tells so by
        a flag that it sets anew at each evaluation (LazyCache has the flag too, but never takes it
        back).
        """
        cache = model_options["transformer_options"].get("easycache")
        skipped = getattr(cache, "name", "") == "EasyCache" and cache.skip_current_step
        return self.network_called and not skipped

    def state_at(
        self, k: int, sigma: float, batch: int, evaluation: Evaluation | None = None
    ) -> State:
        """The policy's view of grid point k."""
        stage = self.stage_sigmas
        following = [*stage[grid_index(stage, sigma) + 1 :], *self.nodes[k + 1 :]]
        return State(
            k=k,
            steps=len(self.nodes) - 1,
            sigma=sigma,
            last=following[:1] == [0.0],  # of a stage's own nodes; behind its end, the schedule's
            batch=batch,
            device=torch.device("cpu"),
            family=self.family,
            percent_to_sigma=self.time.percent_to_sigma,
            evaluation=evaluation,
            flow_time=self.time.flow_time,
            previous=self.nodes[k - 1] if k else None,
            mixes=self.time.mixes,
            timestep=self.time.of,
            grid=tuple(self.nodes),
        )


def pooled_text(guider) -> torch.Tensor | None:
    """The positive prompt's pooled vector (1 or B, C): the first one where prompts are combined."""
    for cond in guider.original_conds.get("positive", []):
        if cond.get("pooled_output") is not None:
            return cond["pooled_output"]
    return None
