"""What deviation, lying sigma and omega do on the embedded model, paired with D = 0.

    python bench/laboratory.py --n 512 --steps 3 4 6 10 15 --out docs/measurements/laboratory

Writes laboratory.csv (every mean, paired difference to D = 0 and its standard error), laboratory.md
and laboratory.png into --out. Interrupted, it goes on where it stopped: rows in the csv are not
measured again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import shlex
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from async_timestep.tpm.policies import Constant, Policy, VelocityScale
from async_timestep.training.backbones.tiny import TinyFlow
from async_timestep.training.evaluation.statistics import mean_error
from async_timestep.training.run.config import BackboneConfig
from async_timestep.training.tiny.backbone import WEIGHTS
from async_timestep.training.tiny.scenes import TEXTURES, held_out_scenes
from async_timestep.training.tiny.score import ROUGH_REAL, score_images
from async_timestep.training.tiny.scorer import SceneScorer

METRICS = (
    "reward",
    "strict",
    "iou",
    "relation",
    "count",
    "background",
    "clean",
    "texture_std",
    "noise",
    "scorer",
)
GROUPS = ("all", *TEXTURES)
DEVIATIONS = (-0.5, -0.25, 0.25, 0.5, 1.0)
METHODS: dict[str, tuple[int, Policy | None]] = {  # name -> (extra steps, what decides)
    "D=0": (0, None),
    **{f"D={d:+g}": (0, Constant(d)) for d in DEVIATIONS},
    **{f"lying D={d:+g}": (0, Constant(d, mode="follow_time")) for d in (0.25, 0.5)},
    **{f"omega={w:g}": (0, VelocityScale(omega=w)) for w in (0.75, 0.9, 1.1, 1.25)},
    "one more step": (1, None),
    "two more steps": (2, None),
}
COLUMNS = [
    "setting",
    "steps",
    "method",
    "group",
    "n",
    *(m + s for m in METRICS for s in ("", "_d", "_se")),
]


class Laboratory:
    """Prompts, noises, model and judges of one run; `scores(steps, policy)` measures every image
    once."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.backbone = TinyFlow(
            BackboneConfig(
                path=str(args.weights),
                precision="bf16" if args.bf16 else "fp32",
                guidance=args.guidance,
            ),
            torch.device("cpu"),
        )
        self.scorer = SceneScorer(args.scorer)
        self.scenes = held_out_scenes(args.n, args.seed)
        self.captions = [scene.caption for scene in self.scenes]
        self.seeds = [args.seed * 100_000 + i for i in range(args.n)]
        self.rows = {
            g: torch.tensor([g in ("all", s.texture) for s in self.scenes]) for g in GROUPS
        }
        self.synchronous: dict[int, dict[str, torch.Tensor]] = {}

    def scores(self, steps: int, policy: Policy | None, bar: tqdm) -> dict[str, torch.Tensor]:
        """Every metric, (n,), with `steps` Euler steps; runs at D = 0 are kept."""
        if policy is None and steps in self.synchronous:
            return self.synchronous[steps]
        images, backbone = [], self.backbone
        for start in range(0, self.args.n, self.args.batch):
            part = slice(start, start + self.args.batch)
            noise = backbone.model.noise(self.seeds[part])
            conditioning = backbone.encode(self.captions[part])
            latents = backbone.sample(conditioning, noise, backbone.sigmas(steps), policy)
            images.append(backbone.decode(latents))
            bar.update(len(noise) * steps)
        images = torch.cat(images)
        scores = score_images(images, self.captions)
        scores["scorer"] = self.scorer(images, self.captions)
        if policy is None:
            self.synchronous[steps] = scores
        return scores

    def compare(self, scores: dict, base: dict, group: str) -> dict[str, float]:
        """Mean, paired difference to `base` and its standard error of every metric over a group of
        prompts."""
        rows, result = self.rows[group], {"n": int(self.rows[group].sum())}
        for name in METRICS:
            value, change = scores[name][rows], (scores[name] - base[name])[rows]
            result[name] = float(value.mean())
            result[name + "_d"], result[name + "_se"] = mean_error(change)
        return result


