"""What deviation, lying sigma and omega do on the embedded model, paired with D = 0.

    python bench/laboratory.py --n 512 --steps 3 4 6 10 15 --out docs/measurements/laboratory
    python bench/laboratory.py --model unet --sampler dpmpp_2m --n 256 --steps 4 6 10 --out FOLDER

With --model unet the second embedded model is sampled, by ComfyUI's own sampler under the nodes'
own hook; the graph is written into --out too.

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
METRICS = (*METRICS, "noise", "scorer")
GROUPS = {"all": "black", "plain": "tab:blue", "striped": "tab:orange", "dotted": "tab:green"}
GROUPS["rough"] = "tab:red"
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


def measure(laboratory: judged.Laboratory, rows: frame.Rows, todo: list[tuple[int, str]]) -> None:
    """Adds a row per group of prompts for every (steps, method)."""
    prompts = laboratory.prompts["scenes"]
    groups = {g: torch.tensor([g in ("all", c) for c in prompts.categories]) for g in GROUPS}
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
            {"group": group, "n": int(own.sum()), **judged.compared(scores, base, METRICS, own)}
            for group, own in groups.items()
        ))  # fmt: skip


def tables(cells: dict, steps: int) -> list[str]:
    """The change of the reward by texture, and the other measures over all prompts."""
    rewards, others = [], []
    for name in (name for name in CHOICES if (steps, name, "all") in cells):
        own = {group: cells[steps, name, group] for group in GROUPS}
        row = [judged.difference(c, "reward") for c in own.values()]
        if name == BASELINE:
            row = [f"{c['reward']:.3f}" for c in own.values()]
        rewards.append([name, *row])
        c, rough = own["all"], own["rough"]["texture_std"]
        row = [f"{c['strict']:.3f} ({judged.difference(c, 'strict')})", f"{c['iou']:.3f}"]
        row += [f"{c['background']:.3f}", f"{rough:.4f}", f"{c['noise']:.4f}", f"{c['scorer']:.4f}"]
        others.append([name, *row])
    head = ["", "strict", "IoU", "background", "texture", "noise", "scorer"]
    parts = [f"## {steps} steps", "Reward, and its difference to D=0"]
    parts += [markdown(["", *GROUPS], rewards), "All prompts (texture: rough ones)"]
    return [*parts, markdown(head, others)]


def plot(cells: dict, counts: list[int], path: Path) -> None:
    """Change of the reward against D by texture, and the noise below it; a column for every number
    of steps."""
    size = (3.2 * len(counts), 5.6)
    figure, axes = frame.drawing(len(counts), size, rows=2, sharex=True, sharey="row")
    for column, k in enumerate(counts):
        for group, colour in GROUPS.items():
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
                    linewidth=2 if group == "all" else 1,
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
    """Writes the graph of the second model in a stock KSampler, as Export (API) would; its path."""
    sampling = {"sampler_name": args.sampler, "cfg": args.guidance}
    graph = graphs.stock(batch=1, **sampling)
    graph["loader"]["inputs"]["model"] = judged.MODELS[args.model]
    path = args.out / "workflow_api.json"
    path.write_text(json.dumps(graph, indent=1) + "\n")
    return path


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, CHOICES, [3, 4, 6, 10, 15], threads=0)
    parser.set_defaults(methods=[*METHODS])
    parser.add_argument(
        "--model", choices=judged.MODELS, default="transformer", help="which is sampled"
    )
    parser.add_argument("--sampler", default="euler", help="ComfyUI's name, of --model unet")
    frame.folder_option(parser, "laboratory.csv, .md and .png")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument("--scorer", type=Path, help="default: scorer.safetensors in --weights")
    args = parser.parse_args()
    args.scorer = args.scorer or args.weights / "scorer.safetensors"
    second = args.model == "unet"
    if not second and args.sampler != "euler":
        parser.error("--sampler is for --model unet; leave it out")
    if second and (args.bf16 or args.weights != WEIGHTS):
        parser.error("--model unet is the embedded one in float32; leave --bf16 and --weights out")
    files = {args.model: args.weights / f"{args.model}.safetensors", "scorer": args.scorer}
    digests = {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in files.items()}
    weights = [f"{name} sha256 {digest[:16]}" for name, digest in digests.items()]
    sampler = [f"{args.sampler} simple in ComfyUI"] if second else []
    setting = ", ".join([judged.setting(args), *sampler, *weights])
    args.out.mkdir(parents=True, exist_ok=True)
    rows = frame.Rows(args.out / "laboratory.csv", setting)
    wanted, done = {BASELINE, *args.methods}, rows.done()
    todo = [(k, m) for k in args.steps for m in CHOICES if m in wanted and (k, m) not in done]
    with Report() as report:
        graph = workflow(args) if second else None
        measure(judged.load(args, METRICS, report, args.weights, args.scorer, graph), rows, todo)
    cells = {(row["steps"], row["method"], row["group"]): row for row in rows}
    counts = rows.counts()
    legend = (
        f"{setting}. Combinations were held out of training; every method starts from the same "
        "noises as D=0, differences are paired, ± is one standard error. `noise` is the level of "
        "high-frequency noise and no part of the reward; `texture` is the low-passed texture std "
        f"on rough prompts, {ROUGH_REAL:g} in real scenes."
    )
    parts = ["# Laboratory", frame.made_by(frame.command("laboratory")), legend]
    parts += [part for steps in counts for part in tables(cells, steps)]
    listed = "\n".join(f"- {name}.safetensors sha256 `{d}`" for name, d in digests.items())
    frame.write_page(args.out / "laboratory.md", [*parts, "Weights:", listed])
    plot(cells, counts, args.out / "laboratory.png")
    print(f"Wrote laboratory.csv, laboratory.md and laboratory.png in {args.out}.")


if __name__ == "__main__":
    main()
