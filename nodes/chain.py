"""Samplers that are called anew for every step: their runs of one step, joined to one schedule.

Packs that blend several samplers, or show each step, run a schedule of K steps as K samplings of
two sigmas. Each alone has only a first evaluation, which is never changed; where one begins at a
sigma that an earlier one has reached, the interval just passed is known, and Eq. 6 with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..tpm.policies import Decision
from ..tpm.trace import Run

SLACK = 1e-4  # of a sigma: two that differ by less are the same node


@dataclass
class Chain:
    """What the runs of one step of a model have passed so far. `owner`: whose runs they are, a
    queued prompt and a latent's shape."""

    owner: object = None
    grid: list[float] = field(default_factory=list)
    record: Run | None = None
    decisions: dict[int, Decision] = field(default_factory=dict)

    def follow(self, sigmas: list[float], owner: object) -> str:
        """Takes a run of two sigmas in. "first": a schedule begins; "joined": it goes on, and `grid`
        has its nodes up to here; "apart": it lies further down, behind steps that are not known."""
        at = self.position(sigmas[0]) if owner == self.owner else None
        if at is None or (at == 0 and len(self.grid) > 2):  # a second picture from the same start
            lower = owner == self.owner and bool(self.grid) and sigmas[0] < self.grid[-1]
            self.owner, self.grid, self.record, self.decisions = owner, list(sigmas), None, {}
            return "apart" if lower else "first"
        if len(self.grid) == at + 1 or not near(self.grid[at + 1], sigmas[1]):
            self.grid = [*self.grid[: at + 1], sigmas[1]]
        return "joined"

    def position(self, sigma: float) -> int | None:
        """Index of the node that `sigma` is."""
        return next((k for k, node in enumerate(self.grid) if near(node, sigma)), None)


def near(a: float, b: float) -> bool:
    return abs(a - b) <= SLACK * max(abs(a), abs(b))
