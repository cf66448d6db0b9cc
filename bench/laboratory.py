"""What deviation, lying sigma and omega do on the embedded model, paired with D = 0.

    python bench/laboratory.py --n 512 --steps 3 4 6 10 15 --out docs/measurements/laboratory
    python bench/laboratory.py --model unet --sampler dpmpp_2m --n 256 --steps 4 6 10 --out FOLDER

With --model unet, unet_v or pictures another embedded model is sampled, by ComfyUI's own sampler
under the nodes' own hook; the graph is written into --out too. The pictures have prompts and a
judge of their own.

Writes laboratory.csv (every mean, paired difference to D = 0 and its standard error), laboratory.md
and laboratory.png into --out. Interrupted, it goes on where it stopped: rows in the csv are not
measured again, and refused where they are of another setting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import cache
from pathlib import Path

import torch

from async_timestep.bench.parts import frame, judged
from async_timestep.harness import graphs
from async_timestep.report.tables import markdown
from async_timestep.tpm.policies import Constant, Preset
from async_timestep.training.evaluation.methods import BASELINE, Method, Options, methods, signed
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.backbone import WEIGHTS
from async_timestep.training.tiny.score import ROUGH_REAL

METRICS = ("reward", "strict", "iou", "relation", "count", "background", "clean", "texture_std")
METRICS = (*METRICS, "noise")
ALL = "all"  # the prompts of every background
COLOURS = ("black", "tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
DEVIATIONS = (-0.5, -0.25, 0.25, 0.5, 1.0)
COMPARED = (
    Options(fixed=DEVIATIONS, lying=(0.25, 0.5)),
    Options(omegas=(0.75, 0.9, 1.1, 1.25), more_steps=(1, 2)),
)
UNIT = (-1.0, -0.5, 0.5, 1.0)  # in tenths of t: the unit percent
NAMES = {"+1 step": "one more step", "+2 steps": "two more steps"}  # others: as evaluate.py's
METHODS: dict[str, Method] = {
    NAMES.get(method.name, method.name): method
    for options in COMPARED
    for method in methods(options, [], None, {})
}
MORE = {  # not measured unless they are named
    "auto": Preset("auto"),
    "auto lying": Preset("auto", mode="follow_time"),
    **{f"percent {d:+g}": Constant(d, unit="percent") for d in UNIT},
}
CHOICES = METHODS | {name: Method(name, "fixed", policy) for name, policy in MORE.items()}


def groups_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Of prompts: all, and those of each background."""
    return (ALL, *judged.backgrounds(args))


