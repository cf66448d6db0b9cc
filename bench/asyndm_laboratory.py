"""What AsynDM does to prompt alignment on the embedded model, through the nodes' own code.

    python bench/asyndm_laboratory.py --n 1024 --kinds chain --seeds 77 78 79 --out FOLDER

Every method starts from the same noises as plain Euler; differences are paired, and those of
several seeds are put together. The words are the objects of the caption ("red circle"); the object
mask is where the plain image of the same noise has its objects, and the other masks are made of it
(bench/parts/waiting.py). Writes rows.csv (a method is not measured again, rows of another setting
are refused), overlap.csv (where the words' regions lay at each step), a table and a plot.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import cache
from pathlib import Path

import torch

from async_timestep.bench.parts import frame, judged
from async_timestep.bench.parts.waiting import METHODS, PLAIN, Method, mask_of, places
from async_timestep.bench.parts.waiting_page import page, plot
from async_timestep.harness.in_process import pack
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.find import find_objects
from async_timestep.training.tiny.scenes import KINDS

METRICS = ("reward", "strict", "iou", "relation", "count", "scorer", "noise")


class Laboratory:
    """Prompts, noises, model and judges of one seed; `run(steps, method)` gives every image's
    scores."""

    def __init__(self, args: argparse.Namespace, report: Report):
        demo = pack("nodes.demo")
        self.args, self.own = args, judged.load(args, METRICS, report)
        self.model, self.clip = demo.load_demo_model(), demo.load_demo_clip()
        self.captions = self.own.texts("scenes")
        self.scenes = judged.scenes(args)
        self.batches = self.grouped()
        self.base = cache(self.plain)

    def columns(self, scene) -> tuple[tuple[int, ...], ...]:
        """The columns of each object of the caption, as the Region Mask node finds them."""
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

    def region(self, method: Method, columns, rows: list[int], steps: int):
        """What the Region Mask node hands on for one batch; None where the method has no region."""
        region = pack("nodes.run.region").Region
        if method.where in ("", "all"):
            return region("all") if method.where else None
        if method.where == "words":
            words = {str(i): list(own) for i, own in enumerate(columns)}
            more = {"threshold": method.threshold, "static": method.static}
            return region("words", columns=words, strengths=(1.0,) * len(words), **more)
        mask = mask_of(method.where, self.base(steps)[1][rows], self.own.generators("scenes", rows))
        return region("mask", mask=mask)

    def sampler(self, method: Method, region):
        """(MODEL, SAMPLER, trace) of a method for one batch."""
        import comfy.samplers

        if method.waits:
            more = {"curve": method.curve}
            return self.model, *pack("nodes.run.asyndm").asyndm_sampler(
                region, method.strength, **more
            )
        euler = comfy.samplers.sampler_object("euler")
        if method.tpm:
            pack("nodes").register_tpm_folder()
            node = pack("nodes.deviation").AsyncTimestepTPMLoader
            (policy,) = node.execute(method.tpm).result
        elif method.deviation:
            policy = pack("nodes.deviation").deviation_policy("custom", method.deviation)
        else:
            return self.model, euler, None
        model, trace = pack("nodes.run.hook").attach(self.model, policy, region=region)
        return model, euler, trace

    def run(self, steps: int, method: Method) -> tuple[dict, torch.Tensor, list[dict]]:
        """Scores (n,) by metric, objects (n, 64, 64) of the finished images, and where the words'
        masks lie at each step (empty without words)."""
        import comfy.latent_formats
        import comfy.sample
        import comfy.samplers

        sampling = self.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps + method.more)
        images = torch.zeros(self.args.n, 3, 64, 64)
        masks = [torch.zeros(self.args.n, 64, 64) for _ in range(steps)]
        followed = method.where == "words" and method.waits
        for columns, rows in self.batches:
            region = self.region(method, columns, rows, steps)
            model, sampler, trace = self.sampler(method, region)
            noise = self.own.backbone.noise(self.own.generators("scenes", rows))
            positive = self.conditioning([self.captions[i] for i in rows])
            negative = self.conditioning([""] * len(rows))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
                latent = comfy.sample.sample_custom(
                    model, noise, self.args.guidance, sampler, sigmas, positive, negative,
                    torch.zeros_like(noise), disable_pbar=True, seed=0,
                )  # fmt: skip
            latent = comfy.latent_formats.SD3().process_in(latent)
            images[rows] = self.own.backbone.decode(latent)
            if followed:
                for step, mask in enumerate(trace.runs[-1].masks):
                    masks[step][rows] = torch.nn.functional.interpolate(mask[:, None], 64)[:, 0]
            self.own.advance(len(rows) * len(sigmas[1:]))
        objects = find_objects(images).core
        lies = [places(mask, objects) for mask in masks] if followed else []
        return self.own.rewards(images, self.captions), objects.float(), lies

    def plain(self, steps: int) -> tuple[dict, torch.Tensor]:
        """Scores and objects of plain Euler, from --keep where an earlier run left them there."""
        args = self.args
        name = f"{'_'.join(args.kinds)}_{args.n}_{args.guidance:g}_{args.seed}_{steps}_{args.bf16}"
        kept = None if args.keep is None else args.keep / f"{name}.pt"
        if kept is not None and kept.exists():
            return torch.load(kept)
        found = self.run(steps, METHODS[PLAIN])[:2]
        if kept is not None:
            args.keep.mkdir(parents=True, exist_ok=True)
            torch.save(found, kept)
        return found

    def measured(self, steps: int, name: str) -> tuple[list[dict], list[dict]]:
        """The rows of a method, one for all images and one a kind, and where its masks lay."""
        base = self.base(steps)[0]
        scores, lies = base, []
        if name != PLAIN:
            scores, _, lies = self.run(steps, METHODS[name])
        kinds, rows = [scene.kind for scene in self.scenes], []
        for kind in ("all", *self.args.kinds)[: None if len(self.args.kinds) > 1 else 1]:
            own = torch.tensor([kind in ("all", k) for k in kinds])
            if bool(own.any()):
                change = judged.compared(scores, base, METRICS, own)
                rows.append({"kind": kind, "n": int(own.sum()), **change})
        return rows, lies


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, METHODS, [10, 20, 50], threads=1)
    parser.add_argument("--seeds", type=int, nargs="+", help="several, in the place of --seed")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="of scenes; default: all"
    )
    parser.add_argument("--keep", type=Path, help="folder that keeps plain's images for a rerun")
    frame.folder_option(parser, "rows.csv, overlap.csv, the table and the plot")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.kinds = [kind for kind in KINDS if kind in args.kinds]
    frame.comfyui(args.threads)
    # seed, guidance and the number of prompts stand in each row
    setting = f"{' '.join(args.kinds)}, {'bf16' if args.bf16 else 'fp32'}"
    rows = frame.Rows(args.out / "rows.csv", setting)
    overlaps = frame.Rows(args.out / "overlap.csv", setting)
    key = ("steps", "method", "guidance", "seed", "prompts")
    done = {tuple(row[name] for name in key) for row in rows}
    chosen = [m for m in METHODS if m in {PLAIN, *args.methods}]
    todo = [(k, seed, m) for k in args.steps for seed in args.seeds or [args.seed] for m in chosen]
    todo = [(k, s, m) for k, s, m in todo if (k, m, args.guidance, s, args.n) not in done]
    command = frame.made_by(frame.command("asyndm_laboratory"))
    with Report() as report:
        report.begin("laboratory", sum(k for k, *_ in todo) * args.n)

        @cache
        def laboratory(seed: int) -> Laboratory:
            return Laboratory(argparse.Namespace(**{**vars(args), "seed": seed}), report)

        for steps, seed, method in todo:
            report.advance(0, f"K={steps} seed {seed} {method}")
            found, lies = laboratory(seed).measured(steps, method)
            head = {"guidance": args.guidance, "seed": seed, "prompts": args.n}
            for step, place in enumerate(lies):
                overlaps.add(steps, method, {**head, "step": step, **place})
            rows.add(steps, method, *({**head, **row} for row in found))
            frame.write_page(args.out / "asyndm_laboratory.md", page(rows, command, setting))
            plot(rows, overlaps, args.out / "asyndm_laboratory.png")
    text = frame.write_page(args.out / "asyndm_laboratory.md", page(rows, command, setting))
    plot(rows, overlaps, args.out / "asyndm_laboratory.png")
    print(text)


if __name__ == "__main__":
    main()
