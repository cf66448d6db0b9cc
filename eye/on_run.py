"""The schedules of a sheet, each on the flow times of the run that it is used in.

    sheet = Watched(family="tiny")
    policies = [OnRun(partial(schedule, own), sheet, place) for place, own in enumerate(shown)]

A sampler's grid is known only when it runs. So the first run of a sheet gives the flow times, and
from then on every schedule of the sheet stands on them: what is looked at is, to the bit, what a
saved file does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..tpm.policies import Decision, Policy, State, synchronous
from ..tpm.schedule import Schedule

STEPS_LEAST = 2


@dataclass
class Watched:
    """What the runs of one sheet were.

    family: of the model that the session is of; "" takes the first run's. times: (K+1,) flow times
    of the schedules, () until the first run. ran: (K+1,) those of the first run of a schedule.
    steps: of the first run of each column, by its place. channels: of the latents.
    """

    family: str = ""
    times: tuple[float, ...] = ()
    ran: tuple[float, ...] = ()
    steps: dict[int, int] = field(default_factory=dict)
    channels: int = 0

    def see(self, column: int, state: State) -> None:
        """Raises ValueError on another model than the session's, and where nothing can be tuned."""
        if self.family and state.family != self.family:
            raise ValueError(other_family(self.family, state.family))
        self.family = state.family
        self.steps.setdefault(column, state.steps)
        if state.x is not None:
            self.channels = state.x.shape[1]


def other_family(known: str, found: str) -> str:
    return (
        f"Tune by Eye found the model family {found}, expected {known}, with which this session "
        "began; load that model, or take another session name for this one."
    )


@dataclass(frozen=True)
class OnRun(Policy):
    """One column of a sheet. schedule: makes a `Schedule` of flow times (K+1,); None is off."""

    schedule: Callable[[tuple[float, ...]], Schedule] | None
    watched: Watched
    column: int
    label = "tuned by eye"
    needs_schedule = True
    secret = True

    def decide(self, state: State) -> Decision:
        watched = self.watched
        watched.see(self.column, state)
        if self.schedule is None:
            return synchronous(state)
        watched.ran = watched.ran or tuple(map(state.flow_time, state.grid))
        if not watched.times:
            if state.steps < STEPS_LEAST:
                raise ValueError(
                    "Tune by Eye found a sampler of 1 step, which has nothing to tune, since the "
                    "first step is never changed; take 2 steps or more."
                )
            watched.times = watched.ran
        return self.schedule(watched.times).decide(state)
