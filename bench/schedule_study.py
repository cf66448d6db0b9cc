"""What the schedule search reaches on the embedded model: spaces, budgets and seeds, side by side.

    python bench/schedule_study.py --out runs/schedules          # all of it: two hours on 2 cores
    python bench/schedule_study.py --out runs/schedules --only d_1280_s0 transfer
    python bench/schedule_study.py --out runs/schedules --only table

Prints every command before it runs it; a search that is finished is not made again. `transfer` runs
the schedules of `MOVED` on other numbers of steps. `table` writes schedules.md into --out from what
is there; docs/measurements/schedules.md is from here.
"""

from __future__ import annotations

import json
from pathlib import Path

from async_timestep.bench.parts import frame
from async_timestep.bench.parts.study import parsed, run, trainer
from async_timestep.report.tables import markdown
from async_timestep.tpm.schedule_file import load_schedule

COMMON = ["--backbone.precision", "fp32", "--threads", "1", "--data.validation_prompts", "64"]
SEEDS = (0, 1, 2)
KINDS = {  # name -> (CFG, space, images)
    "d_640": (3, "deviation", 640),
    "d_1280": (3, "deviation", 1280),
    "d_omega_1280": (3, "deviation_omega", 1280),
    "d_omega_2640": (3, "deviation_omega", 2640),
    "follow5_640": (5, "follow_time", 640),
    "follow5_1280": (5, "follow_time", 1280),
}
RUNS = {f"{kind}_s{seed}": (*own, seed) for kind, own in KINDS.items() for seed in SEEDS}
MOVED = ("d_1280_s1", "d_omega_2640_s0")  # run on other numbers of steps
STEPS = ["3", "5", "6", "8", "10"]


def search(name: str, out: Path, prompts: str) -> None:
    """One search; a killed one goes on where it was."""
    cfg, space, images, seed = RUNS[name]
    folder = out / name
    if (folder / "schedule.safetensors").exists():
        return
    resume = ["--resume"] if (folder / "study.json").exists() else []
    own = ["--space", space, "--images", str(images), "--seed", str(seed), "--n", prompts]
    own += ["--backbone.guidance", str(cfg), "--out", str(folder)]
    own += ["--fixed", "--lying", "--more_steps"]  # beside D = 0 alone: each of them costs as much
    run(trainer("search_schedule", *COMMON, *own, *resume))


def transfer(out: Path, prompts: str) -> None:
    """The schedules of MOVED on other numbers of steps, beside one and two more steps."""
    files = [out / name / "found.safetensors" for name in MOVED]
    for file, name in zip(files, MOVED, strict=True):  # a name of its own for each
        copy = out / f"{name}.safetensors"
        copy.write_bytes(file.read_bytes())
    own = ["--k", *STEPS, "--fixed", "--more_steps", "1", "2", "--n", prompts, "--schedule"]
    own += [str(out / f"{name}.safetensors") for name in MOVED]
    run(trainer("evaluate", *COMMON, *own, "--out", str(out / "transfer")))


def row(name: str, folder: Path) -> list[str]:
    """One search in numbers: what it found and what that is worth on held-out prompts."""
    cfg, space, _, seed = RUNS[name]
    schedule, meta = load_schedule(folder / "schedule.safetensors")
    found, _ = load_schedule(folder / "found.safetensors")
    numbers = " ".join(f"{d:+.2f}" for d in found.deviation[1:])
    if space == "deviation_omega":
        numbers += " (" + " ".join(f"{w:.2f}" for w in found.omega[:-1]) + ")"
    gain = f"{meta.gain:+.4f} ± {meta.gain_se:.4f}" if meta.gain else meta.note
    return [cfg, space, f"{meta.images:,}", seed, numbers, gain]


def table(out: Path) -> None:
    """schedules.md, of the searches that are there."""
    there = [name for name in RUNS if (out / name / "schedule.safetensors").exists()]
    _, meta = load_schedule(out / there[0] / "schedule.safetensors")
    summary = json.loads((out / there[0] / "evaluation" / "_summary.json").read_text())
    source = summary["prompts"]["evaluation"]["source"]
    legend = (
        f"4 steps, fp32, {meta.gain_n:,} held-out prompts ({source}); gain of the reward over "
        "D = 0 on the same noises, ± one standard error. Images: all that were rolled out, those "
        "at D = 0 among them. In brackets omega."
    )
    made_by = frame.made_by(frame.command("schedule_study", ["--out", "runs/schedules"]))
    head = ["CFG", "space", "images", "seed", "D (omega)", "gain"]
    rows = markdown(head, [row(name, out / name) for name in there])
    parts = ["# Schedule search on the embedded model", made_by, legend, rows]
    print(frame.write_page(out / "schedules.md", parts))


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--n", default="1024", help="held-out prompts")
    args = parsed(parser, [*RUNS, "transfer", "table"])
    for name in args.only:
        if name in RUNS:
            search(name, args.out, args.n)
        elif name == "transfer":
            transfer(args.out, args.n)
        else:
            table(args.out)


if __name__ == "__main__":
    main()
