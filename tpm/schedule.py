"""A schedule: one deviation and one omega per grid point, the same for every image. A policy
without a network, which a search, a TPM's mean or a person's eye made.

    Schedule((1.0, 0.75, 0.5, 0.25, 0.0), (0.0, 0.6, 0.8, 0.0), (1.0, 1.2, 0.9, 1.0))
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .policies import Decision, Policy, State, follow_label


@dataclass(frozen=True)
class ScheduleMeta:
    """What a schedule file says about itself.

    gain, gain_se, gain_n: the paired gain over D = 0 on held-out prompts, its standard error, and
    the number of prompts; 0 prompts: nobody measured it. images: rolled out to find it. reward: in
    which the gain is. note: one sentence for whoever loads it, such as that nothing was gained.
    weights_sha256: of a few weights of the model, see nodes/run/weights.py; empty: not known.
    """

    model_family: str
    latent_channels: int
    source: str = "search"
    sampler: str = "euler"
    scheduler: str = ""
    guidance: float = 1.0
    resolution: int = 512  # pixels a side
    base_model: str = ""
    license: str = ""
    reward: str = ""
    gain: float = 0.0
    gain_se: float = 0.0
    gain_n: int = 0
    images: int = 0
    note: str = ""
    weights_sha256: str = ""


@dataclass(frozen=True)
class Schedule(Policy):
    """D_k and omega_k over the grid that they were made on.

    times: (K+1,) flow times of the grid, falling: the share of noise, sigma on flow models and
    sigma / (1 + sigma) on the others. deviation: (K,), the first is of grid point 0 and unused.
    omega: (K,). mode: as `Constant`'s. name, meta: of its file, where it has one. On another grid
    both are interpolated linearly over the flow time and constant beyond their ends, so that a
    place in the sampling keeps its meaning whatever the number of steps, the shift or the kind of
    model.
    """

    times: tuple[float, ...]
    deviation: tuple[float, ...]
    omega: tuple[float, ...]
    mode: str = "conditioning"
    name: str = ""
    meta: ScheduleMeta | None = None

    def __post_init__(self) -> None:
        steps = len(self.times) - 1
        if not (steps >= 1 and len(self.deviation) == len(self.omega) == steps):
            raise ValueError(
                f"A schedule has {len(self.times)} times, {len(self.deviation)} deviations and "
                f"{len(self.omega)} omegas, expected K + 1, K and K."
            )

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    @property
    def label(self) -> str:
        return f"schedule {self.name}".rstrip() + follow_label(self.mode)

    def decide(self, state: State) -> Decision:
        """At the first grid point nothing deviates, and no deviation is read off it."""
        t = state.flow_time(state.sigma)
        moved = self.steps > 1 and state.k > 0
        deviation = interpolate(t, self.times[1:-1], self.deviation[1:]) if moved else 0.0
        omega = interpolate(t, self.times[:-1], self.omega)
        flat = torch.ones(state.batch, device=state.device)
        return Decision(flat * deviation, flat * 0, flat * omega, follow=self.mode == "follow_time")


def schedule_warnings(schedule: Schedule, family: str, steps: int) -> list[str]:
    """A sentence each: what the maker notes, another model, and steps that it was not made on."""
    meta, warnings = schedule.meta, []
    if meta and meta.note:
        warnings.append(meta.note)
    if meta and meta.model_family != family:
        warnings.append(
            f"The schedule {schedule.name} was made for {meta.model_family} and runs here on "
            f"{family}, where nobody has measured it; search one for {family}, or compare its "
            "images with deviation_scale 0."
        )
    if steps < schedule.steps:
        warnings.append(
            f"The schedule {schedule.name} was made on {schedule.steps} steps and runs here on "
            f"{steps}, where it can do harm; search one on {steps} steps, or take {schedule.steps}."
        )
    return warnings


def interpolate(t: float, times: Sequence[float], values: Sequence[float]) -> float:
    """The value at t, linear between falling `times`, constant beyond the ends; exactly values[i]
    within one part in 10^5 of times[i], which is what programs' schedulers differ by."""
    for time, value in zip(times, values, strict=True):
        if abs(t - time) <= 1e-5 * time:
            return value
    after = bisect_left([-time for time in times], -t)  # the first time below t
    if after in (0, len(times)):
        return values[0] if after == 0 else values[-1]
    share = (times[after - 1] - t) / (times[after - 1] - times[after])
    return values[after - 1] + share * (values[after] - values[after - 1])
