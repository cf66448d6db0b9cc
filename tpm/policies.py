"""Policies: what decides the deviation at every grid point. Small immutable objects that
compose.

    Scaled(Window(Constant(0.5), 0.0, 0.8), 2.0).decide(state)

A policy gets a `State` and answers a `Decision`. It never sees the network; the hook asks it
and applies the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .conditioning import PERCENT_UNIT
from .families import UNTUNED, family_of

UNITS = ("interval", "percent")
MODES = ("conditioning", "follow_time")
UNTUNED_MOST = 0.1  # of sigma that a preset cuts where nobody has measured it


@dataclass(frozen=True)
class Evaluation:
    """What the last network evaluation left behind, for a learned policy: latents (B, C, H, W),
    times (B,) in flow time.
    """

    x: torch.Tensor
    v: torch.Tensor
    x0: torch.Tensor
    t: torch.Tensor
    t_star: torch.Tensor
    pooled: torch.Tensor | None


@dataclass(frozen=True)
class State:
    """One grid point k >= 1 of a run, in the whole schedule of `steps` intervals.

    sigma: the true noise level there. last: no further evaluation follows (the next node is 0).
    percent_to_sigma: the model's own map. evaluation: the state at k-1, None where a cache
    skipped it or the stage has just begun. flow_time: from sigma to the share of noise, which on
    flow models it is itself. x: the latents (B, C, ...) that the network is about to see. previous:
    sigma at k-1. mixes: the latents are (1 - sigma) x0 + sigma noise, not x0 + sigma noise.
    timestep: from sigma (any shape) to the model's own time. grid: (K+1,) the sigmas of the whole
    schedule, where the caller knows them.
    """

    k: int
    steps: int
    sigma: float
    last: bool
    batch: int
    device: torch.device
    family: str
    percent_to_sigma: Callable[[float], float]
    evaluation: Evaluation | None = None
    flow_time: Callable[[float], float] = float
    x: torch.Tensor | None = None
    previous: float | None = None
    mixes: bool = True
    timestep: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.clone
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Per-sample answer, each (B,): deviation in interval units, cut as a share of t, omega;
    `follow`: omega = t*/t.
    """

    deviation: torch.Tensor
    cut: torch.Tensor
    omega: torch.Tensor
    follow: bool = False

    def scaled(self, gamma: float) -> Decision:
        """gamma multiplies the deviation (Eq. 12), never omega."""
        return replace(self, deviation=self.deviation * gamma, cut=self.cut * gamma)


def synchronous(state: State) -> Decision:
    """t* = t and omega = 1 for every sample."""
    zero = torch.zeros(state.batch, device=state.device)
    return Decision(zero, zero, torch.ones_like(zero))


def limited(decision: Decision, state: State, share: float) -> Decision:
    """The decision with at most this share of sigma cut, or added: |sigma* / sigma - 1| <= share.
    An interval is no fixed share of it: with few steps, or a schedule that falls steeply, a quarter
    of one can be nine tenths of sigma."""
    if state.previous is None:
        return decision
    sigmas = (state.sigma, state.previous, state.sigma * (1 - share))
    u, before, least = (
        float(state.timestep(torch.tensor([sigma], dtype=torch.float32))) for sigma in sigmas
    )
    if before <= u:
        return decision
    most = (u - least) / (before - u)
    return replace(decision, deviation=decision.deviation.clamp(-most, most))


def inside(state: State, start_percent: float, end_percent: float) -> bool:
    """True where the true sigma lies in the window; the same comparison in float32 as ComfyUI's
    own ranges.
    """
    start, end, sigma = (
        torch.tensor(v, dtype=torch.float32)
        for v in (
            state.percent_to_sigma(start_percent),
            state.percent_to_sigma(end_percent),
            state.sigma,
        )
    )
    return bool(end <= sigma <= start)


def window_label(start_percent: float, end_percent: float) -> str:
    whole = (start_percent, end_percent) == (0.0, 1.0)
    return "" if whole else f", {start_percent:.0%}-{end_percent:.0%}"


def follow_label(mode: str) -> str:
    return ", omega = t*/t" if mode == "follow_time" else ""


class Policy:
    """Base: a label for plots, whether a TPM is inside (it reads `State.evaluation`), and
    `decide`.
    """

    label = "off"
    terminal = False  # also asked for the last grid point, where no evaluation follows (training)

    @property
    def learned(self) -> bool:
        inner = getattr(self, "policy", None)
        return inner is not None and inner.learned

    @property
    def secret(self) -> bool:
        """True where a person is to judge the pictures without knowing what was done."""
        inner = getattr(self, "policy", None)
        return getattr(inner, "secret", False)

    @property
    def needs_schedule(self) -> bool:
        """True where the place k of K matters, and not the noise level alone."""
        inner = getattr(self, "policy", None)
        return self.learned or (inner is not None and inner.needs_schedule)

    def decide(self, state: State) -> Decision:
        raise NotImplementedError


@dataclass(frozen=True)
class Absent(Policy):
    """In the place of a deviation that is not connected, or bypassed: none."""

    label = "no deviation connected"

    def decide(self, state: State) -> Decision:
        return synchronous(state)


