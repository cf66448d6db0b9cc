"""What `evaluate.py --suite asyndm` does once its options are read: pictures, scores, tables."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..backbones.comfy.host import start
from ..backbones.comfy.plain import checkpoint_name, require_checkpoint
from ..evaluation.grids import write_grid
from ..evaluation.paired import set_up
from ..rewards import RewardError
from ..run.config import Config
from ..run.console import Report
from ..run.distributed import World
from ..run.folder import RunFolderError, check_place, write_atomic
from ..run.rows import write_rows
from . import scores
from .graphs import CFGPP_RATIO, CFGPP_SAMPLERS, PLAIN, Setting, Way, choose
from .images import Job, jobs_of, make_images
from .prompts import Prompt, read_set, set_names

GRID_SIDE = 256  # pixels of an image in a grid, at most
EXPECTED = (ValueError, OSError, RewardError, RunFolderError)


def run(config: Config, rest: argparse.Namespace, command: str, report: Report) -> str:
    """The whole suite; returns a text for stdout. Raises those of EXPECTED."""
    require_options(config, rest)
    config, device = set_up(config, World())
    model = Path(config.backbone.checkpoint).stem if config.backbone.checkpoint else "tiny"
    out = Path(rest.out or f"runs/asyndm_{model}")
    check_place(out)
    prompts = read_sets(rest, model == "tiny")
    pictures, setting = load_pictures(config, rest, device)
    methods = list(dict.fromkeys([PLAIN, *rest.methods]))
    chosen = {method: choose(method, pictures.inputs, setting.sampler) for method in methods}
    ways = {m: way for m, way in chosen.items() if isinstance(way, Way)}
    without = {m: way for m, way in chosen.items() if m not in ways}
    require_words(pictures, prompts, ways, setting)
    jobs = jobs_of(prompts, range(config.seed, config.seed + rest.images), list(ways))
    without |= make_images(pictures, jobs, ways, setting, out, report)
    pictures.unload()
    methods = [m for m in methods if m not in without]
    jobs = [job for job in jobs if job.method in methods]
    wanted = scores.metrics(config.rewards, rest, device)
    rows, unmeasured = score_images(jobs, wanted, out, config.rewards.batch, report)
    listed = [f"- {m}: left out, {why}" for m, why in {**without, **unmeasured}.items()]
    listed += [f"- {m}: nodes of {ways[m].source}" for m in methods if m != PLAIN]
    notes = [f"Made by `{command}`.", told(config, rest, setting), "\n".join(listed)]
    names = [m.name for m in wanted if m.name not in unmeasured]
    shown = write_results(out, rows, methods, names, notes)
    write_grids(out, rows, methods, rest.grid)
    return f"{shown}\nWrote table.md, per_image.csv and the grids in {out}."


def require_options(config: Config, rest: argparse.Namespace) -> None:
    """Raises ValueError on settings that the suite cannot run with."""
    backbone = config.backbone
    if backbone.name != "tiny" and not backbone.checkpoint:
        raise ValueError(
            f"backbone.name is {backbone.name} and backbone.checkpoint empty, expected the "
            "embedded model or a checkpoint that ComfyUI loads: the suite puts its own graphs "
            "around it; give --backbone.checkpoint FILE, or --preset tiny."
        )
    sampler = backbone.sampler or "euler"
    if sampler not in CFGPP_SAMPLERS:
        raise ValueError(
            f"backbone.sampler is {sampler}, expected one that AsynDM has: "
            f"{', '.join(CFGPP_SAMPLERS)} (the last is the paper's eta 1); choose one of them."
        )
    if len(config.step_counts) > 1:
        raise ValueError(
            f"steps is {config.steps}, expected one number: the methods are compared at one; give "
            "--steps K."
        )
    for name, least in (("images", 1), ("grid", 1), ("prompts", 0)):
        if getattr(rest, name) < least:
            raise ValueError(f"--{name} is {getattr(rest, name)}, expected {least} or more.")
    if rest.strength is not None and not 0 <= rest.strength <= 1:
        raise ValueError(f"--strength is {rest.strength:g}, expected a number from 0 to 1.")


def read_sets(rest: argparse.Namespace, embedded: bool) -> dict[str, list[Prompt]]:
    """Name -> prompts; of a file its stem. Raises ValueError."""
    found: dict[str, list[Prompt]] = {}
    for name in set_names(rest.sets, rest.asyndm, embedded):
        short = Path(name).stem
        if short in found:
            raise ValueError(f"--sets names two sets called {short}; rename one of the files.")
        found[short] = read_set(name, rest.asyndm)[: rest.prompts or None]
    return found


def load_pictures(config: Config, rest: argparse.Namespace, device: torch.device):
    """(ComfyUI in this process, what all methods share). Raises ValueError."""
    backbone = config.backbone
    if backbone.checkpoint:
        require_checkpoint(backbone.checkpoint)
    start(backbone.comfyui, device)
    from ..backbones.comfy.pictures import Pictures

    name = checkpoint_name(backbone.checkpoint) if backbone.checkpoint else ""
    cfgpp = backbone.guidance / CFGPP_RATIO if rest.cfgpp_scale is None else rest.cfgpp_scale
    setting = Setting(backbone, name, config.step_counts[0], cfgpp, rest.strength)
    return Pictures(), setting


def require_words(
    pictures, prompts: dict[str, list[Prompt]], ways: dict[str, Way], setting: Setting
) -> None:
    """Before anything is sampled: raises ValueError on a prompt with a word that the model's text
    encoder does not know, and on a region's word that is not in its prompt."""
    from ..backbones.comfy.pictures import require_words as require

    clip = None
    for name, some in prompts.items():
        for i, prompt in enumerate(some):
            if clip is None:
                graph = ways[PLAIN].graph(prompt, setting, 0)
                clip = pictures.take(graph, ["checkpoint", 1], "the graph plain")
                if clip is None:
                    raise ValueError(
                        f"backbone.checkpoint is {setting.checkpoint}, which has no text encoder, "
                        "expected a file with model, text encoder and VAE; give one of these."
                    )
            try:
                require(clip, prompt.text, prompt.words if "asyndm" in ways else None)
            except ValueError as error:
                raise ValueError(
                    f"Prompt {i + 1} of {name}, {prompt.text!r}, cannot be used with this model: "
                    f"{str(error).rstrip('.')}; take it out, or give other --sets."
                ) from error


