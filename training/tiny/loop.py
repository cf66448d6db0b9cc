"""What training the embedded models has in common: batches of captioned scenes, the times, the
learning rate, a moving average of the weights, a log, and checkpoints that a killed run goes on
from. Several processes may share each batch: every one takes its part of it with random numbers of
its own, and all take the mean of the gradients.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from ..run.atomic import whole_file
from .backbone import shifted
from .scenes import render, sample_scene
from .text import TextTable
from .vae import LinearVAE

MORE = {  # the fields of a Plan that not every training reads -> how they are said
    "processes": {"type": int, "help": "that share each batch"},
    "layers": {"type": int, "help": "layers and heads of the transformer, 64 channels a head"},
    "init": {"type": Path, "help": "folder of a model to begin with, and not with new weights"},
    "prediction": {"choices": ["eps", "v"], "help": "what is predicted, and on which sigmas"},
}
KIND_WEIGHTS = (0.05, 0.1, 0.25, 0.1, 0.5)  # single, pair, count, group, chain


@dataclass(frozen=True)
class Plan:
    """How long and how fast. For `steps` where that is not 0, else for `minutes` of wall time in
    all (earlier parts of an interrupted run count)."""

    minutes: float
    steps: int = 0
    batch: int = 128
    lr: float = 3e-3
    seed: int = 7
    bf16: bool = True
    compiled: bool = False
    save_seconds: float = 120
    log_steps: int = 25
    ns_steps: int = 5
    processes: int = 1
    layers: int = 3  # of a transformer
    init: Path | None = None  # folder of the model whose weights are the first
    prediction: str = "eps"  # of a UNet: eps or v

    @property
    def share(self) -> int:
        """Images of a step that each process takes."""
        return self.batch // self.processes


def learning_rate(progress: float, step: int, warm_up: int) -> float:
    """Multiplier: steps of warm-up, flat, linear to 2 % over the last 40 % of the time."""
    return min(1.0, (step + 1) / warm_up) * min(1.0, max(0.02, (1 - progress) / 0.4))


def batch_of(size: int, rng: torch.Generator, text: TextTable, vae: LinearVAE):
    """One training batch: latents, token vectors, pooled vectors; a tenth of the captions are
    empty (for CFG).
    """
    scenes = [sample_scene(rng, held_out=False, weights=KIND_WEIGHTS) for _ in range(size)]
    latents = vae.encode(render(scenes, rng)[0])
    empty = (torch.rand(size, generator=rng) < 0.1).tolist()
    tokens, pooled = text(
        ["" if drop else scene.caption for scene, drop in zip(scenes, empty, strict=True)]
    )
    return latents, tokens, pooled


def sample_times(n: int, rng: torch.Generator, progress: float) -> torch.Tensor:
    """Stratified flow times (n,) in [0, 1], shifted by 3; after a third of the training half of
    them unshifted."""
    t = (torch.randperm(n, generator=rng) + torch.rand(n, generator=rng)) / n
    shifted_share = 1.0 if progress < 1 / 3 else 0.5
    return torch.where(torch.rand(n, generator=rng) < shifted_share, shifted(t), t)


def export(network: torch.nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes the fp16 file `path`, and the hashes of all files beside it; atomically."""
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"
        for file in sorted(path.parent.glob("*.safetensors"))
    ]
    (path.parent / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def rank() -> int:
    """Which of the processes this is; the first, 0, is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def together(value: float) -> float:
    """The first process' value in all of them."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared)


def mean_gradients(network: torch.nn.Module) -> None:
    """Gives every process the mean of all their gradients, in one exchange."""
    if dist.is_initialized():
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([g.numel() for g in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        )


def run(
    network: torch.nn.Module,
    optimizers: list[torch.optim.Optimizer],
    loss_of: Callable[[torch.nn.Module, float, torch.Generator], torch.Tensor],
    plan: Plan,
    rng: torch.Generator,
    path: Path,
    about: dict[str, str],
    log: str,
    checkpoint: str,
    watch: Callable[[torch.nn.Module, int], dict] | None = None,
    watch_steps: int = 0,
    keep: float = 0.998,
    warm_up: int = 200,
) -> float:
    """Trains and writes the average of the weights to `path`, with `log` and `checkpoint` beside
    it. loss_of: (network, progress in [0, 1], rng) -> scalar; keep: of the average, a step; warm_up
    of the learning rate, in steps. watch: (average, step) -> a line of the log, every `watch_steps`
    steps and at the end. Returns the last mean loss.
    """
    average = copy.deepcopy(network).requires_grad_(False)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    step, spent, saved = 0, 0.0, path.parent / checkpoint
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        rng.set_state(state["rng"])
        step, spent = state["step"], state["spent"]
    if rank():
        rng.manual_seed(plan.seed + 1_000_003 * rank() + step)

    def tell(line: dict) -> None:
        if not rank():
            print(json.dumps(line), flush=True)
            with open(path.parent / log, "a") as file:
                file.write(json.dumps(line) + "\n")

    def look() -> None:
        if watch and not rank():
            tell({"step": step, "minutes": round(spent / 60, 2), **watch(average, step)})

    forward = torch.compile(network) if plan.compiled else network
    start, last, losses = time.monotonic() - spent, time.monotonic(), []
    while True:
        spent = together(time.monotonic() - start)
        progress = step / plan.steps if plan.steps else spent / (plan.minutes * 60)
        if progress >= 1:
            break
        factor = learning_rate(progress, step, warm_up)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * factor
        loss = loss_of(forward, progress, rng)
        loss.backward()
        mean_gradients(network)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        network.zero_grad(set_to_none=True)
        decay = min(keep, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        losses.append(float(loss.detach()))
        step += 1
        if step % plan.log_steps == 0:
            line = {
                "step": step,
                "images": step * plan.batch,
                "minutes": round(spent / 60, 2),
                "lr": plan.lr * factor,
                "loss": round(mean(losses[-plan.log_steps :]), 5),
            }
            tell(line)
        if watch_steps and step % watch_steps == 0:
            look()
        due = step % plan.log_steps == 0 and time.monotonic() - last > plan.save_seconds
        if due and not rank():
            last = time.monotonic()
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "step": step,
                "spent": spent,
                "optimizers": [o.state_dict() for o in optimizers],
                "rng": rng.get_state(),
            }
            with whole_file(saved) as temporary:
                torch.save(state, temporary)
            export(average, path, {**about, "steps": str(step), "seed": str(plan.seed)})
    end = {"steps": str(step), "images": str(step * plan.batch), "minutes": f"{spent / 60:.3g}"}
    if not rank():
        export(average, path, {**about, **end, "seed": str(plan.seed)})
        saved.unlink(missing_ok=True)
    look()
    return mean(losses[-plan.log_steps :]) if losses else math.nan


def _member(
    rank: int, store: str, train: Callable[[Path, Plan], float], out: Path, plan: Plan, threads: int
) -> None:
    """One process of a training; the first says how it ended."""
    if threads:
        torch.set_num_threads(threads)
    if plan.processes > 1:
        dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=plan.processes)
    torch.manual_seed(plan.seed)  # the same first weights in all
    loss = train(out, plan)
    if not rank:
        print(f"Done: last loss {loss:.4f}; weights in {out}.")
    if plan.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def command(
    description: str,
    train: Callable[[Path, Plan], float],
    batch: int,
    lr: float,
    rates: str,
    more: tuple[str, ...] = (),
) -> None:
    """The command line of a training script: parses, trains, says how it ended. more: names of MORE
    that `train` heeds; with `processes` it takes no more than its plan's share of a batch.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name, kind, default, text):
        parser.add_argument(name, type=kind, default=default, help=text)

    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the weights and the log"
    )
    add("--minutes", float, 90, "wall time to train for")
    add("--steps", int, 0, "train for these, and not for a time")
    add("--batch", int, batch, "images a step")
    add("--lr", float, lr, f"peak learning rate ({rates})")
    add("--seed", int, 7, "seed of data, noise and initial weights")
    parser.add_argument("--no_bf16", action="store_true", help="train in float32")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the network (needs a C++ compiler)"
    )
    add("--save_seconds", float, 120, "between checkpoints")
    add("--log_steps", int, 25, "between lines of the log; each may be a checkpoint")
    add(
        "--ns_steps",
        int,
        5,
        "Newton-Schulz steps of Muon: bfloat16, slow on a CPU without it",
    )
    add("--threads", int, 0, "CPU threads of a process; 0 = all")
    for name in more:
        parser.add_argument(f"--{name}", default=getattr(Plan, name), **MORE[name])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        args.minutes,
        args.steps,
        args.batch,
        args.lr,
        args.seed,
        not args.no_bf16,
        args.compile,
        args.save_seconds,
        args.log_steps,
        args.ns_steps,
        **{name: getattr(args, name) for name in more},
    )
    with tempfile.TemporaryDirectory() as folder:
        rest = (str(Path(folder) / "store"), train, args.out, plan, args.threads)
        if plan.processes > 1:
            torch.multiprocessing.spawn(_member, rest, plan.processes)
        else:
            _member(0, *rest)