@dataclass(frozen=True)
class Constant(Policy):
    """The same deviation at every step: the policy that the paper calls RL-free."""

    deviation: float
    unit: str = "interval"
    mode: str = "conditioning"

    @property
    def label(self) -> str:
        unit = " x 10 % of t" if self.unit == "percent" else ""
        return f"D = {self.deviation:+g}{unit}{follow_label(self.mode)}"

    def decide(self, state: State) -> Decision:
        flat = torch.full((state.batch,), float(self.deviation), device=state.device)
        zero = torch.zeros_like(flat)
        deviation, cut = (flat, zero) if self.unit == "interval" else (zero, flat * PERCENT_UNIT)
        return Decision(deviation, cut, torch.ones_like(flat), follow=self.mode == "follow_time")


@dataclass(frozen=True)
class Preset(Policy):
    """The paper's constant for a family; `auto` takes the loaded model's family and is cautious
    with unknown ones: nothing at the last step, and at most UNTUNED_MOST of sigma at the others.
    A quarter of the interval is right at few and many steps, on a flow and on an eps model; on a
    flow model's steepest schedules it would be up to 90 % of sigma, which does harm
    (bench/untuned.py).
    """

    name: str = "auto"
    mode: str = "conditioning"
    unit: str = "interval"

    @property
    def label(self) -> str:
        return f"preset {self.name}{follow_label(self.mode)}"

    def resolve(self, family: str) -> tuple[float, str, bool]:
        """(deviation, where it comes from in words, whether it is tuned) for a model family."""
        wanted = family_of(family if self.name == "auto" else self.name)
        tuned = wanted.preset is not None
        value = wanted.preset if tuned else UNTUNED
        source = f"{wanted.name} D = {value:+g}"
        return value, f"{source}, {wanted.preset_source}" if tuned else source, tuned

    def decide(self, state: State) -> Decision:
        value, _, tuned = self.resolve(state.family)
        decision = Constant(value, self.unit, self.mode).decide(state)
        if tuned:
            return decision
        return synchronous(state) if state.last else limited(decision, state, UNTUNED_MOST)


@dataclass(frozen=True)
class Curve(Policy):
    """A deviation that follows a curve over the schedule: `shape(progress)` times the policy's
    own, progress = k / K.
    """

    policy: Policy
    shape: Callable[[float], float]
    needs_schedule = True

    @property
    def label(self) -> str:
        return f"{self.policy.label} x curve"

    def decide(self, state: State) -> Decision:
        return self.policy.decide(state).scaled(float(self.shape(state.k / state.steps)))


@dataclass(frozen=True)
class Window(Policy):
    """Only between start_percent and end_percent (ComfyUI's meaning, on the true sigma);
    synchronous outside.
    """

    policy: Policy
    start_percent: float = 0.0
    end_percent: float = 1.0

    @property
    def label(self) -> str:
        return self.policy.label + window_label(self.start_percent, self.end_percent)

    def decide(self, state: State) -> Decision:
        return (
            self.policy.decide(state)
            if inside(state, self.start_percent, self.end_percent)
            else synchronous(state)
        )


@dataclass(frozen=True)
class Scaled(Policy):
    """gamma times a policy's deviation inside a window (Eq. 12); outside the window the policy
    is left as it is.
    """

    policy: Policy
    gamma: float = 1.0
    start_percent: float = 0.0
    end_percent: float = 1.0

    @property
    def label(self) -> str:
        if self.gamma == 1:
            return self.policy.label
        where = window_label(self.start_percent, self.end_percent)
        return f"{self.policy.label}, gamma {self.gamma:g}{where}"

    def decide(self, state: State) -> Decision:
        decision = self.policy.decide(state)
        return (
            decision.scaled(self.gamma)
            if inside(state, self.start_percent, self.end_percent)
            else decision
        )


@dataclass(frozen=True)
class Still(Policy):
    """A policy whose deviation is held at 0 and which is never asked; its omega stays."""

    policy: Policy
    learned = False

    @property
    def label(self) -> str:
        return self.policy.label

    def decide(self, state: State) -> Decision:
        return self.policy.decide(replace(state, evaluation=None)).scaled(0.0)


@dataclass(frozen=True)
class VelocityScale(Policy):
    """omega of Eq. 19: the returned denoised is x - omega sigma v. `constant` leaves the last
    step alone (omega = 1), `follow_time` sets omega_k = t*_k / t_k on every step
    (sigma*/sigma for eps and v models)."""

    policy: Policy | None = None
    omega: float = 1.0
    mode: str = "constant"
    start_percent: float = 0.0
    end_percent: float = 1.0

    @property
    def label(self) -> str:
        own = self.policy.label if self.policy else "synchronous"
        what = follow_label(self.mode) or f", omega {self.omega:g}"
        return own + what + window_label(self.start_percent, self.end_percent)

    def decide(self, state: State) -> Decision:
        decision = self.policy.decide(state) if self.policy else synchronous(state)
        if not inside(state, self.start_percent, self.end_percent):
            return decision
        if self.mode == "follow_time":
            return replace(decision, follow=True)
        return decision if state.last else replace(decision, omega=decision.omega * self.omega)
