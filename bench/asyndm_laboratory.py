"""What AsynDM does to prompt alignment on the embedded model, through the nodes' own code.

    python bench/asyndm_laboratory.py --n 512 --steps 10 20 50 --out FOLDER

Every method starts from the same noises as plain Euler; differences are paired. The words are the
objects of the caption ("red circle"); the object mask is where the plain image of the same noise
has its objects. Writes rows.csv (a method is not measured again, rows of another setting are
refused), a table, and a plot of how well the words' masks cover the objects of the finished image
over the steps.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch

from async_timestep.bench.parts import frame, judged
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.find import find_objects
from async_timestep.training.tiny.scenes import held_out_scenes

METRICS = ("reward", "strict", "iou", "relation", "count", "scorer", "noise")
PLAIN = "plain"
METHODS = {  # name -> (what makes the region, strength, more settings)
    PLAIN: None,
    "words": ("words", 0.5, {}),
    "words, strength 1": ("words", 1.0, {}),
    "words, static": ("static", 0.5, {}),
    "object mask": ("object", 0.5, {}),
    "all (concave)": ("all", 0.5, {}),
    "words, linear": ("words", 0.5, {"curve": "linear"}),
    "words, exponential": ("words", 0.5, {"curve": "exponential"}),
}
LEGEND = (
    "Same noises for every method; ± is one standard error of the paired difference to plain Euler "
    "with the same number of steps. reward: at most 3, see training/tiny/score.py; strict: share "
    "of images in which everything is right; noise: level of high-frequency noise. Words are the "
    "caption's objects. Strength 0.5 where none is named. `words, static` samples twice."
)


class Laboratory:
    """Prompts, noises, model and judges; `run(steps, method)` gives every image's scores."""

    def __init__(self, args: argparse.Namespace, report: Report):
        demo = pack("nodes.demo")
        self.args, self.own = args, judged.load(args, METRICS, report)
        self.model, self.clip = demo.load_demo_model(), demo.load_demo_clip()
        self.captions = self.own.texts("scenes")
        self.batches = self.grouped()
        self.plain_objects: dict[int, torch.Tensor] = {}

    def columns(self, scene) -> tuple[tuple[int, ...], ...]:
        """The columns of each object of the caption, as the Region Mask node finds them."""
        words = ", ".join(f"{colour} {shape}" for colour, shape in scene.objects)
        found = pack("nodes.run.words").word_columns(self.clip, scene.caption, words)
        return tuple(tuple(own) for own in found.values())

    def grouped(self) -> list[tuple[tuple, list[int]]]:
        """Prompts whose words stand in the same columns share a batch: a region has one set."""
        groups = defaultdict(list)
        for i, scene in enumerate(held_out_scenes(self.args.n, self.args.seed)):
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

    def run(self, steps: int, method: str) -> tuple[dict, torch.Tensor, list[float]]:
        """Scores (n,) by metric, images (n, 3, 64, 64), and the masks' IoU with the objects of the
        finished image at each step (empty without words)."""
        import comfy.latent_formats
        import comfy.sample
        import comfy.samplers

        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        images = torch.zeros(self.args.n, 3, 64, 64)
        masks = [torch.zeros(self.args.n, 64, 64) for _ in range(steps)]
        followed = METHODS[method] is not None and METHODS[method][0] in ("words", "static")
        for columns, rows in self.batches:
            sampler, trace = self.sampler(method, columns, rows, steps)
            noise = self.own.backbone.noise(self.own.generators("scenes", rows))
            positive = self.conditioning([self.captions[i] for i in rows])
            negative = self.conditioning([""] * len(rows))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
                latent = comfy.sample.sample_custom(
                    self.model, noise, self.args.guidance, sampler, sigmas, positive, negative,
                    torch.zeros_like(noise), disable_pbar=True, seed=0,
                )  # fmt: skip
            latent = comfy.latent_formats.SD3().process_in(latent)
            images[rows] = self.own.backbone.decode(latent)
            if followed:
                for step, mask in enumerate(trace.runs[-1].masks):
                    masks[step][rows] = torch.nn.functional.interpolate(mask[:, None], 64)[:, 0]
            self.own.advance(len(rows) * steps)
        scores = self.own.rewards(images, self.captions)
        return scores, images, [iou(m, objects(images)) for m in masks] if followed else []

    def know_objects(self, steps: int, images: torch.Tensor) -> None:
        self.plain_objects[steps] = objects(images).float()