def score_images(
    jobs: list[Job], wanted: list[scores.Metric], out: Path, batch: int, report: Report
) -> tuple[list[dict], dict[str, str]]:
    """(one row an image with its scores, metric -> why it is left out). Raises RewardError."""
    cache, without = scores.Cache(out), {}
    images = {job.image: job.prompt.text for job in jobs}
    for metric in wanted:
        todo = len(scores.unscored(images, metric, cache))
        if not todo:
            continue
        report.begin(f"scores {metric.name}", len(images), len(images) - todo)
        try:
            scorer = metric.load()
        except (OSError, ValueError, ImportError) as error:
            without[metric.name] = str(error)
            continue
        for count in scores.score_all(out, images, metric, scorer, cache, batch):
            report.advance(count)
        del scorer
        torch.cuda.empty_cache()
    rows = []
    for job in jobs:
        with Image.open(out / job.image) as image:
            seconds = float(image.text["seconds"])
        row = {"set": job.set, "prompt_index": job.index, "prompt": job.prompt.text}
        row |= {"words": ", ".join(job.prompt.words), "seed": job.seed}
        row |= {"method": job.method, "image": job.image, "seconds": seconds}
        row |= {m.name: cache.get(job.image, m) for m in wanted if m.name not in without}
        rows.append(row)
    return rows, without


def told(config: Config, rest: argparse.Namespace, setting: Setting) -> str:
    """What all images share, for table.md."""
    strength = "of the set" if rest.strength is None else f"{rest.strength:g}"
    seeds = f"{config.seed} to {config.seed + rest.images - 1}"
    return (
        f"{setting.checkpoint or 'The embedded model'}, {setting.steps} steps, {setting.sampler} / "
        f"{config.backbone.scheduler or 'simple'}, CFG {config.backbone.guidance:g} (CFG++ "
        f"{setting.cfgpp:g}), AsynDM strength {strength}, seeds {seeds}. ± is one standard error "
        "over images; differences are paired by prompt and seed. s / image is the median time of "
        "the whole graph."
    )


def write_results(
    out: Path, rows: list[dict], methods: list[str], names: list[str], notes: list[str]
) -> str:
    """per_image.csv and table.md, whose text is returned; the rows of each method are in the same
    order."""
    write_rows(out / "per_image.csv", rows)
    parts = ["# Text alignment", *notes]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        count = len({row["prompt_index"] for row in own})
        parts += [f"## {name}: {count} prompts, {len(own) // len(methods)} images a method"]
        parts += [scores.set_table(own, methods, names, PLAIN)]
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    write_atomic(out / "table.md", text.encode())
    return text


def write_grids(out: Path, rows: list[dict], methods: list[str], count: int) -> None:
    """grid_SET.png: the first seed of the first prompts, one column per method."""
    rows = [r for r in rows if r["seed"] == rows[0]["seed"] and r["prompt_index"] < count]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        columns = {
            m: [thumbnail(out / r["image"]) for r in own if r["method"] == m] for m in methods
        }
        captions = [row["prompt"].strip() for row in own if row["method"] == PLAIN]
        write_grid(out / f"grid_{name}.png", columns, captions)


def thumbnail(path: Path) -> Tensor:
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((GRID_SIDE, GRID_SIDE))
        return scores.pixels_of(small)
