"""What the trainer reaches on the embedded model: TPMs of several kinds and seeds, side by side.

    python bench/tiny_study.py --out runs/study             # all of it: hours on 2 cores
    python bench/tiny_study.py --out runs/study --only lifted_s42 joint5_s42

Trains them, and evaluates them on held-out prompts. Prints every command before it runs it; a run
that is finished is not made again. The tables of docs/measurements/trainer are from here.
"""

from __future__ import annotations

from pathlib import Path

from async_timestep.bench.parts.frame import parser
from async_timestep.bench.parts.study import parsed, run, trainer

LIFTED = ["--policy.deviation_bound", "1"]
JOINT = [*LIFTED, "--policy.actions", "both", "--policy.omega_range", "[0.7,1.3]"]
MANY = [*LIFTED, "--steps", "[4,5,6,7,8,9,10]"]
FOLLOW = [*LIFTED, "--policy.actions", "follow_time"]
CFG5 = ["--backbone.guidance", "5"]
KINDS = {"tpm": [], "lifted": LIFTED, "joint": JOINT, "many": MANY}
SEEDS = (42, 43, 44)
RUNS = {f"{kind}_s{s}": [*own, "--seed", str(s)] for kind, own in KINDS.items() for s in SEEDS}
RUNS |= {f"joint5_s{s}": [*JOINT, *CFG5, "--seed", str(s)] for s in SEEDS}
RUNS |= {f"follow5_s{s}": [*FOLLOW, *CFG5, "--seed", str(s)] for s in SEEDS}
RUNS |= {
    "lifted5_s42": [*LIFTED, *CFG5],
    "lifted_k6": [*LIFTED, "--steps", "6"],
    "lifted_k10": [*LIFTED, "--steps", "10"],
    "joint5_k6": [*JOINT, *CFG5, "--steps", "6"],
    "joint5_k10": [*JOINT, *CFG5, "--steps", "10"],
    "follow5_k6": [*FOLLOW, *CFG5, "--steps", "6"],
    "follow5_k10": [*FOLLOW, *CFG5, "--steps", "10"],
}
COMMON = ["--n", "1024", "--mean_schedule", "--lying", "0.25", "0.5"]
EVALUATIONS = {  # folder -> (TPMs, options)
    "cfg3_k4": (
        [f"{kind}_s{s}" for kind in KINDS for s in SEEDS],
        ["--k", "4", "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "1", "--omegas", "0.9",
         "1.1", "--more_steps", "1", "2", "3", "4"],
    ),
    "cfg5_k4": (
        [f"{kind}_s{s}" for kind in ("joint5", "follow5") for s in SEEDS] + ["lifted5_s42"],
        ["--k", "4", *CFG5, "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "1", "--omegas",
         "0.6", "0.7", "0.8", "0.9", "--more_steps", "1", "2", "3", "4"],
    ),
    "cfg3_k6": (
        ["lifted_k6", *(f"many_s{s}" for s in SEEDS)],
        ["--k", "6", "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "--more_steps", "1", "2"],
    ),
    "cfg3_k10": (
        ["lifted_k10", *(f"many_s{s}" for s in SEEDS)],
        ["--k", "10", "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "--more_steps", "1", "2"],
    ),
    "cfg5_k6": (
        ["joint5_k6", "follow5_k6"],
        ["--k", "6", *CFG5, "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "--omegas", "0.7",
         "0.9", "--more_steps", "1", "2"],
    ),
    "cfg5_k10": (
        ["joint5_k10", "follow5_k10"],
        ["--k", "10", *CFG5, "--gammas", "1", "--fixed", "0.125", "0.25", "0.5", "--omegas", "0.7",
         "0.9", "--more_steps", "1", "2"],
    ),
    "cfg3_k4_more": (
        ["lifted_s42"],
        ["--k", "4", "--gammas", "0.5", "1", "2", "--fixed", "0.25", "--more_steps", "1",
         "--solvers", "dpmpp_2m", "unipc"],
    ),
}  # fmt: skip


def train(name: str, out: Path) -> None:
    """One run; a killed one goes on where it was."""
    if (out / name / "tpm.safetensors").exists():
        return
    resume = ["--resume"] if (out / name / "checkpoints" / "latest").exists() else []
    run(trainer("train_tpm", *RUNS[name], "--out", str(out / name), *resume))


def evaluate(name: str, out: Path) -> None:
    """One evaluation, of those of its TPMs that are there."""
    names, more = EVALUATIONS[name]
    files = [str(out / n / "tpm.safetensors") for n in names]
    files = [file for file in files if Path(file).exists()]
    folder = str(out / "evaluation" / name)
    run(trainer("evaluate", *COMMON, *more, "--tpm", *files, "--out", folder))


def main() -> None:
    args = parsed(parser(__doc__), [*RUNS, *EVALUATIONS])
    for name in args.only:
        (train if name in RUNS else evaluate)(name, args.out)


if __name__ == "__main__":
    main()
