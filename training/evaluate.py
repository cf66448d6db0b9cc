"""Evaluates TPMs against D = 0 and the plain alternatives, on prompts held out of training.

    python training/evaluate.py --preset tiny --tpm runs/tiny/tpm.safetensors --out runs/evaluation
    python training/evaluate.py --preset tiny --k 4 6 10 --n 256 --fixed -0.5 0.25 0.5 1 \
        --gammas 0.5 1 2 --omegas 0.75 1.25 --lying 0.25 0.5 --more_steps 1 2 \
        --solvers dpmpp_2m unipc --mean_schedule --tpm a.safetensors b.safetensors

Every method starts from the same noises, so differences are paired. Every setting of config.py is
an option too (--backbone.guidance 5). --out gets per_prompt.csv, table.md, table.csv,
categories.md, paper_table.md, gamma.png, deviation.png, grid_*.png (at the first K) and
_summary.json. Interrupted, the same command goes on; with more methods it measures only these, and
the tables show the methods asked for.

The best fixed D and a TPM's mean schedule are found on the validation prompts, never on the
evaluation prompts; D = 0 takes part, so "best fixed D" is never worse than nothing there.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tpm.checkpoint import TPMFileError  # noqa: E402
from tpm.learned import grid_warning  # noqa: E402
from training import figures  # noqa: E402
from training.config import Config  # noqa: E402
from training.grids import write_grid  # noqa: E402
from training.measuring import Bench, build, categories, keys  # noqa: E402
from training.memory import advice, out_of_memory  # noqa: E402
from training.methods import (  # noqa: E402
    Method,
    Options,
    TPMFile,
    check_sizes,
    check_steps,
    methods,
    read_tpms,
)
from training.per_prompt import PerPrompt, text, texts  # noqa: E402
from training.rewards import RewardError  # noqa: E402
from training.run_folder import RunFolderError, write_atomic  # noqa: E402
from training.sampling import Trace  # noqa: E402
from training.selection import Selection, select  # noqa: E402
from training.settings import as_dict, parse  # noqa: E402
from training.tables import Result, difference_table, grouped, write_tables  # noqa: E402

EXPECTED = (ValueError, OSError, RewardError, RunFolderError, TPMFileError)


def options(parser) -> None:
    add = parser.add_argument
    add("--tpm", type=str, nargs="*", default=[], help="TPM files, lifted ones too")
    add("--gammas", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="of every TPM (Eq. 12)")
    add("--fixed", type=float, nargs="*", default=[-0.5, 0.25, 0.5, 1.0], help="constant D")
    add("--omegas", type=float, nargs="*", default=[], help="constant omega (Eq. 19)")
    add("--lying", type=float, nargs="*", default=[], help="D of lying sigma, omega = t*/t")
    add("--more_steps", type=int, nargs="*", default=[1], help="D = 0 with so many steps more")
    add("--solvers", type=str, nargs="*", default=[], help="dpmpp_2m, unipc: alone and with D, TPM")
    add("--mean_schedule", action="store_true", help="also every TPM's mean schedule for all")
    add("--n", type=int, default=0, help="only the first N evaluation prompts")
    add("--k", type=int, nargs="*", default=[], help="numbers of steps; default: those of `steps`")
    add("--out", type=str, default="", help="folder; default: runs/evaluation_<preset>")


def evaluate(bench: Bench, table: PerPrompt, plan: dict[int, list[Method]]) -> list[Result]:
    """Measures what is not in per_prompt.csv yet; returns everything of the plan."""
    prompts = bench.prompts["evaluation"]
    named = categories(prompts, bench.backbone.family)
    runs = [(steps, method) for steps, own in plan.items() for method in own]
    left = {(k, m.name): table.done(k, m, bench.rewards.batch) for k, m in runs}
    bench.begin("evaluation", sum((k + m.more) * (len(prompts) - left[k, m.name]) for k, m in runs))
    synchronous: dict[int, tuple[int, str]] = {}  # number of steps -> a finished run at D = 0
    for steps, method in runs:
        first, total = left[steps, method.name], steps + method.more
        bench.advance(0, f"K={steps} {method.name}")
        if method.synchronous and first == 0 and total in synchronous:
            table.copy(steps, method, synchronous[total])
            bench.advance(total * len(prompts))
            first = len(prompts)
        for rows in bench.batches("evaluation", first):
            found = bench.measure("evaluation", rows, total, method.policy, method.solver)
            table.append(steps, method, lines(rows, named, *found))
            bench.advance(total * len(rows))
        if method.synchronous:
            synchronous.setdefault(total, (steps, method.name))
    return [Result(method, steps, table.scores(steps, method)) for steps, method in runs]


def lines(
    rows: range, named: list[str], scores: dict[str, Tensor], trace: Trace, seconds: float
) -> list[dict[str, str]]:
    """A batch's rows of per_prompt.csv; what was told from grid point 1 on."""
    deviation = torch.stack(trace.deviation[1:], dim=1)
    omega = torch.stack(trace.omega[1:], dim=1)
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


