"""Does the trainer find a known optimum? The backbone's clock is wrong by a planted deviation.

    python bench/planted.py --plant 0.3 --seeds 0 1 2

The network of the embedded model is told f(t*) with f(t_k + D (t_k - t_{k-1})) = t_k at every grid
point, D planted: only a policy that answers D everywhere undoes it, and the reward is the distance
to the image that the right clock gives from the same noise. Prints a table, one row per seed.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from async_timestep.bench.parts import frame
from async_timestep.training.backbones import Conditioning
from async_timestep.training.backbones.tiny import TinyFlow
from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import train
from async_timestep.training.rewards import RewardSet
from async_timestep.training.run.config import Config
from async_timestep.training.run.distributed import World
from async_timestep.training.run.settings import parse


class WrongClock(TinyFlow):
    """The embedded model with a wrong clock; remembers what it was last asked to begin from."""

    def __init__(self, config: Config, plant: float):
        super().__init__(config.backbone, torch.device("cpu"))
        grid = self.sigmas(config.steps).double().numpy()
        told = grid.copy()
        told[1:-1] += plant * (grid[1:-1] - grid[:-2])
        self.told, self.true = told[::-1], grid[::-1]
        self.right = TinyFlow(config.backbone, torch.device("cpu"))
        self.noises: Tensor | None = None
        self.asked: Conditioning | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        self.asked = super().encode(prompts)
        return self.asked

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        self.noises = super().noise(generators)
        return self.noises

    def velocity(self, x: Tensor, t_star: Tensor, conditioning: Conditioning) -> Tensor:
        clock = np.interp(t_star.double().numpy(), self.told, self.true)
        return super().velocity(x, torch.from_numpy(clock).float(), conditioning)


class Closeness:
    """`close`: minus the log of the squared distance to what the right clock gives."""

    names = ("close",)

    def __init__(self, backbone: WrongClock, sigmas: Tensor):
        self.backbone, self.sigmas = backbone, sigmas

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        right = self.backbone.right
        latents = right.sample(right.encode(prompts), self.backbone.noises, self.sigmas)
        error = (right.decode(latents) - images).square().mean((1, 2, 3))
        return {"close": -torch.log(error + 1e-7)}


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--plant", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=120)
    args, rest = parser.parse_known_args()
    head = ["seed", "planted D", "found: mean D", "by step", "error", "minutes"]
    table = frame.Table(head, head=True)
    for seed in args.seeds:
        own = [f"--iterations={args.iterations}", f"--seed={seed}", "--data.validation_prompts=64"]
        config, _ = parse(["--preset=tiny", *own, "--log.validate_every=1000000", *rest])
        config.rewards.weights = {"close": 1.0}
        backbone = WrongClock(config, args.plant)
        rewards = RewardSet(
            [Closeness(backbone, backbone.sigmas(config.steps))], {"close": 1.0}, 64
        )
        parts = load_training(config, World(), backbone, rewards)
        start = time.monotonic()
        train(parts, None, False, lambda kind, record: None)
        found = parts.validation.run(World(), parts.module)
        mean, steps = found["mean_deviation"], found["deviation"]
        minutes = (time.monotonic() - start) / 60
        by_step = " ".join(f"{d:+.3f}" for d in steps)
        error = f"{abs(mean / args.plant - 1):.1%}"
        row = [seed, f"{args.plant:+.2f}", f"{mean:+.4f}", by_step, error, f"{minutes:.1f}"]
        table.add(*row)


if __name__ == "__main__":
    main()
