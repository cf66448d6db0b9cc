"""What AsynDM does to prompt alignment on the embedded model, through the nodes' own code.

    python bench/asyndm_laboratory.py --n 512 --steps 10 20 50 --out FOLDER

Every method starts from the same noises as plain Euler; differences are paired. The words are the
objects of the caption ("red circle"); the object mask is where the plain image of the same noise
has its objects. Writes rows.csv (a method is not measured again), a table, and a plot of how well
the words' masks cover the objects of the finished image over the steps.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections import defaultdict
from pathlib import Path

import torch
from tqdm import tqdm

from async_timestep.harness.in_process import import_comfy, pack

METRICS = ("reward", "strict", "iou", "relation", "count", "scorer", "noise")
METHODS = {  # name -> (what makes the region, strength, more settings)
    "plain": None,
    "words": ("words", 0.5, {}),
    "words, strength 1": ("words", 1.0, {}),
    "words, static": ("static", 0.5, {}),
    "object mask": ("object", 0.5, {}),
    "all (concave)": ("all", 0.5, {}),
    "words, linear": ("words", 0.5, {"curve": "linear"}),
    "words, exponential": ("words", 0.5, {"curve": "exponential"}),
}
COLUMNS = ["setting", "steps", "method", "n", *(m + s for m in METRICS for s in ("", "_d", "_se"))]


class Laboratory:
    """Prompts, noises, model and judges; `run(steps, method)` gives every image's scores."""

    def __init__(self, args: argparse.Namespace):
        from async_timestep.training.tiny.backbone import WEIGHTS, TinyBackbone
        from async_timestep.training.tiny.scenes import held_out_scenes
        from async_timestep.training.tiny.scorer import SceneScorer

        demo = pack("nodes.demo")
        self.args, self.backbone = args, TinyBackbone()
        self.scorer = SceneScorer(WEIGHTS / "scorer.safetensors")
        self.model, self.clip = demo.load_demo_model(), demo.load_demo_clip()
        self.scenes = held_out_scenes(args.n, args.seed)
        self.captions = [scene.caption for scene in self.scenes]
        self.batches = self.grouped()
        self.plain_objects: dict[int, torch.Tensor] = {}

    def columns(self, scene) -> tuple[tuple[int, ...], ...]:
        """Of each object of the caption, as the Region Mask node finds them."""
        words = ", ".join(f"{colour} {shape}" for colour, shape in scene.objects)
        found = pack("nodes.run.words").word_columns(self.clip, scene.caption, words)
        return tuple(tuple(own) for own in found.values())

    def grouped(self) -> list[tuple[tuple, list[int]]]:
        """Prompts whose words stand in the same columns share a batch: a region has one set."""
        groups = defaultdict(list)
        for i, scene in enumerate(self.scenes):
            groups[self.columns(scene)].append(i)
        size = self.args.batch
        return [(c, g[i : i + size]) for c, g in groups.items() for i in range(0, len(g), size)]

    def conditioning(self, captions: list[str]) -> list:
        tokens = [self.clip.tokenize(caption) for caption in captions]
        pairs = [self.clip.encode_from_tokens(t, return_pooled=True) for t in tokens]
        both = [torch.cat(parts) for parts in zip(*pairs, strict=True)]
        return [[both[0], {"pooled_output": both[1]}]]

    def sampler(self, method: str, columns, rows: list[int], steps: int):
        """(SAMPLER, trace) of a method for one batch."""
        if METHODS[method] is None:
            import comfy.samplers

            return comfy.samplers.sampler_object("euler"), None
        kind, strength, more = METHODS[method]
        region = pack("nodes.run.region").Region
        if kind == "object":
            where = region("mask", mask=self.plain_objects[steps][rows])
        elif kind == "all":
            where = region("all")
        else:
            words = {str(i): list(own) for i, own in enumerate(columns)}
            ones = (1.0,) * len(words)
            where = region("words", columns=words, strengths=ones, static=kind == "static")
        return pack("nodes.run.asyndm").asyndm_sampler(where, strength, **more)

    def run(self, steps: int, method: str, bar: tqdm) -> tuple[dict, torch.Tensor, list[float]]:
        """Scores (n,) by metric, images (n, 3, 64, 64), and the masks' IoU with the objects of the
        finished image at each step (empty without words)."""
        import comfy.latent_formats
        import comfy.sample
        import comfy.samplers
        from async_timestep.training.tiny.score import score_images

        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        images = torch.zeros(self.args.n, 3, 64, 64)
        masks = [torch.zeros(self.args.n, 64, 64) for _ in range(steps)]
        followed = METHODS[method] is not None and METHODS[method][0] in ("words", "static")
        for columns, rows in self.batches:
            sampler, trace = self.sampler(method, columns, rows, steps)
            noise = self.backbone.noise([self.args.seed * 100_000 + i for i in rows])
            positive = self.conditioning([self.captions[i] for i in rows])
            negative = self.conditioning([""] * len(rows))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
                latent = comfy.sample.sample_custom(
                    self.model, noise, self.args.guidance, sampler, sigmas, positive, negative,
                    torch.zeros_like(noise), disable_pbar=True, seed=0,
                )  # fmt: skip
            images[rows] = self.backbone.vae.decode(comfy.latent_formats.SD3().process_in(latent))
            if followed:
                for step, mask in enumerate(trace.runs[-1].masks):
                    masks[step][rows] = torch.nn.functional.interpolate(mask[:, None], 64)[:, 0]
            bar.update(len(rows) * steps)
        scores = score_images(images, self.captions)
        scores["scorer"] = self.scorer(images, self.captions)
        return scores, images, [iou(m, objects(images)) for m in masks] if followed else []

    def know_objects(self, steps: int, images: torch.Tensor) -> None:
        self.plain_objects[steps] = objects(images).float()


