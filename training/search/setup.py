"""What a search is made of, loaded and put together."""

from __future__ import annotations

from ..data.identity import identities
from ..data.prompts import load_prompts, training_order
from ..evaluation.paired import PairedMeasurement, keys, load_models, set_up
from ..run.config import Config
from ..run.console import Report
from ..run.distributed import World
from ..run.phase import phase
from .generations import Plan
from .measure import Measure
from .space import Space


def check_plan(config: Config, plan: Plan) -> None:
    """Raises ValueError of one sentence on numbers that no search can be made of."""
    if len(set(config.step_counts)) != 1:
        raise ValueError(
            f"steps is {list(config.step_counts)}, expected one number: a schedule is searched on "
            "one grid; give --steps 4, and run it on others with evaluate.py --schedule."
        )
    if plan.prompts < 4 or plan.prompts % 2:
        raise ValueError(f"--prompts is {plan.prompts}, expected an even number from 4.")
    if not 2 <= plan.candidates <= 64:
        raise ValueError(f"--candidates is {plan.candidates}, expected 2 to 64.")
    least = 2 * plan.prompts * (plan.candidates + 1)
    if plan.images < least:
        raise ValueError(
            f"--images is {plan.images}, expected {least:,} or more: two generations of "
            f"{plan.candidates} candidates and D = 0 on {plan.prompts} prompts."
        )


def load_search(
    config: Config, space: str, plan: Plan, world: World, report: Report
) -> tuple[Space, Measure, dict]:
    """(what is searched, what measures it, what a resumed search has to agree in). Raises
    ValueError, OSError or RuntimeError of one sentence."""
    config, device = set_up(config, world)
    phase("reading the prompts")
    prompts = {"train": load_prompts(config.data, "train")}
    load_prompts(config.data, "evaluation")  # read at the end; what is wrong with them, now
    backbone, rewards = load_models(config, device)
    places = identities(config, backbone.weights) if world.main else {}
    measurement = PairedMeasurement(config, backbone, rewards, prompts, report, places)
    (steps,) = set(config.step_counts)
    order = training_order(prompts["train"], config.seed)
    weights = {name: weight for name, weight in config.rewards.weights.items() if weight}
    measure = Measure(measurement, order, weights, steps, plan.seed, plan.prompts, world)
    searched = Space(space, backbone.times(steps))
    key = {
        "space": space,
        "steps": steps,
        "seed": plan.seed,
        "prompts": plan.prompts,
        "candidates": plan.candidates,
        "settings": keys(measurement)[0] if world.main else "",
    }
    return searched, measure, key
