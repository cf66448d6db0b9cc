"""What the laboratories share: held-out scenes, their noises, their judges, and paired columns.

    laboratory = load(args, ("reward", "iou"), report)
    base = laboratory.whole("scenes", 4, None)
    scores = laboratory.whole("scenes", 4, Constant(0.5))
    compared(scores, base, ("reward", "iou"))  # {"reward": ..., "reward_d": ..., "reward_se": ...}

The metrics are those of training/rewards under the judge's own words.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from async_timestep.bench.parts import frame
from async_timestep.training.data.prompts import PromptList
from async_timestep.training.evaluation.paired import PairedMeasurement, load_models, set_up
from async_timestep.training.evaluation.statistics import mean_error
from async_timestep.training.pictures import scenes as drawn
from async_timestep.training.pictures.grounds import GROUNDS
from async_timestep.training.pictures.score import score_images as score_pictures
from async_timestep.training.rewards import RewardSet
from async_timestep.training.rewards.noise import NoiseReward
from async_timestep.training.rewards.scene import SceneReward, ScorerReward
from async_timestep.training.run.config import BackboneConfig, Config, DataConfig
from async_timestep.training.run.console import Report
from async_timestep.training.run.distributed import World
from async_timestep.training.tiny import scenes as shapes
from async_timestep.training.tiny.backbone import WEIGHTS

MODELS = {  # the words of the node
    "transformer": "transformer (flow)",
    "unet": "unet (eps)",
    "unet_v": "unet (v, zero terminal SNR)",
    "pictures": "pictures (flow)",
}
PICTURES = Path(drawn.__file__).parent / "weights"
OF_SHAPES = ("transformer", "unet", "unet_v")  # they draw the same scenes
Scene = shapes.Scene | drawn.Scene
METRICS = {"reward": "scene", "scorer": "scorer", "noise": "noise"}  # others: a part of the judge


def add_options(
    parser: argparse.ArgumentParser, methods: Sequence[str], steps: list[int], threads: int
) -> None:
    add = parser.add_argument
    add("--n", type=int, default=512, help="prompts, as many of each background")
    add("--steps", type=int, nargs="+", default=steps, help="numbers of Euler steps")
    add("--guidance", type=float, default=3.0, help="classifier-free guidance")
    add("--methods", nargs="+", default=[*methods], choices=[*methods], help="default: all")
    add("--seed", type=int, default=2024, help="seed of prompts and noises")
    add("--batch", type=int, default=64, help="images at a time")
    frame.threads_option(parser, threads)
    add("--bf16", action="store_true", help="faster where the CPU has it; changes the numbers")


def setting(args: argparse.Namespace) -> str:
    """What changes a number, beside the method and its steps."""
    precision = "bf16" if args.bf16 else "fp32"
    return f"n {args.n}, guidance {args.guidance:g}, seed {args.seed}, {precision}"


def draws_pictures(args: argparse.Namespace) -> bool:
    return getattr(args, "model", "") == "pictures"


def backgrounds(args: argparse.Namespace) -> tuple[str, ...]:
    """Of the scenes of the model that is sampled."""
    return tuple(GROUNDS) if draws_pictures(args) else shapes.TEXTURES


def background(scene: Scene) -> str:
    return scene.ground if isinstance(scene, drawn.Scene) else scene.texture


def scenes(args: argparse.Namespace) -> list[Scene]:
    """The held-out scenes of a run, of some of the kinds where it has `kinds`."""
    world = drawn if draws_pictures(args) else shapes
    chosen = getattr(args, "kinds", world.KINDS)
    every = zip(world.KINDS, world.KIND_WEIGHTS, strict=True)
    weights = tuple(weight * (kind in chosen) for kind, weight in every)
    return world.held_out_scenes(args.n, args.seed, weights=weights)


class Laboratory(PairedMeasurement):
    """The trainer's measurement on the laboratory's own prompts and noises."""

    def generators(self, split: str, rows: Sequence[int]) -> list[torch.Generator]:
        seed = self.config.data.seed
        return [torch.Generator().manual_seed(seed * 100_000 + i) for i in rows]


def load(
    args: argparse.Namespace,
    columns: Sequence[str],
    report: Report,
    weights: Path = WEIGHTS,
    scorer: Path | None = None,
    workflow: Path | None = None,
) -> Laboratory:
    """The model, the judges of these columns and the prompts, which are the split "scenes".
    workflow: the file of one that ComfyUI samples in the model's place."""
    names = [metric(column) for column in columns]
    own = tuple(name for name in names if name.startswith("scene"))
    if draws_pictures(args):
        judges = [SceneReward(own, score_pictures), NoiseReward()]
    else:
        scores = ScorerReward(scorer or weights / "scorer.safetensors")
        judges = [SceneReward(own), scores, NoiseReward()]
    model = BackboneConfig(
        path=str(weights), precision="bf16" if args.bf16 else "fp32", guidance=args.guidance
    )
    if workflow:  # its guidance and its precision are its own
        model = BackboneConfig(name="workflow", workflow=str(workflow), batch=args.batch)
    config = Config(model, data=DataConfig(seed=args.seed), device="cpu", threads=args.threads)
    config, device = set_up(config, World())
    rewards = RewardSet(judges, dict.fromkeys(names, 1.0), args.batch)
    told = [(scene.caption, background(scene)) for scene in scenes(args)]
    prompts = PromptList(*zip(*told, strict=True), "held-out combinations")
    models = load_models(config, device, rewards=rewards)
    return Laboratory(config, *models, {"scenes": prompts}, report)


def metric(column: str) -> str:
    """The name of a column in training/rewards."""
    return METRICS.get(column, f"scene_{column}")


def columns(names: Sequence[str]) -> list[str]:
    """The columns of `compared`."""
    return [name + part for name in names for part in ("", "_d", "_se")]


def compared(
    scores: dict[str, Tensor], base: dict[str, Tensor], names: Sequence[str], rows=slice(None)
) -> dict[str, float]:
    """Mean, paired difference to `base` and its standard error of every column, over some of the
    images."""
    found = []
    for name in names:
        value, level = (each[metric(name)][rows] for each in (scores, base))
        found += [float(value.mean()), *mean_error(value - level)]
    return dict(zip(columns(names), found, strict=True))


def difference(row: dict, name: str, digits: int = 3) -> str:
    """A paired difference and its standard error, as text."""
    return f"{row[name + '_d']:+.{digits}f} ± {row[name + '_se']:.{digits}f}"
