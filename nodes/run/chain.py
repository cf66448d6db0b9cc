"""Samplers that are called anew for every step: their runs of one step, joined to one schedule.

Packs that blend several samplers, or show each step, run a schedule of K steps as K samplings of
two sigmas. Each alone has only a first evaluation, which is never changed; where one begins at a
sigma that an earlier one has reached, the interval just passed is known, and Eq. 6 with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...report.trace import Run
from ...tpm.policies import Decision, Policy

SLACK = 1e-4  # of a sigma: two that differ by less are the same node


@dataclass
class Chain:
    """What the runs of one step of a model have passed so far. `owner`: whose runs they are, a
    queued prompt and a latent's shape."""

    owner: object = None
    grid: list[float] = field(default_factory=list)
    record: Run | None = None
    decisions: dict[int, Decision] = field(default_factory=dict)  # by k of the whole schedule
    said: set[str] = field(default_factory=set)  # in the log, once for all the steps of an owner

    def follow(self, sigmas: list[float], owner: object) -> str:
        """Takes a run of two sigmas in. "first": a schedule begins; "joined": it goes on, and
        `grid` has its nodes up to here; "apart": it lies further down, behind unknown steps."""
        at = self.position(sigmas[0]) if owner == self.owner else None
        if at is None or (at == 0 and len(self.grid) > 2):  # a second picture from the same start
            lower = owner == self.owner and bool(self.grid) and sigmas[0] < self.grid[-1]
            if owner != self.owner:
                self.said.clear()
            self.owner, self.grid, self.record = owner, list(sigmas), None
            return "apart" if lower else "first"
        if len(self.grid) == at + 1 or not near(self.grid[at + 1], sigmas[1]):
            self.grid = [*self.grid[: at + 1], sigmas[1]]
        return "joined"

    def carry(self, sigmas: list[float], owner: object) -> dict[int, Decision]:
        """What a learned policy has decided in the stages before one that is known to be a part of
        a whole schedule: kept where it begins where the last one ended, or began."""
        ends = [*self.grid[:1], *self.grid[-1:]] if owner == self.owner else []
        if not any(near(sigmas[0], end) for end in ends):
            self.decisions = {}
        self.owner, self.grid = owner, list(sigmas)
        return self.decisions

    def position(self, sigma: float) -> int | None:
        """Index of the node that `sigma` is."""
        return next((k for k, node in enumerate(self.grid) if near(node, sigma)), None)


def step_warnings(place: str, policy: Policy, region) -> list[str]:
    """What a run of one step has to say; `place` as `Chain.follow` gives it."""
    each = "this sampler is called anew for every step"
    connect = "connect the scheduler's SIGMAS to Async Timestep (model patch)"
    if place == "apart":
        return [
            f"Async Timestep left a step as it is: {each}, and the step before it was not made "
            f"with this model; {connect}."
        ]
    found = []
    if place == "joined" and policy.needs_schedule:
        found.append(
            f"Async Timestep is off: {each}, but '{policy.label}' goes by the whole schedule; "
            f"{connect}."
        )
    if place == "joined" and region is not None and region.mode == "words":
        found.append(
            f"Async Timestep takes the region of the words as everywhere: {each}, and a step's "
            "attention makes the mask of the next one; connect a mask instead."
        )
    return found


def near(a: float, b: float) -> bool:
    return abs(a - b) <= SLACK * max(abs(a), abs(b))