def read(path: Path, setting: str) -> list[dict]:
    """Rows measured before. Raises SystemExit when they are of another setting or weights."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    other = {row["setting"] for row in rows} - {setting}
    if other:
        raise SystemExit(
            f"{path} was measured with {other.pop()!r}, this run has {setting!r}; "
            "move it away or change --out."
        )
    for row in rows:
        row |= {key: float(row[key]) for key in COLUMNS[4:]} | {"steps": int(row["steps"])}
    return rows


def difference(cell: dict, metric: str) -> str:
    """A paired difference to D=0 and its standard error, as text."""
    return f"{cell[metric + '_d']:+.3f} ± {cell[metric + '_se']:.3f}"


def markdown(rows: list[dict], command: str, setting: str) -> str:
    """Two tables a number of steps: change of the reward by texture, and the other measures over
    all prompts."""
    cells = {(row["steps"], row["method"], row["group"]): row for row in rows}
    lines = ["# Laboratory", "", f"Made by `{command}`.", ""]
    lines += [
        f"{setting}. Combinations were held out of training; every method starts from the same "
        "noises as D=0, differences are paired, ± is one standard error. `noise` is the level of "
        "high-frequency noise and no part of the reward; `texture` is the low-passed texture std "
        f"on rough prompts, {ROUGH_REAL:g} in real scenes.",
        "",
    ]
    for steps in sorted({row["steps"] for row in rows}):
        names = [m for m in METHODS if (steps, m, "all") in cells]
        lines += [
            f"## {steps} steps",
            "",
            "Reward, and its difference to D=0",
            "",
            f"| | {' | '.join(GROUPS)} |",
            "|---" * (len(GROUPS) + 1) + "|",
        ]
        for name in names:
            row = [cells[steps, name, group] for group in GROUPS]
            text = [f"{c['reward']:.3f}" if name == "D=0" else difference(c, "reward") for c in row]
            lines.append(f"| {name} | {' | '.join(text)} |")
        lines += [
            "",
            "All prompts (texture: rough ones)",
            "",
            "| | strict | IoU | background | texture | noise | scorer |",
            "|---" * 7 + "|",
        ]
        for name in names:
            c, rough = cells[steps, name, "all"], cells[steps, name, "rough"]
            lines.append(
                f"| {name} | {c['strict']:.3f} ({difference(c, 'strict')}) | {c['iou']:.3f} | "
                f"{c['background']:.3f} | {rough['texture_std']:.4f} | {c['noise']:.4f} | "
                f"{c['scorer']:.4f} |"
            )
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Change of the reward against D by texture, and the noise below it; a column for every number
    of steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = {(row["steps"], row["method"], row["group"]): row for row in rows}
    steps = sorted({row["steps"] for row in rows})
    figure, axes = plt.subplots(
        2, len(steps), figsize=(3.2 * len(steps), 5.6), sharex=True, sharey="row", squeeze=False
    )
    for column, k in enumerate(steps):
        for group, colour in zip(
            GROUPS, ("black", "tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True
        ):
            shown = [
                (d, cells.get((k, f"D={d:+g}" if d else "D=0", group)))
                for d in sorted((*DEVIATIONS, 0.0))
            ]
            shown = [(d, cell) for d, cell in shown if cell]
            for axis, metric in ((axes[0, column], "reward_d"), (axes[1, column], "noise")):
                error = [cell[metric.removesuffix("_d") + "_se"] for _, cell in shown]
                axis.errorbar(
                    [d for d, _ in shown],
                    [cell[metric] for _, cell in shown],
                    yerr=error,
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
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=512, help="prompts, a quarter of each texture")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[3, 4, 6, 10, 15], help="numbers of Euler steps"
    )
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="default: all"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for laboratory.csv, .md and .png"
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument(
        "--scorer", type=Path, help="scorer.safetensors; default: the one in --weights"
    )
    parser.add_argument("--seed", type=int, default=2024, help="seed of prompts and noises")
    parser.add_argument("--batch", type=int, default=64, help="images at a time")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    parser.add_argument(
        "--bf16", action="store_true", help="faster where the CPU has it; changes the numbers"
    )
    args = parser.parse_args()
    args.scorer = args.scorer or args.weights / "scorer.safetensors"
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    files = {"transformer": args.weights / "transformer.safetensors", "scorer": args.scorer}
    digest = {name: hashlib.sha256(f.read_bytes()).hexdigest() for name, f in files.items()}
    setting = (
        f"n {args.n}, guidance {args.guidance:g}, seed {args.seed}, "
        + ("bf16, " if args.bf16 else "fp32, ")
        + ", ".join(f"{name} sha256 {value[:16]}" for name, value in digest.items())
    )
    path = args.out / "laboratory.csv"
    rows = read(path, setting)
    done = {(row["steps"], row["method"]) for row in rows}
    laboratory = Laboratory(args)
    todo = [
        (k, m)
        for k in args.steps
        for m in METHODS
        if m in {"D=0", *args.methods} and (k, m) not in done
    ]
    # runs at D = 0 are shared: as the base of a K, and as "more steps" of another
    synchronous = {n for k, m in todo for n in (k, k + METHODS[m][0])}
    total = sum(synchronous) + sum(k for k, m in todo if METHODS[m][1] is not None)
    with tqdm(total=total * args.n, unit="eval", smoothing=0.02) as bar:
        for k, name in todo:
            bar.set_description(f"K={k} {name}")
            more, policy = METHODS[name]
            base, scores = laboratory.scores(k, None, bar), laboratory.scores(k + more, policy, bar)
            head = {"setting": setting, "steps": k, "method": name}
            new = [{**head, "group": g, **laboratory.compare(scores, base, g)} for g in GROUPS]
            rows += new
            # all groups of a method at once: a kill leaves no half
            with open(path, "a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerows(new)
    command = shlex.join(["python", "bench/laboratory.py", *sys.argv[1:]])
    hashes = "\n".join(f"- {name}.safetensors sha256 `{value}`" for name, value in digest.items())
    (args.out / "laboratory.md").write_text(
        markdown(rows, command, setting) + "\nWeights:\n\n" + hashes + "\n"
    )
    plot(rows, args.out / "laboratory.png")
    print(f"Wrote laboratory.csv, laboratory.md and laboratory.png in {args.out}.")


if __name__ == "__main__":
    main()