def metrics_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The scorer knows the shapes only."""
    return METRICS if judged.draws_pictures(args) else (*METRICS, "scorer")


def measure(
    args: argparse.Namespace,
    laboratory: judged.Laboratory,
    rows: frame.Rows,
    todo: list[tuple[int, str]],
) -> None:
    """Adds a row per group of prompts for every (steps, method)."""
    prompts, names = laboratory.prompts["scenes"], metrics_of(args)
    groups = {g: torch.tensor([g in (ALL, c) for c in prompts.categories]) for g in groups_of(args)}
    # runs at D = 0 are shared: as the base of a K, and as "more steps" of another
    plain = cache(lambda steps: laboratory.whole("scenes", steps, None))
    shared = {n for k, name in todo for n in (k, k + CHOICES[name].more)}
    total = sum(shared) + sum(k for k, name in todo if not CHOICES[name].synchronous)
    laboratory.begin("laboratory", total * len(prompts))
    for k, name in todo:
        laboratory.advance(0, f"K={k} {name}")
        method, base = CHOICES[name], plain(k)
        if method.synchronous:
            scores = plain(k + method.more)
        else:
            scores = laboratory.whole("scenes", k, method.policy)
        rows.add(k, name, *(
            {"group": group, "n": int(own.sum()), **judged.compared(scores, base, names, own)}
            for group, own in groups.items()
        ))  # fmt: skip


def tables(cells: dict, steps: int, args: argparse.Namespace) -> list[str]:
    """The change of the reward by background, and the other measures over all prompts."""
    rewards, others, groups = [], [], groups_of(args)
    textured = ALL if judged.draws_pictures(args) else "rough"
    scorer = ["scorer"] if "scorer" in metrics_of(args) else []
    for name in (name for name in CHOICES if (steps, name, ALL) in cells):
        own = {group: cells[steps, name, group] for group in groups}
        row = [judged.difference(c, "reward") for c in own.values()]
        if name == BASELINE:
            row = [f"{c['reward']:.3f}" for c in own.values()]
        rewards.append([name, *row])
        c, texture = own[ALL], own[textured]["texture_std"]
        row = [f"{c['strict']:.3f} ({judged.difference(c, 'strict')})", f"{c['iou']:.3f}"]
        row += [f"{c['background']:.3f}", f"{texture:.4f}", f"{c['noise']:.4f}"]
        others.append([name, *row, *(f"{c[column]:.4f}" for column in scorer)])
    head = ["", "strict", "IoU", "background", "texture", "noise", *scorer]
    parts = [f"## {steps} steps", "Reward, and its difference to D=0"]
    said = "All prompts" if textured == ALL else f"All prompts (texture: {textured} ones)"
    parts += [markdown(["", *groups], rewards), said]
    return [*parts, markdown(head, others)]


def plot(cells: dict, counts: list[int], groups: tuple[str, ...], path: Path) -> None:
    """Change of the reward against D by background, and the noise below it; a column for each
    number of steps."""
    size = (3.2 * len(counts), 5.6)
    figure, axes = frame.drawing(len(counts), size, rows=2, sharex=True, sharey="row")
    for column, k in enumerate(counts):
        for group, colour in zip(groups, COLOURS, strict=False):
            every = [(d, cells.get((k, signed(d), group))) for d in sorted((*DEVIATIONS, 0.0))]
            at, shown = zip(*[(d, cell) for d, cell in every if cell], strict=True)
            for axis, value in zip(axes[:, column], ("reward_d", "noise"), strict=True):
                axis.errorbar(
                    at,
                    [cell[value] for cell in shown],
                    yerr=[cell[value.removesuffix("_d") + "_se"] for cell in shown],
                    color=colour,
                    marker="o",
                    markersize=3,
                    capsize=2,
                    linewidth=2 if group == ALL else 1,
                    label=group,
                )
        axes[0, column].axhline(0, color="grey", linewidth=0.5)
        axes[0, column].set_title(f"{k} steps")
        axes[1, column].set_xlabel("deviation D")
    axes[0, 0].set_ylabel("reward, difference to D=0")
    axes[1, 0].set_ylabel("noise level (± s.e. of the difference)")
    axes[0, -1].legend(fontsize=8)
    frame.save(figure, path)


def workflow(args: argparse.Namespace) -> Path:
    """Writes the graph of another model in a stock KSampler, as Export (API) would; its path."""
    sampling = {"sampler_name": args.sampler, "cfg": args.guidance}
    graph = graphs.stock(judged.scenes(args)[0].caption, batch=1, **sampling)
    graph["loader"]["inputs"]["model"] = judged.MODELS[args.model]
    path = args.out / "workflow_api.json"
    path.write_text(json.dumps(graph, indent=1) + "\n")
    return path


def told(args: argparse.Namespace, other: bool) -> tuple[str, dict[str, str]]:
    """What changes a number, and the sha256 of the files that it rests on."""
    if judged.draws_pictures(args):
        files = {name: judged.PICTURES / f"{name}.safetensors" for name in ("transformer", "vae")}
    else:
        scorer = args.scorer or args.weights / "scorer.safetensors"
        files = {args.model: args.weights / f"{args.model}.safetensors", "scorer": scorer}
    digests = {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in files.items()}
    weights = [f"{name} sha256 {digest[:16]}" for name, digest in digests.items()]
    sampler = [f"{args.sampler} simple in ComfyUI"] if other else []
    return ", ".join([judged.setting(args), *sampler, *weights]), digests


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, CHOICES, [3, 4, 6, 10, 15], threads=0)
    parser.set_defaults(methods=[*METHODS])
    parser.add_argument(
        "--model", choices=judged.MODELS, default="transformer", help="which is sampled"
    )
    parser.add_argument("--sampler", default="euler", help="ComfyUI's name, of the other models")
    frame.folder_option(parser, "laboratory.csv, .md and .png")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument("--scorer", type=Path, help="default: scorer.safetensors in --weights")
    args = parser.parse_args()
    other = args.model != "transformer"
    if not other and args.sampler != "euler":
        parser.error("--sampler is for the other models; leave it out")
    if other and (args.bf16 or args.weights != WEIGHTS):
        parser.error("only --model transformer has --bf16 and --weights; leave them out")
    setting, digests = told(args, other)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = frame.Rows(args.out / "laboratory.csv", setting)
    wanted, done = {BASELINE, *args.methods}, rows.done()
    todo = [(k, m) for k in args.steps for m in CHOICES if m in wanted and (k, m) not in done]
    with Report() as report:
        graph = workflow(args) if other else None
        own = judged.load(args, metrics_of(args), report, args.weights, args.scorer, graph)
        measure(args, own, rows, todo)
    cells = {(row["steps"], row["method"], row["group"]): row for row in rows}
    counts = rows.counts()
    texture = (
        "the strength of the ground's fine detail, 1 in true pictures"
        if judged.draws_pictures(args)
        else f"the low-passed texture std on rough prompts, {ROUGH_REAL:g} in real scenes"
    )
    legend = (
        f"{setting}. Combinations were held out of training; every method starts from the same "
        "noises as D=0, differences are paired, ± is one standard error. `noise` is the level of "
        f"high-frequency noise and no part of the reward; `texture` is {texture}."
    )
    parts = ["# Laboratory", frame.made_by(frame.command("laboratory")), legend]
    parts += [part for steps in counts for part in tables(cells, steps, args)]
    listed = "\n".join(f"- {name}.safetensors sha256 `{d}`" for name, d in digests.items())
    frame.write_page(args.out / "laboratory.md", [*parts, "Weights:", listed])
    plot(cells, counts, groups_of(args), args.out / "laboratory.png")
    print(f"Wrote laboratory.csv, laboratory.md and laboratory.png in {args.out}.")


if __name__ == "__main__":
    main()
