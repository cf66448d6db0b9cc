"""Text alignment of sampling methods, on images made through ComfyUI graphs.

    python bench/asyndm_suite.py --asyndm ../AsynDM --checkpoint sd21_base.safetensors \\
        --server http://127.0.0.1:8188 --image_reward_path ImageReward.pt --out out

The prompt sets (4 times 40) are read from a checkout of hu-zijing/AsynDM that you give. Without
--server a ComfyUI is started for the run. All methods start from the same noises; a method whose
node the server lacks, or that fails, is left out by name. Interrupted, the same command goes on:
images in --out/images carry their graph and are not made again, scores are kept in scores.csv.
Writes per_image.csv, table.md and one grid a set.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from torchvision.transforms.functional import to_tensor
from tqdm import tqdm

from async_timestep.bench.parts import asyndm_scores as scores
from async_timestep.bench.parts import frame
from async_timestep.bench.parts.asyndm_graphs import (
    CFGPP_RATIO,
    DEMO,
    METHODS,
    PLAIN,
    SETS,
    MethodError,
    Prompt,
    RunningServer,
    Setting,
    Way,
    choices,
    choose,
    make_image,
    read_set,
)
from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.training.evaluation.grids import write_grid
from async_timestep.training.rewards import RewardError
from async_timestep.training.run.folder import write_atomic

SAMPLERS = ("ddim", "euler", "euler_ancestral")
GRID_SIDE = 256  # pixels of an image in a grid, at most


@dataclass(frozen=True)
class Job:
    """One image: what it shows, who makes it and where it lies below --out."""

    set: str
    index: int
    prompt: Prompt
    seed: int
    method: str

    @property
    def image(self) -> str:
        return f"images/{self.set}/{self.method}/{self.index:02d}_{self.seed}.png"


def save_image(path: Path, data: bytes, graph: dict, seconds: float) -> None:
    """The same pixels with the graph (ComfyUI opens it) and the time, in one move."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("prompt", json.dumps(graph))
    notes.add_text("seconds", repr(seconds))
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, format="PNG", pnginfo=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, out.getvalue())


def is_made(path: Path, graph: dict) -> bool:
    """Raises SystemExit when the image is there, but of another graph."""
    if not path.exists():
        return False
    with Image.open(path) as image:
        if json.loads(image.text.get("prompt", "null")) != graph:
            raise SystemExit(
                f"{path} was made with other settings than this run has; move it away or change "
                "--out."
            )
    return True


def make_images(
    server: ComfyServer, jobs: list[Job], ways: dict[str, Way], setting: Setting, out: Path
) -> dict[str, str]:
    """Makes what is not there. Returns method -> why it failed; plain must not."""
    failed: dict[str, str] = {}
    with tqdm(jobs, unit="image", smoothing=0.02) as bar:
        for job in bar:
            graph = ways[job.method].graph(job.prompt, setting, job.seed)
            if job.method in failed or is_made(out / job.image, graph):
                continue
            bar.set_description(f"{job.set} {job.method}")
            try:
                data, seconds = make_image(server, graph)
            except MethodError as error:
                if job.method == PLAIN:
                    raise SystemExit(f"The stock graph failed: {error}") from error
                failed[job.method] = f"failed: {error}"
                continue
            save_image(out / job.image, data, graph, seconds)
    return failed


def score_images(
    jobs: list[Job], wanted: list[scores.Metric], out: Path, batch: int
) -> tuple[list[dict], dict[str, str]]:
    """(one row an image with its scores, metric -> why it is left out)."""
    cache, without = scores.Cache(out / "scores.csv"), {}
    images = {job.image: job.prompt.text for job in jobs}
    for metric in wanted:
        todo = len(scores.unscored(images, metric, cache))
        if not todo:
            continue
        try:
            scorer = metric.load()
        except (OSError, ValueError, ImportError) as error:
            without[metric.name] = str(error).replace("rewards.", "--")
            continue
        with tqdm(total=todo, unit="image", desc=metric.name) as bar:
            for count in scores.score_all(out, images, metric, scorer, cache, batch):
                bar.update(count)
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


def write_results(
    out: Path, rows: list[dict], methods: list[str], names: list[str], notes: list[str]
) -> None:
    """per_image.csv and table.md; the rows of each method are in the same order."""
    frame.write_rows(out / "per_image.csv", rows)
    parts = ["# Text alignment", *notes]
    for name in dict.fromkeys(row["set"] for row in rows):
        own = [row for row in rows if row["set"] == name]
        count = len({row["prompt_index"] for row in own})
        parts += [f"## {name}: {count} prompts, {len(own) // len(methods)} images a method"]
        parts += [scores.set_table(own, methods, names, PLAIN)]
    print(frame.write_page(out / "table.md", parts))


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


