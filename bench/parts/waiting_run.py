"""Methods of bench/parts/waiting.py on held-out scenes, through the nodes' own code.

laboratory = Laboratory(args, report)
scores, objects, lies = laboratory.run(10, METHODS["words"])
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import nullcontext
from functools import cache

import torch

from async_timestep.bench.parts import judged
from async_timestep.bench.parts.waiting import METHODS, PLAIN, Method, mask_of, places
from async_timestep.harness.in_process import pack
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.find import find_objects

METRICS = ("reward", "strict", "iou", "relation", "count", "scorer", "noise")


class Laboratory:
    """Prompts, noises, model and judges of one seed; `run(steps, method)` gives every image's
    scores."""

    def __init__(self, args: argparse.Namespace, report: Report):
        demo = pack("nodes.demo")
        self.args, self.own = args, judged.load(args, METRICS, report)
        self.model, self.clip = (
            demo.load_demo_model(judged.MODELS[args.model]),
            demo.load_demo_clip(judged.MODELS[args.model]),
        )
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
            names = ("threshold", "static", "grow", "invert")
            more = {name: getattr(method, name) for name in names}
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
            autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16)
            with autocast, reading(method.layer):
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
        self.images, self.masks = images, masks  # of the last run, for pictures
        objects = find_objects(images).core
        lies = [places(mask, objects) for mask in masks] if followed else []
        return self.own.rewards(images, self.captions), objects.float(), lies

    def plain(self, steps: int) -> tuple[dict, torch.Tensor]:
        """Scores and objects of plain Euler, from --keep where an earlier run left them there."""
        args = self.args
        told = (*args.kinds, args.n, args.guidance, args.seed, steps, args.bf16, args.model)
        name = "_".join(map(str, told))
        kept = None if args.keep is None else args.keep / f"{name}.pt"
        if kept is not None and kept.exists():
            return torch.load(kept, weights_only=True)
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


def reading(layer: int | None):
    """While it is open, words are read in this one of the network's joint attentions only."""
    if layer is None:
        return nullcontext()
    attention = pack("nodes.pixels.attention")
    return pack("nodes.pixels.hooks").swapped(attention, "evenly", lambda layers, most: [layer])
