"""Which optimizer finds the better schedule with the same images? Ours beside kept libraries.

    pip install optuna cmaes
    python bench/search_peers.py --images 1280 --seeds 0 1 2 --out docs/measurements/search_peers

Every optimizer is asked for a generation of candidates at a time, on the same prompts and noises,
and is told each candidate's mean difference to D = 0 on them; D = 0 counts as an image. At its end
it names one schedule: ours its own conclusion, CMA-ES the mean of its distribution, Optuna's
samplers their best trial. That one is measured on held-out prompts. Writes rows.csv and
search_peers.md into --out; what is in rows.csv is not measured again.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from async_timestep.bench.parts import frame, searched
from async_timestep.report.tables import markdown
from async_timestep.training.search.generations import Plan, conclusion, search
from async_timestep.training.search.measure import Measure
from async_timestep.training.search.space import SPACES, Space

OURS = "search_schedule.py"
Optimizer = Callable[[Space, Plan, Measure], Tensor]  # -> (m,) numbers of the schedule it names


def means(
    space: Space, plan: Plan, measure: Measure, index: int, points: list[Tensor]
) -> list[float]:
    """The mean difference to D = 0 of a generation's candidates."""
    schedules = [space.schedule(point) for point in points]
    return measure(index, schedules, range(plan.prompts)).mean(1).tolist()


def library(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"The package {name} is not here: pip install optuna cmaes.") from error


def generations(plan: Plan) -> range:
    return range(plan.images // (plan.prompts * (plan.candidates + 1)))


def ours(space: Space, plan: Plan, measure: Measure) -> Tensor:
    return conclusion(space, plan, list(search(measure, space, plan)))[0]


def optuna_s(name: str, space: Space, plan: Plan, measure: Measure) -> Tensor:
    """A sampler of Optuna's at its defaults."""
    optuna = library("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = getattr(optuna.samplers, name)(seed=plan.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    box = {
        f"x{i}": optuna.distributions.FloatDistribution(float(low), 1.0)
        for i, low in enumerate(space.low)
    }
    for index in generations(plan):
        trials = [study.ask(box) for _ in range(plan.candidates)]
        points = [numbers(trial.params, box) for trial in trials]
        found = means(space, plan, measure, index, points)
        for trial, mean in zip(trials, found, strict=True):
            study.tell(trial, mean)
    return numbers(study.best_trial.params, box)


def numbers(params: dict[str, float], box: dict) -> Tensor:
    return torch.tensor([params[name] for name in box], dtype=torch.float64)


def cma_es(space: Space, plan: Plan, measure: Measure) -> Tensor:
    """The package cmaes, from D = 0."""
    cmaes = library("cmaes")
    bounds = torch.stack([space.low, torch.ones_like(space.low)], dim=1).numpy()
    optimizer = cmaes.CMA(
        mean=0 * bounds[:, 0],
        sigma=0.4,
        bounds=bounds,
        seed=plan.seed,
        population_size=plan.candidates,
    )
    for index in generations(plan):
        points = [optimizer.ask() for _ in range(plan.candidates)]
        found = means(space, plan, measure, index, [torch.from_numpy(p) for p in points])
        optimizer.tell([(p, -mean) for p, mean in zip(points, found, strict=True)])
    return torch.from_numpy(optimizer.mean)


OPTIMIZERS: dict[str, Optimizer] = {
    OURS: ours,
    "Optuna, Gaussian process": partial(optuna_s, "GPSampler"),
    "Optuna, TPE": partial(optuna_s, "TPESampler"),
    "CMA-ES (cmaes)": cma_es,
}


def run(args: argparse.Namespace, rows: frame.Rows) -> None:
    """Adds a row for every optimizer and seed that is not there."""
    held, there = None, {(row["method"], row["seed"]) for row in rows}
    for seed, name in itertools.product(args.seeds, args.optimizers):
        if (name, seed) in there:
            continue
        plan = Plan(args.images, args.prompts, args.candidates, seed)
        space, measure = searched.load(
            args.space, plan, args.steps, args.guidance, args.n, args.threads
        )
        held = held or searched.HeldOut(measure)
        schedule = space.schedule(OPTIMIZERS[name](space, plan, measure))
        mean, error = held.gain(args.steps, schedule)
        told = " ".join(f"{d:+.2f}" for d in schedule.deviation[1:])
        rows.add(args.steps, name, {"seed": seed, "D": told, "gain": mean, "error": error})
        print(name, seed, told, f"{mean:+.4f} ± {error:.4f}", flush=True)


def table(rows: frame.Rows, args: argparse.Namespace) -> str:
    """Every optimizer's gain by seed, their mean and the worst."""
    lines = []
    for name in OPTIMIZERS:
        own = {row["seed"]: row for row in rows if row["method"] == name}
        if own:
            gains = [row["gain"] for row in own.values()]
            cells = [
                f"{own[s]['gain']:+.4f} ± {own[s]['error']:.4f}" if s in own else ""
                for s in args.seeds
            ]
            lines.append([name, *cells, f"{statistics.mean(gains):+.4f}", f"{min(gains):+.4f}"])
    head = ["optimizer", *(f"seed {seed}" for seed in args.seeds), "mean", "worst"]
    return markdown(head, lines)


def main() -> None:
    parser = frame.parser(__doc__)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=list(OPTIMIZERS))
    add("--space", choices=SPACES, default="deviation")
    add("--guidance", type=float, default=3.0)
    add("--steps", type=int, default=4)
    searched.options(parser, held_out=1024)
    frame.threads_option(parser, 1)
    frame.folder_option(parser, "rows.csv and search_peers.md")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    setting = f"{args.space}, {args.steps} steps, CFG {args.guidance:g}, {searched.told(args)}"
    rows = frame.Rows(args.out / "rows.csv", setting)
    run(args, rows)
    legend = (
        f"Embedded model, fp32; {setting}. Gain of the reward over D = 0 on held-out prompts, on "
        "the same noises, ± one standard error."
    )
    page = ["# Optimizers of a schedule", frame.made_by(frame.command("search_peers")), legend]
    print(frame.write_page(args.out / "search_peers.md", [*page, table(rows, args)]))


if __name__ == "__main__":
    main()