def thumbnail(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((GRID_SIDE, GRID_SIDE))
        return to_tensor(small)


@contextlib.contextmanager
def reached(args: argparse.Namespace) -> Iterator[ComfyServer]:
    """--server, or one that is started here. Raises SystemExit when it cannot be reached."""
    if args.server:
        server = RunningServer(args.server)
    else:
        flags = () if torch.device(args.device).type == "cuda" else ("--cpu",)
        base = args.base or args.out / "server"
        server = ComfyServer(base, flags=flags, only_ours=args.base is None)
    try:
        with server:
            yield server
    except RuntimeError as error:  # it did not start, or it ended
        raise SystemExit(str(error)) from error
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise SystemExit(
            f"The ComfyUI at {server.url} does not answer ({error}); start it, and go on with the "
            "same command."
        ) from error


def run(args: argparse.Namespace, server: ComfyServer | None = None) -> None:
    """The whole suite. server: one that already runs, instead of --server."""
    methods = list(dict.fromkeys([PLAIN, *args.methods]))
    cfgpp = args.cfg / CFGPP_RATIO if args.cfgpp_scale is None else args.cfgpp_scale
    setting = Setting(args.checkpoint, args.steps, args.cfg, args.sampler, args.scheduler,
                      args.size, cfgpp, args.strength)  # fmt: skip
    prompts = {name: read_set(args.asyndm, name)[: args.prompts or None] for name in args.sets}
    args.out.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(server) if server else reached(args) as server:
        info = server.get("/object_info")
        known = choices(info, "CheckpointLoaderSimple", "ckpt_name")
        if args.checkpoint != DEMO and args.checkpoint not in known:
            raise SystemExit(
                f"--checkpoint is {args.checkpoint}, which the server does not have; it has: "
                f"{', '.join(known) or 'none'}, and {DEMO}."
            )
        chosen = {method: choose(method, info, args.sampler) for method in methods}
        without = {m: way for m, way in chosen.items() if isinstance(way, str)}
        ways = {m: way for m, way in chosen.items() if m not in without}
        seeds, turns = range(args.seed, args.seed + args.images), list(ways)
        # the first of a prompt also encodes it: the methods take turns
        jobs = [
            Job(name, i, prompt, seed, turns[(i + seed + k) % len(turns)])
            for name, some in prompts.items()
            for i, prompt in enumerate(some)
            for seed in seeds
            for k in range(len(turns))
        ]
        without |= make_images(server, jobs, ways, setting, args.out)
    methods = [m for m in methods if m not in without]
    jobs = [job for job in jobs if job.method in methods]
    wanted = scores.metrics(args, args.checkpoint == DEMO)
    try:
        rows, unmeasured = score_images(jobs, wanted, args.out, args.batch)
    except RewardError as error:
        raise SystemExit(str(error)) from error
    sampling = (
        f"{args.checkpoint}, {args.steps} steps, {args.sampler} / {args.scheduler}, cfg "
        f"{args.cfg:g} (CFG++ {cfgpp:g}), AsynDM strength "
        f"{'of the set' if args.strength is None else args.strength}, seeds {seeds[0]} to "
        f"{seeds[-1]}. ± is one standard error over images; differences are paired by prompt and "
        "seed. s / image is the median time of the whole graph."
    )
    listed = [f"- {m}: left out, {why}" for m, why in {**without, **unmeasured}.items()]
    listed += [f"- {m}: nodes of {ways[m].source}" for m in methods if m != PLAIN]
    notes = [frame.made_by(frame.command("asyndm_suite")), sampling, "\n".join(listed)]
    names = [m.name for m in wanted if m.name not in unmeasured]
    write_results(args.out, rows, methods, names, notes)
    write_grids(args.out, rows, methods, args.grid)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = frame.parser(__doc__)
    add = parser.add_argument
    add("--asyndm", type=Path, required=True, help="checkout of hu-zijing/AsynDM")
    add("--checkpoint", required=True, help="name in the server's list, or demo")
    add("--server", help="URL of a running ComfyUI; default: start one")
    add("--base", type=Path, help="base directory (models, custom_nodes) of the one to start")
    add("--sets", nargs="+", default=list(SETS), help="names in config/prompt")
    add("--prompts", type=int, default=0, help="first prompts of a set; 0 = all")
    add("--images", type=int, default=8, help="images a prompt; the paper: 32")
    add("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add("--steps", type=int, default=50)
    add("--cfg", type=float, default=5.0)
    add("--sampler", default="ddim", choices=SAMPLERS, help="euler_ancestral: the paper's eta 1")
    add("--scheduler", default="ddim_uniform", help="demo: simple")
    add("--size", type=int, default=512, help="pixels a side; demo: always 128")
    add("--seed", type=int, default=1234, help="of the first image of every prompt")
    add("--strength", type=float, help="of AsynDM; default: the item_k of each prompt")
    add("--cfgpp_scale", type=float, help="guidance of CFG++; default: cfg / 12.5")
    add("--rewards", nargs="*", help="of training/rewards; default: clip image_reward, or scene")
    add("--clip_model", help="folder or hub id; default: openai/clip-vit-large-patch14")
    add("--image_reward_path", help="ImageReward.pt; default: the hub's")
    add("--image_reward_tokenizer", help="folder or hub id of bert-base-uncased")
    add("--caption_model", help="folder of Qwen2.5-VL: BERTScore of its captions")
    add("--bert_model", default="FacebookAI/roberta-large", help="folder or hub id for BERTScore")
    add("--bert_layer", type=int, default=17, help="layer of --bert_model")
    add("--judge_model", help="folder of a Qwen-VL: its grade from 0 to 10")
    add("--batch", type=int, default=16, help="images scored at a time")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    add("--grid", type=int, default=8, help="prompts in a set's grid")
    frame.folder_option(parser, "images, scores and tables")
    args = parser.parse_args(arguments)
    if args.rewards is None:
        args.rewards = ["scene"] if args.checkpoint == DEMO else ["clip", "image_reward"]
    if min(args.images, args.grid) < 1:
        parser.error("--images and --grid start at 1")
    return args


def main() -> None:
    run(parse())


if __name__ == "__main__":
    main()