def objects(images: torch.Tensor) -> torch.Tensor:
    """(n, 64, 64) bool: where an image has strongly coloured pixels."""
    return find_objects(images).core


def iou(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """The mean over the images that have objects."""
    inside = mask > 0.25  # any strength counts
    both, either = (inside & truth).sum((1, 2)), (inside | truth).sum((1, 2))
    there = truth.any(2).any(1)
    return float((both[there] / either[there]).mean())


def tables(rows: frame.Rows, steps: int) -> list[str]:
    """The means of plain Euler, and every other method's differences to it."""
    own, lines = {row["method"]: row for row in rows if row["steps"] == steps}, []
    for name in (name for name in METHODS if name in own):
        cells = [judged.difference(own[name], m, 4) for m in METRICS]
        if name == PLAIN:
            cells = [f"{own[name][m]:.3f}" for m in METRICS]
        lines.append([name, *cells])
    head = ["", "reward", "strict", "IoU", "relation", "count", "scorer", "noise"]
    return [f"## {steps} steps", markdown(head, lines)]


def plot(rows: frame.Rows, overlaps: frame.Rows, path: Path) -> None:
    """Reward by method, and the IoU of the words' masks over the sampling."""
    figure, ((left, right),) = frame.drawing(2, (11, 4.2))
    counts = rows.counts()
    names = [m for m in METHODS if m != PLAIN]
    for offset, steps in enumerate(counts):
        own = {row["method"]: row for row in rows if row["steps"] == steps}
        shown = [(i, own[m]) for i, m in enumerate(names) if m in own]
        left.errorbar(
            [row["reward_d"] for _, row in shown],
            [i + 0.2 * (offset - 1) for i, _ in shown],
            xerr=[row["reward_se"] for _, row in shown],
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
            colour = f"C{counts.index(line['steps'])}"
            label = f"{line['method']}, {line['steps']} steps"
            right.plot(at, values, style, color=colour, label=label)
    right.set_xlabel("share of the sampling done")
    right.set_ylabel("IoU of the words' mask with the finished objects")
    right.set_ylim(0, 1)
    right.legend(fontsize=8)
    frame.save(figure, path)


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, METHODS, [10, 20, 50], threads=1)
    frame.folder_option(parser, "rows.csv, the table and the plot")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    frame.comfyui(args.threads)
    setting = judged.setting(args)
    rows = frame.Rows(args.out / "rows.csv", setting)
    overlaps = frame.Rows(args.out / "overlap.csv", setting)
    done, base = rows.done(), {}
    todo = [(k, m) for k in args.steps for m in METHODS if m in {PLAIN, *args.methods}]
    todo = [(k, m) for k, m in todo if (k, m) not in done or m == PLAIN]
    head = ["# AsynDM on the embedded model"]
    head += [frame.made_by(frame.command("asyndm_laboratory")), f"{setting}. {LEGEND}"]
    with Report() as report:
        laboratory = Laboratory(args, report)
        laboratory.own.begin("laboratory", sum(k for k, _ in todo) * args.n)
        for steps, method in todo:
            laboratory.own.advance(0, f"K={steps} {method}")
            scores, images, shares = laboratory.run(steps, method)
            if method == PLAIN:
                base[steps] = scores
                laboratory.know_objects(steps, images)
            if (steps, method) not in done:
                if shares:
                    text = " ".join(f"{share:.4f}" for share in shares)
                    overlaps.add(steps, method, {"iou": text})
                change = judged.compared(scores, base[steps], METRICS)
                rows.add(steps, method, {"n": args.n, **change})
            parts = [part for k in rows.counts() for part in tables(rows, k)]
            text = frame.write_page(args.out / "asyndm_laboratory.md", [*head, *parts])
            plot(rows, overlaps, args.out / "asyndm_laboratory.png")
    print(text)


if __name__ == "__main__":
    main()