def objects(images: torch.Tensor) -> torch.Tensor:
    """(n, 64, 64) bool: where an image has strongly coloured pixels."""
    from async_timestep.training.tiny.find import find_objects

    return find_objects(images).core


def iou(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """Mean over images that have objects."""
    inside = mask > 0.25  # any strength counts
    both, either = (inside & truth).sum((1, 2)), (inside | truth).sum((1, 2))
    there = truth.any(2).any(1)
    return float((both[there] / either[there]).mean())


def compared(scores: dict, base: dict) -> dict[str, float]:
    """Mean, paired difference to plain, its standard error."""
    row = {}
    for name in METRICS:
        value, change = scores[name].float(), (scores[name] - base[name]).float()
        row[name], row[name + "_d"] = float(value.mean()), float(change.mean())
        row[name + "_se"] = float(change.std() / len(change) ** 0.5)
    return row


def table(rows: list[dict], command: str, setting: str) -> str:
    lines = [
        "# AsynDM on the embedded model",
        "",
        f"Made by `{command}`.",
        "",
        f"{setting}. Same noises for every method; ± is one standard error of the paired "
        "difference to plain Euler with the same number of steps. reward: at most 3, see "
        "training/tiny/score.py; strict: share of images in which everything is right; noise: "
        "level of high-frequency noise. Words are the caption's objects. Strength 0.5 where none "
        "is named. `words, static` samples twice.",
        "",
    ]
    for steps in sorted({int(row["steps"]) for row in rows}):
        lines += [f"## {steps} steps", ""]
        lines += ["| | reward | strict | IoU | relation | count | scorer | noise |"]
        lines += ["|---" * 8 + "|"]
        own = {row["method"]: row for row in rows if int(row["steps"]) == steps}
        for row in (own[m] for m in METHODS if m in own):
            cells = []
            for m in METRICS:
                value, change, se = (float(row[m + s]) for s in ("", "_d", "_se"))
                cells.append(
                    f"{value:.3f}" if row["method"] == "plain" else f"{change:+.4f} ± {se:.4f}"
                )
            lines.append(f"| {row['method']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: list[dict], overlaps: list[dict], path: Path) -> None:
    """Reward by method, and the IoU of the words' masks over the sampling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    counts = sorted({int(row["steps"]) for row in rows})
    names = [m for m in METHODS if m != "plain"]
    for offset, steps in enumerate(counts):
        own = {row["method"]: row for row in rows if int(row["steps"]) == steps}
        shown = [(i, own[m]) for i, m in enumerate(names) if m in own]
        left.errorbar(
            [float(row["reward_d"]) for _, row in shown],
            [i + 0.2 * (offset - 1) for i, _ in shown],
            xerr=[float(row["reward_se"]) for _, row in shown],
            fmt="o",
            capsize=2,
            markersize=4,
            label=f"{steps} steps",
        )
    left.axvline(0, color="grey", linewidth=0.8)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.locator_params(axis="x", nbins=5)
    left.set_xlabel("reward, difference to plain (± s.e.)")
    left.legend(fontsize=8)
    for line in overlaps:
        values = [float(v) for v in line["iou"].split()]
        if line["method"] in ("words", "words, static"):
            style = "-" if line["method"] == "words" else ":"
            at = [i / (len(values) - 1) for i in range(len(values))]
            colour = f"C{counts.index(int(line['steps']))}"
            label = f"{line['method']}, {line['steps']} steps"
            right.plot(at, values, style, color=colour, label=label)
    right.set_xlabel("share of the sampling done")
    right.set_ylabel("IoU of the words' mask with the finished objects")
    right.set_ylim(0, 1)
    right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(newline=""))) if path.exists() else []


def append(path: Path, row: dict) -> None:
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="faster where the CPU has it; changes the numbers"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    import_comfy("cpu")
    torch.set_grad_enabled(False)
    torch.set_num_threads(args.threads)
    setting = f"n {args.n}, guidance {args.guidance:g}, seed {args.seed}, "
    setting += "bf16" if args.bf16 else "fp32"
    path, overlaps = args.out / "rows.csv", args.out / "overlap.csv"
    done = {(int(row["steps"]), row["method"]) for row in read(path) if row["setting"] == setting}
    laboratory = Laboratory(args)
    todo = [(k, m) for k in args.steps for m in METHODS if m in {"plain", *args.methods}]
    todo = [(k, m) for k, m in todo if (k, m) not in done or m == "plain"]
    command = shlex.join(["python", "bench/asyndm_laboratory.py", *sys.argv[1:]])
    with tqdm(total=sum(k for k, _ in todo) * args.n, unit="step", smoothing=0.02) as bar:
        base: dict[int, dict] = {}
        for steps, method in todo:
            bar.set_description(f"K={steps} {method}")
            scores, images, shares = laboratory.run(steps, method, bar)
            if method == "plain":
                base[steps] = scores
                laboratory.know_objects(steps, images)
            if (steps, method) not in done:
                head = {"setting": setting, "steps": steps, "method": method}
                if shares:
                    text = " ".join(f"{share:.4f}" for share in shares)
                    append(overlaps, {**head, "iou": text})
                append(path, {**head, "n": args.n, **compared(scores, base[steps])})
            rows = [row for row in read(path) if row["setting"] == setting]
            (args.out / "asyndm_laboratory.md").write_text(table(rows, command, setting))
            plot(rows, read(overlaps), args.out / "asyndm_laboratory.png")
    print(table(rows, command, setting))


if __name__ == "__main__":
    main()