def write_grids(bench: Bench, folder: Path, steps: int, own: list[Method]) -> list[str]:
    """Picture tables of the first prompts at one K (Fig. 5 and 6). Returns their names."""
    count = min(bench.config.log.samples, len(bench.prompts["evaluation"]))
    sheets = figures.tpm_columns(own)
    if omega := figures.omega_columns(own):
        sheets["grid_omega"] = omega
    done: dict[str, list[Tensor]] = {}
    for name, columns in sheets.items() if count else ():
        for method in columns.values():
            if method.name not in done:
                args = steps + method.more, method.policy, method.solver
                latents = bench.sampled("evaluation", range(count), *args)[0]
                done[method.name] = list(bench.backbone.decode(latents).cpu())
        images = {title: done[method.name] for title, method in columns.items()}
        write_grid(folder / f"{name}.png", images, bench.texts("evaluation")[:count])
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


def grid_notes(bench: Bench, tpms: list[TPMFile], every: list[int]) -> list[str]:
    """One sentence for every TPM that runs off its training grid, at the first such K."""
    notes = []
    for tpm in tpms:
        found = (grid_warning(tpm.meta, bench.backbone.sigmas(k).tolist()) for k in every)
        if note := next(filter(None, found), None):
            notes.append(f"{tpm.name}: {note}")
    return notes


def run(config: Config, rest, arguments: list[str], folder: Path, bar: Progress) -> str:
    """The whole evaluation; returns a text for stdout. Raises those of EXPECTED."""
    every = rest.k or ([config.steps] if isinstance(config.steps, int) else config.steps)
    every = list(dict.fromkeys(every))
    check_steps(every, rest.more_steps)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out is {folder}, which is a file, expected a folder; name another.")
    wanted = Options(
        *(tuple(getattr(rest, name)) for name in
          ("gammas", "fixed", "omegas", "lying", "more_steps", "solvers"))
    )  # fmt: skip
    methods(wanted, [], None, {})  # refuses an unknown solver before anything is loaded
    tpms = read_tpms(rest.tpm, config.backbone.name)
    bench = build(config, rest.n, bar)
    check_sizes(tpms, bench.backbone)
    notes = grid_notes(bench, tpms, every)
    for note in notes:
        bar.console.print(note, soft_wrap=True, highlight=False, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    prompts = bench.prompts["evaluation"]
    key, older = keys(bench)
    names = tuple(bench.rewards.names)
    table = PerPrompt(folder / "per_prompt.csv", names, key, len(prompts), older=older)
    table.open()
    command = shlex.join(["python", "training/evaluate.py", *arguments])
    summary = {
        "command": command,
        "key": table.key,
        "prompts": {n: {"source": p.source, "count": len(p), "sha256": p.sha256}
                    for n, p in bench.prompts.items()},
        "steps": every,
        "tpms": [{"name": t.name, "sha256": t.sha256, "bound": t.meta.deviation_bound,
                  "actions": t.meta.actions, "steps": t.meta.steps,
                  "iterations": t.meta.iterations} for t in tpms],
        "settings": as_dict(config),
    }  # fmt: skip
    write_atomic(folder / "_summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    chosen = select(
        Selection(bench, folder / "selection.json"),
        every,
        rest.fixed,
        tpms if rest.mean_schedule else [],
    )
    plan = {k: methods(wanted, tpms, *chosen[k]) for k in every}
    results = evaluate(bench, table, plan)
    head = (
        f"Made by `{command}`.\n\n{len(prompts)} prompts ({prompts.source}, sha256 "
        f"{prompts.sha256[:16]}), {bench.backbone.family}, guidance {bench.backbone.guidance:g}, "
        f"{config.backbone.precision}. Every method starts from the same noises; ± is one standard "
        "error, of a mean or of a paired difference. cost: network evaluations, as a multiple of "
        "the baseline's; s / image: sampling alone. noise: level of high-frequency noise, lower is "
        "less."
    )
    named = categories(prompts, bench.backbone.family)
    write_tables(folder, results, bench.rewards.weights, named, bench.backbone.family, head, notes)
    summary["best_fixed"] = {str(k): best for k, (best, _) in chosen.items()}
    write_atomic(folder / "_summary.json", (json.dumps(summary, indent=1) + "\n").encode())
    pictures = write_grids(bench, folder, every[0], plan[every[0]])
    missing = ""
    if figures.installed():
        pictures += write_plots(folder, results)
    else:
        missing = "matplotlib is not installed: no gamma.png and deviation.png.\n"
    shown = "".join(
        f"{steps} steps\n{difference_table(own)}\n" for steps, own in grouped(results).items()
        if difference_table(own)
    )  # fmt: skip
    return f"{shown}{missing}Wrote table.md and {', '.join(pictures) or 'no pictures'} in {folder}."


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    config, rest = parse(arguments, "evaluate.py", __doc__ or "", options)
    folder = Path(rest.out or f"runs/evaluation_{rest.preset or config.backbone.name}")
    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TextColumn("ETA"), TimeRemainingColumn())  # fmt: skip
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            shown = run(config, rest, arguments, folder, bar)
        print(shown)
        return 0
    except Exception as error:
        if not (out_of_memory(error) or isinstance(error, EXPECTED)):
            raise  # a fault of ours keeps its traceback
        said = advice(error, config) if out_of_memory(error) else error
        print(f"evaluate.py: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("evaluate.py: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
