"""The evaluation of evaluate.py: every method on every prompt, then tables, grids and plots."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import fields
from pathlib import Path

from torch import Tensor

from ...report.trace import Run
from ...tpm.checkpoint import TPMFileError
from ...tpm.learned import grid_warning
from ..backbones import Backbone
from ..backbones.sampling import column
from ..rewards import RewardError, RewardSet
from ..run.config import Config
from ..run.console import Report
from ..run.folder import RunFolderError, check_place, write_atomic
from ..run.settings import as_dict
from . import figures
from .grids import write_grid
from .methods import (
    Method,
    Options,
    TPMFile,
    check_fit,
    check_steps,
    methods,
    read_schedules,
    read_tpms,
)
from .paired import PairedMeasurement, categories, keys, load_measurement
from .per_prompt import PerPrompt, text, texts
from .selection import Selection, check_validation, select
from .tables import Result, difference_table, grouped, write_tables

EXPECTED = (ValueError, OSError, RewardError, RunFolderError, TPMFileError)
# beside per_prompt.csv
WRITTEN = ("table.md", "table.csv", "categories.md", "paper_table.md", "selection.json")
WRITTEN += ("_summary.json", "gamma*.png", "deviation*.png", "grid_*.png")


def evaluate(
    measurement: PairedMeasurement, table: PerPrompt, plan: dict[int, list[Method]]
) -> list[Result]:
    """Measures what is not in per_prompt.csv yet; returns everything of the plan."""
    prompts = measurement.prompts["evaluation"]
    named = categories(prompts, measurement.backbone)
    runs = [(steps, method) for steps, own in plan.items() for method in own]
    left = {(k, m.name): table.done(k, m, measurement.rewards.batch) for k, m in runs}
    measurement.begin(
        "evaluation", sum((k + m.more) * (len(prompts) - left[k, m.name]) for k, m in runs)
    )
    synchronous: dict[int, tuple[int, str]] = {}  # number of steps -> a finished run at D = 0
    for steps, method in runs:
        first, total = left[steps, method.name], steps + method.more
        measurement.advance(0, f"K={steps} {method.name}")
        if method.synchronous and first == 0 and total in synchronous:
            table.copy(steps, method, synchronous[total])
            measurement.advance(total * len(prompts))
            first = len(prompts)
        for rows in measurement.batches("evaluation", first):
            found = measurement.measure("evaluation", rows, total, method.policy, method.solver)
            table.append(steps, method, lines(rows, named, *found))
            measurement.advance(total * len(rows))
        if method.synchronous:
            synchronous.setdefault(total, (steps, method.name))
    return [Result(method, steps, table.scores(steps, method)) for steps, method in runs]


def lines(
    rows: range, named: list[str], scores: dict[str, Tensor], record: Run, seconds: float
) -> list[dict[str, str]]:
    """A batch's rows of per_prompt.csv; what was told from grid point 1 on."""
    deviation = column(record, "deviation")[:, 1:]
    omega = column(record, "omega")[:, 1:]
    return [
        {
            "prompt": str(i),
            "category": named[i],
            **{name: text(float(values[j])) for name, values in scores.items()},
            "mean_deviation": text(float(deviation[j].mean())),
            "deviation_by_step": texts(deviation[j]),
            "omega_by_step": texts(omega[j]),
            "seconds": f"{seconds / len(rows):.4g}",
        }
        for j, i in enumerate(rows)
    ]


def write_grids(
    measurement: PairedMeasurement, folder: Path, steps: int, own: list[Method]
) -> list[str]:
    """Picture tables of the first prompts at one K (Fig. 5 and 6). Returns their names."""
    count = min(measurement.config.log.samples, len(measurement.prompts["evaluation"]))
    sheets = figures.tpm_columns(own)
    if omega := figures.omega_columns(own):
        sheets["grid_omega"] = omega
    done: dict[str, list[Tensor]] = {}
    for name, columns in sheets.items() if count else ():
        for method in columns.values():
            if method.name not in done:
                args = steps + method.more, method.policy, method.solver
                latents = measurement.sampled("evaluation", range(count), *args)[0]
                done[method.name] = list(measurement.backbone.decode(latents).cpu())
        images = {title: done[method.name] for title, method in columns.items()}
        write_grid(folder / f"{name}.png", images, measurement.texts("evaluation")[:count])
    return [f"{name}.png" for name in sheets] if count else []


def write_plots(folder: Path, results: list[Result]) -> list[str]:
    """gamma.png and deviation.png, with K in the name where there are several."""
    by_steps = grouped(results)
    written = []
    for steps, own in by_steps.items():
        end = ".png" if len(by_steps) == 1 else f"_K{steps}.png"
        for name, plot in (("gamma", figures.plot_gamma), ("deviation", figures.plot_deviation)):
            if plot(folder / (name + end), own):
                written.append(name + end)
    return written


