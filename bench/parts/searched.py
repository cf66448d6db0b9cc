"""What the benches of the schedule search share: its set-up on the embedded model, and the gain of
what was found on held-out prompts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field

from torch import Tensor

from async_timestep.tpm.policies import Policy
from async_timestep.training.data.prompts import load_prompts
from async_timestep.training.evaluation.statistics import difference
from async_timestep.training.run.console import Report
from async_timestep.training.run.distributed import World
from async_timestep.training.run.settings import parse
from async_timestep.training.search.generations import Plan
from async_timestep.training.search.measure import Measure
from async_timestep.training.search.setup import load_search
from async_timestep.training.search.space import Space

METRIC, SPLIT = "scene", "evaluation"


def options(parser: argparse.ArgumentParser, held_out: int) -> None:
    """What a search may roll out, and the number of held-out prompts."""
    add = parser.add_argument
    add("--images", type=int, default=1280, help="rolled out by each, those at D = 0 too")
    add("--prompts", type=int, default=20, help="of a generation")
    add("--candidates", type=int, default=7, help="of a generation")
    add("--n", type=int, default=held_out, help="held-out prompts")


def told(args: argparse.Namespace) -> str:
    """The same in words: rows that were measured with others are not gone on from."""
    generation = f"{args.candidates} candidates on {args.prompts} prompts"
    return f"{args.images} images, {generation}, n {args.n}"


def load(
    name: str,
    plan: Plan,
    steps: int,
    guidance: float,
    held_out: int,
    threads: int,
    precision: str = "fp32",
) -> tuple[Space, Measure]:
    """What search_schedule.py has with these settings, and the held-out prompts beside it."""
    config, _ = parse([
        "--preset=tiny", f"--backbone.precision={precision}", f"--threads={threads}",
        f"--steps={steps}", f"--backbone.guidance={guidance}",
        f"--data.evaluation_prompts={held_out}", f"--seed={plan.seed}",
    ])  # fmt: skip
    space, measure, _ = load_search(config, name, plan, World(), Report())
    measure.measurement.prompts[SPLIT] = load_prompts(config.data, SPLIT)
    return space, measure


@dataclass
class HeldOut:
    """Gains over D = 0 on held-out prompts; each number of steps at D = 0 is measured once."""

    measure: Measure
    plain: dict[int, Tensor] = field(default_factory=dict)

    def scores(self, steps: int, policy: Policy | None = None) -> Tensor:
        if policy is not None:
            return self.measure.measurement.whole(SPLIT, steps, policy)[METRIC]
        if steps not in self.plain:
            self.plain[steps] = self.measure.measurement.whole(SPLIT, steps, None)[METRIC]
        return self.plain[steps]

    def gain(self, steps: int, policy: Policy | None = None, more: int = 0) -> tuple[float, float]:
        """The mean difference to D = 0 at `steps` and its standard error; more: steps on top."""
        return difference(self.scores(steps + more, policy), self.scores(steps))
