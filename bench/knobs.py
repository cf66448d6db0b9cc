"""What each knob of a step schedule is worth: deviation, lying sigma, omega, the step times.

    python bench/knobs.py --steps 4 6 10 --guidance 3 5 --out docs/measurements/knobs

Each knob is searched with the same images (search_schedule.py's own search) on the embedded model,
and what was found is measured on held-out prompts, beside one more step. The step times are what
OptimalSteps (arXiv 2503.21774) chooses; here they are chosen by the same reward as the others.
Writes rows.csv and knobs.md into --out; what is in rows.csv is not measured again.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from async_timestep.bench.parts import frame, searched
from async_timestep.report.tables import markdown
from async_timestep.training.search.generations import Plan, conclusion, search
from async_timestep.training.search.space import KNOTS, SPACES, Space

TIMES = "step times"
MORE = "one more step"
WIDEST = 1.0  # at the end of the box an interval is e times as wide, before all are scaled to 1


@dataclass(frozen=True)
class StepTimes:
    """D = 0 on flow times of its own, (K+1,) from 1 to 0."""

    sigmas: Tensor
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


class OnItsOwnTimes:
    """A backbone that samples `StepTimes` on their own grid."""

    def __init__(self, backbone):
        self.backbone = backbone

    def __getattr__(self, name: str):
        return getattr(self.backbone, name)

    def sample(self, conditioning, noise, sigmas, policy=None, *more) -> Tensor:
        if isinstance(policy, StepTimes):
            sigmas, policy = policy.sigmas, None
        return self.backbone.sample(conditioning, noise, sigmas, policy, *more)


def numbers(schedule) -> str:
    """What was found, as a cell."""
    if isinstance(schedule, StepTimes):
        return " ".join(f"{t:.2f}" for t in schedule.sigmas[1:-1].tolist())
    told = " ".join(f"{d:+.2f}" for d in schedule.deviation[1:])
    if set(schedule.omega) != {1.0}:
        told += " (" + " ".join(f"{w:.2f}" for w in schedule.omega[:-1]) + ")"
    return told


def run(args: argparse.Namespace, rows: frame.Rows) -> None:
    """Adds a row for every number of steps, guidance and knob that is not there."""
    there = {(row["steps"], row["guidance"], row["method"]) for row in rows}
    for steps, guidance in itertools.product(args.steps, args.guidance):
        held = None
        for knob in (MORE, *args.knobs):
            if (steps, guidance, knob) in there:
                continue
            plan = Plan(args.images, args.prompts, args.candidates, args.seed)
            named = knob if knob in SPACES else "deviation"
            space, measure = searched.load(named, plan, steps, guidance, args.n, args.threads)
            measured = measure.measurement
            measured = replace(measured, backbone=OnItsOwnTimes(measured.backbone))
            measure.measurement = measured
            held = held or searched.HeldOut(measure)
            if knob == MORE:
                told, (mean, error) = "", held.gain(steps, more=1)
            else:
                space = TimesSpace(knob, space.times) if knob == TIMES else space
                found = list(search(measure, space, plan))
                schedule = space.schedule(conclusion(space, plan, found)[0])
                told, (mean, error) = numbers(schedule), held.gain(steps, schedule)
            own = {"guidance": guidance, "numbers": told, "gain": mean, "error": error}
            rows.add(steps, knob, own)
            print(steps, guidance, knob, told, f"{mean:+.4f} ± {error:.4f}", flush=True)


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
    add("--knobs", nargs="+", default=[*SPACES, TIMES], choices=[*SPACES, TIMES])
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
        "flow times between 1 and 0."
    )
    page = ["# What each knob is worth", frame.made_by(frame.command("knobs")), legend]
    print(frame.write_page(args.out / "knobs.md", [*page, tables(rows)]))


if __name__ == "__main__":
    main()