def grid_notes(measurement: PairedMeasurement, tpms: list[TPMFile], every: list[int]) -> list[str]:
    """One sentence for every TPM that runs off its training grid, at the first such K."""
    notes = []
    for tpm in tpms:
        found = (grid_warning(tpm.meta, measurement.backbone.sigmas(k).tolist()) for k in every)
        if note := next(filter(None, found), None):
            notes.append(f"{tpm.name}: {note}")
    return notes


def check_folder(folder: Path) -> None:
    """Raises RunFolderError where the results cannot go, or would overwrite files that are no
    evaluation's: it begins with per_prompt.csv. Makes nothing."""
    check_place(folder)
    if (folder / "per_prompt.csv").exists():
        return
    own = [p for name in WRITTEN for p in sorted(folder.glob(name))]
    if own:
        raise RunFolderError(
            f"{own[0]} would be overwritten, and without a per_prompt.csv beside it it may be no "
            "evaluation's; choose another --out, or move it away."
        )


def run(
    config: Config, rest: argparse.Namespace, arguments: list[str], folder: Path, report: Report
) -> str:
    """The whole evaluation; returns a text for stdout. Raises those of EXPECTED."""
    return measured(
        config, rest, shlex.join(["python", "training/evaluate.py", *arguments]), folder, report
    )[0]


def measured(
    config: Config,
    rest: argparse.Namespace,
    command: str,
    folder: Path,
    report: Report,
    backbone: Backbone | None = None,
    rewards: RewardSet | None = None,
) -> tuple[str, list[Result]]:
    """The same with the models that are given, by the name of its command; and the results."""
    every = list(dict.fromkeys(rest.k or config.step_counts))
    check_steps(every, rest.more_steps)
    wanted = Options(**{one.name: tuple(getattr(rest, one.name)) for one in fields(Options)})
    methods(wanted, [], None, {})  # refuses an unknown solver before anything is loaded
    tpms = read_tpms(rest.tpm, config.backbone.name)
    files = read_schedules(rest.schedule, config.backbone.name)
    check_folder(folder)
    measurement = load_measurement(config, rest.n, report, backbone, rewards)
    check_fit(tpms, files, measurement.backbone)
    check_validation(measurement, rest.fixed, tpms if rest.mean_schedule else [])
    notes = grid_notes(measurement, tpms, every)
    for note in notes:
        report.say(note)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = measurement.prompts["evaluation"]
    key, older = keys(measurement)
    names = tuple(measurement.rewards.names)
    table = PerPrompt(folder / "per_prompt.csv", names, key, len(prompts), older=older)
    if said := table.open():
        report.say(said)
    summary = {
        "command": command,
        "key": table.key,
        "prompts": {
            n: {"source": p.source, "count": len(p), "sha256": p.sha256}
            for n, p in measurement.prompts.items()
        },
        "steps": every,
        "tpms": [
            {
                "name": t.name,
                "sha256": t.sha256,
                "bound": t.meta.deviation_bound,
                "actions": t.meta.actions,
                "steps": t.meta.steps,
                "iterations": t.meta.iterations,
            }
            for t in tpms
        ],
        "schedules": [
            {"name": f.name, "sha256": f.sha256, "steps": f.schedule.steps} for f in files
        ],
        "settings": as_dict(config),
    }
    write_atomic(folder / "_summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    chosen = select(
        Selection(measurement, folder / "selection.json"),
        every,
        rest.fixed,
        tpms if rest.mean_schedule else [],
    )
    plan = {k: methods(wanted, tpms, *chosen[k], files) for k in every}
    results = evaluate(measurement, table, plan)
    head = (
        f"Made by `{command}`.\n\n{len(prompts)} prompts ({prompts.source}, sha256 "
        f"{prompts.sha256[:16]}), {measurement.backbone.family}, guidance "
        f"{measurement.backbone.guidance:g}, "
        f"{config.backbone.precision}. Every method starts from the same noises; ± is one standard "
        "error, of a mean or of a paired difference. cost: network evaluations, as a multiple of "
        "the baseline's; s / image: sampling alone. noise: level of high-frequency noise, lower is "
        "less."
    )
    report.begin("tables and pictures")
    named = categories(prompts, measurement.backbone)
    write_tables(
        folder,
        results,
        measurement.rewards.weights,
        named,
        measurement.backbone.family,
        head,
        notes,
    )
    summary["best_fixed"] = {str(k): best for k, (best, _) in chosen.items()}
    write_atomic(folder / "_summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    pictures = write_grids(measurement, folder, every[0], plan[every[0]])
    missing = ""
    if figures.installed():
        pictures += write_plots(folder, results)
    else:
        missing = "matplotlib is not installed: no gamma.png and deviation.png.\n"
    shown = "".join(
        f"{steps} steps\n{difference_table(own)}\n"
        for steps, own in grouped(results).items()
        if difference_table(own)
    )
    names = ", ".join(pictures) or "no pictures"
    return f"{shown}{missing}Wrote table.md and {names} in {folder}.", results
