"""What each knob of a step schedule is worth: deviation, lying sigma, omega, the step times.

    python bench/knobs.py --steps 4 6 10 --guidance 3 5 --out docs/measurements/knobs

Each knob is searched with the same images (search_schedule.py's own search) on the embedded model,
and what was found is measured on held-out prompts, beside one more step. The step times are what
OptimalSteps (arXiv 2503.21774) chooses; here they are chosen by the same reward as the others.
"step times, then deviation" searches D on the grid that "step times" found, with as many images
again.
Writes rows.csv and knobs.md into --out; what is in rows.csv is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from async_timestep.bench.parts import frame, searched
from async_timestep.report.tables import markdown
from async_timestep.tpm.policies import Policy
from async_timestep.tpm.schedule import Schedule
from async_timestep.training.evaluation.statistics import difference
from async_timestep.training.search.generations import Plan, conclusion, search
from async_timestep.training.search.measure import Measure
from async_timestep.training.search.space import KNOTS, SPACES, Space

TIMES = "step times"
THEN = {f"{TIMES}, then {name}": name for name in ("deviation", "follow_time")}
KNOBS = (*SPACES, TIMES, *THEN)
MORE = "one more step"
WIDEST = 1.0  # at the end of the box an interval is e times as wide, before all are scaled to 1


@dataclass(frozen=True)
class StepTimes:
    """A policy, or D = 0, on flow times of its own, (K+1,) from 1 to 0."""

    sigmas: Tensor
    policy: Policy | None = None
    label: str = TIMES


class TimesSpace(Space):
    """The widths of the K intervals, as a factor each along a broken line; all 0 is the grid."""

    @property
    def numbers(self) -> int:
        return min(self.steps, KNOTS)

    @property
    def low(self) -> Tensor:
        return -torch.ones(self.numbers, dtype=torch.float64)

    def schedule(self, numbers: Tensor) -> StepTimes:
        at = torch.linspace(0, self.numbers - 1, self.steps, dtype=torch.float64)
        left = at.long().clamp(max=self.numbers - 2)
        line = numbers[left] + (at - left) * (numbers[left + 1] - numbers[left])
        times = torch.tensor(self.times, dtype=torch.float64)
        widths = (times[:-1] - times[1:]) * torch.exp(WIDEST * line)
        spent = torch.cat([torch.zeros(1, dtype=torch.float64), (widths / widths.sum()).cumsum(0)])
        return StepTimes(torch.cat([1 - spent[:-1], torch.zeros(1)]).float())

    def guesses(self) -> Tensor:
        """(2, m): finer at the beginning, finer at the end."""
        rise = torch.linspace(-0.5, 0.5, self.numbers, dtype=torch.float64)
        return torch.stack([rise, -rise])


@dataclass(frozen=True)
class ThenSpace(Space):
    """A schedule on chosen step times; all 0 is D = 0 on them."""

    sigmas: Tensor | None = None

    def schedule(self, numbers: Tensor) -> StepTimes:
        return StepTimes(self.sigmas, super().schedule(numbers))


class OnItsOwnTimes:
    """A backbone that samples `StepTimes` on their own grid, and all else that `plain` is: what a
    search gains over."""

    def __init__(self, backbone, plain: StepTimes | None = None):
        self.backbone, self.plain = backbone, plain

    def __getattr__(self, name: str):
        return getattr(self.backbone, name)

    def sample(self, conditioning, noise, sigmas, policy=None, *more) -> Tensor:
        policy = policy or self.plain
        if isinstance(policy, StepTimes):
            sigmas, policy = policy.sigmas, policy.policy
        return self.backbone.sample(conditioning, noise, sigmas, policy, *more)


class Case:
    """A number of steps and a guidance: the searches, and the held-out prompts. there: method ->
    its row."""

    def __init__(self, args: argparse.Namespace, steps: int, guidance: float, there: dict):
        self.args, self.steps, self.guidance, self.there = args, steps, guidance, there
        self.plan = Plan(args.images, args.prompts, args.candidates, args.seed)

    def loaded(self, name: str, plain: StepTimes | None = None) -> tuple[Space, Measure]:
        own = (self.plan, self.steps, self.guidance, self.args.n, self.args.threads)
        space, measure = searched.load(name, *own)
        backbone = OnItsOwnTimes(measure.measurement.backbone, plain)
        measure.measurement = replace(measure.measurement, backbone=backbone)
        return space, measure

    @cached_property
    def held(self) -> searched.HeldOut:
        return searched.HeldOut(self.loaded("deviation")[1])

    @cached_property
    def times(self) -> StepTimes:
        """As they are printed, where they are found already."""
        if TIMES in self.there:
            found = map(float, str(self.there[TIMES]["numbers"]).split())
            return StepTimes(torch.tensor([1.0, *found, 0.0]))
        space, measure = self.loaded("deviation")
        return self.searched(TimesSpace(TIMES, space.times), measure)

    def searched(self, space: Space, measure: Measure) -> Schedule | StepTimes:
        found = list(search(measure, space, self.plan))
        return space.schedule(conclusion(space, self.plan, found)[0])

    def found(self, knob: str) -> Schedule | StepTimes:
        """What the search of a knob finds."""
        if knob == TIMES:
            return self.times
        if knob not in THEN:
            return self.searched(*self.loaded(knob))
        space, measure = self.loaded(THEN[knob], self.times)
        own = tuple(self.times.sigmas.tolist())
        return self.searched(ThenSpace(space.name, own, self.times.sigmas), measure)

    def rows(self, knob: str) -> list[dict]:
        """The gain over D = 0 on the plain grid; of what follows the times over those, too."""
        if knob == MORE:
            return [self.row(knob, "", self.held.gain(self.steps, more=1))]
        schedule = self.found(knob)
        rows = [self.row(knob, numbers(schedule), self.held.gain(self.steps, schedule))]
        if knob in THEN:
            both, times = (self.held.scores(self.steps, s) for s in (schedule, self.times))
            rows.append(self.row(f"{THEN[knob]} over those times", "", difference(both, times)))
        return rows

    def row(self, knob: str, told: str, gain: tuple[float, float]) -> dict:
        own = {"method": knob, "guidance": self.guidance, "numbers": told}
        return own | dict(zip(("gain", "error"), gain, strict=True))


def numbers(schedule: Schedule | StepTimes) -> str:
    """What was found, as a cell."""
    if isinstance(schedule, StepTimes):
        told = " ".join(f"{t:.2f}" for t in schedule.sigmas[1:-1].tolist())
        return f"{told}; {numbers(schedule.policy)}" if schedule.policy else told
    told = " ".join(f"{d:+.2f}" for d in schedule.deviation[1:])
    if set(schedule.omega) != {1.0}:
        told += " (" + " ".join(f"{w:.2f}" for w in schedule.omega[:-1]) + ")"
    return told


def run(args: argparse.Namespace, rows: frame.Rows) -> None:
    """Adds a row for every number of steps, guidance and knob that is not there."""
    for steps, guidance in itertools.product(args.steps, args.guidance):
        own = [row for row in rows if (row["steps"], row["guidance"]) == (steps, guidance)]
        there = {row["method"]: row for row in own}
        case = Case(args, steps, guidance, there)
        for knob in (MORE, *args.knobs):
            if knob not in there:
                found = case.rows(knob)
                rows.add(steps, knob, *found)
                print(steps, *(list(row.values()) for row in found), flush=True)


def tables(rows: frame.Rows) -> str:
    """The gains, a line for each number of steps and guidance, and what was found."""
    knobs = list(dict.fromkeys(row["method"] for row in rows))
    cells = {(row["steps"], row["guidance"], row["method"]): row for row in rows}
    cases = sorted({(steps, guidance) for steps, guidance, _ in cells})
    gains, found = [], []
    for steps, guidance in cases:
        own = [cells.get((steps, guidance, knob)) for knob in knobs]
        head = [str(steps), f"{guidance:g}"]
        gains.append([*head, *(f"{c['gain']:+.4f} ± {c['error']:.4f}" if c else "" for c in own)])
        found.append([*head, *(str(c["numbers"]) if c else "" for c in own)])
    return (
        markdown(["K", "CFG", *knobs], gains)
        + "\nFound:\n\n"
        + markdown(["K", "CFG", *knobs], found)
    )


def main() -> None:
    parser = frame.parser(__doc__)
    add = parser.add_argument
    add("--steps", type=int, nargs="+", default=[4, 6, 10])
    add("--guidance", type=float, nargs="+", default=[3.0, 5.0])
    add("--knobs", nargs="+", default=KNOBS, choices=KNOBS)
    add("--seed", type=int, default=0)
    searched.options(parser, held_out=512)
    frame.threads_option(parser, 1)
    frame.folder_option(parser, "rows.csv and knobs.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    setting = f"{searched.told(args)}, seed {args.seed}"
    rows = frame.Rows(args.out / "rows.csv", setting)
    run(args, rows)
    legend = (
        f"Embedded model, fp32; {setting}. Gain of the reward over D = 0 on the same number of "
        "steps, held-out prompts and noises, ± one standard error. One seed of the search: its own "
        "scatter is in search_peers.md. Found: D of the steps 1 to K-1 (omega of 0 to K-2), or the "
        "flow times between 1 and 0. What follows the step times is searched on them, as they are "
        f"printed here, with as many images again, {2 * args.images:,} in all; beside its gain "
        "stands the part that it adds, "
        "over D = 0 on those times."
    )
    page = ["# What each knob is worth", frame.made_by(frame.command("knobs")), legend]
    print(frame.write_page(args.out / "knobs.md", [*page, tables(rows)]))


if __name__ == "__main__":
    main()
