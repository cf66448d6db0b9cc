"""Trains the embedded text-to-image model on rendered, captioned scenes. CPU is enough.

    python training/make_tiny.py backbone --out training/tiny/weights --minutes 90
    python training/make_tiny.py backbone --out smoke --steps 300   (not by the clock)

Rectified flow: x_t = (1 - t) x0 + t noise, the network predicts v = noise - x0. The time is
uniform, then shifted by 3 (without the shift the layout is not learnt); after a third of the
time half of each batch is left unshifted, for the small shapes. Rows of three are shown more
often than they are tested, because they are the hardest. Muon for the matrices of the blocks,
AdamW for the rest, warm-up, linear decay over the last two fifths of the time, a moving average
of the weights. Writes text.safetensors, vae.safetensors, transformer.safetensors (fp16),
log.jsonl and SHA256SUMS. Killed, it goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import save_file

from ..run.atomic import whole_file
from .backbone import new_transformer, shifted
from .scenes import render, sample_scene
from .text import TextTable, make_table
from .vae import LinearVAE, fit_vae

KIND_WEIGHTS = (0.05, 0.1, 0.25, 0.1, 0.5)  # single, pair, count, group, chain
MATRICES = (
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "ff",
    "norm1",
)


def split_parameters(network: torch.nn.Module) -> tuple[list, list]:
    """(matrices of the blocks, everything else), for Muon and AdamW."""
    matrices, rest = [], []
    for name, p in network.named_parameters():
        inside = (
            "transformer_blocks" in name and p.ndim == 2 and any(part in name for part in MATRICES)
        )
        (matrices if inside else rest).append(p)
    return matrices, rest


def learning_rate(progress: float, step: int) -> float:
    """Multiplier: 200 steps of warm-up, flat, linear to 2 % over the last 40 % of the time."""
    return min(1.0, (step + 1) / 200) * min(1.0, max(0.02, (1 - progress) / 0.4))


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


def sample_times(n: int, rng: torch.Generator, shifted_share: float) -> torch.Tensor:
    """Stratified flow times (n,) in [0, 1], a share of them shifted by 3."""
    t = (torch.randperm(n, generator=rng) + torch.rand(n, generator=rng)) / n
    return torch.where(torch.rand(n, generator=rng) < shifted_share, shifted(t), t)


def flow_loss(
    network, latents, tokens, pooled, t, rng: torch.Generator, bf16: bool
) -> torch.Tensor:
    """Mean squared error of the velocity at times t (n,)."""
    noise = torch.randn(latents.shape, generator=rng)
    x = torch.lerp(latents, noise, t[:, None, None, None])
    with torch.autocast(
        "cpu", torch.bfloat16, enabled=bf16
    ):  # the network alone: the targets stay float32
        v = network(
            x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=1000 * t,
            return_dict=False,
        )[0]
    return (v.float() - (noise - latents)).square().mean()


def export(network: torch.nn.Module, out: Path, metadata: dict[str, str]) -> None:
    """Writes the fp16 file that ComfyUI and TinyBackbone read, and the hashes of all files;
    atomically.
    """
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    about = {"format": "async-timestep-tiny-transformer", **metadata}
    with whole_file(out / "transformer.safetensors") as temporary:
        save_file(tensors, temporary, metadata=about)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"
        for path in sorted(out.glob("*.safetensors"))
    ]
    (out / "SHA256SUMS").write_text("\n".join(lines) + "\n")


def train(
    out: Path,
    minutes: float,
    steps: int = 0,
    batch: int = 128,
    lr: float = 3e-3,
    seed: int = 7,
    bf16: bool = True,
    compiled: bool = False,
    save_seconds: float = 120,
    log_steps: int = 25,
    ns_steps: int = 5,
) -> float:
    """Trains for `minutes` of wall time in all (earlier parts of an interrupted run count), or for
    `steps` where that is not 0. Returns the last mean loss.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    if not (out / "text.safetensors").exists():
        make_table(out / "text.safetensors", rng)
        fit_vae(render([sample_scene(rng) for _ in range(2000)], rng)[0], out / "vae.safetensors")
    text, vae = TextTable(out / "text.safetensors"), LinearVAE(out / "vae.safetensors")
    network = new_transformer()
    for block in [*network.transformer_blocks, network]:
        for name in ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out"):
            layer = dict(block.named_modules()).get(name)
            if layer is not None:
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    average = copy.deepcopy(network).requires_grad_(False)
    matrices, rest = split_parameters(network)
    optimizers = [
        torch.optim.Muon(
            matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_steps=ns_steps
        ),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]
    step, spent, saved = 0, 0.0, out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        rng.set_state(state["rng"])
        step, spent = state["step"], state["spent"]
    forward = torch.compile(network) if compiled else network
    start, last, losses = time.monotonic() - spent, time.monotonic(), []
    while True:
        spent = time.monotonic() - start
        progress = step / steps if steps else spent / (minutes * 60)
        if progress >= 1:
            break
        factor = learning_rate(progress, step)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr * factor
        t = sample_times(batch, rng, shifted_share=1.0 if progress < 1 / 3 else 0.5)
        loss = flow_loss(forward, *batch_of(batch, rng, text, vae), t, rng, bf16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        decay = min(0.998, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
        losses.append(float(loss.detach()))
        step += 1
        if step % log_steps == 0:
            line = {
                "step": step,
                "images": step * batch,
                "minutes": round(spent / 60, 2),
                "lr": lr * factor,
                "loss": round(mean(losses[-log_steps:]), 5),
            }
            print(json.dumps(line), flush=True)
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
        if step % log_steps == 0 and time.monotonic() - last > save_seconds:
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
            export(average, out, {"steps": str(step), "seed": str(seed)})
    export(
        average,
        out,
        {
            "steps": str(step),
            "images": str(step * batch),
            "minutes": f"{spent / 60:.3g}",
            "seed": str(seed),
        },
    )
    saved.unlink(missing_ok=True)
    return mean(losses[-log_steps:]) if losses else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the weights and the log"
    )
    parser.add_argument("--minutes", type=float, default=90, help="wall time to train for")
    parser.add_argument("--steps", type=int, default=0, help="train for these, and not for a time")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument(
        "--lr", type=float, default=3e-3, help="peak learning rate (both optimizers)"
    )
    parser.add_argument(
        "--seed", type=int, default=7, help="seed of data, noise and initial weights"
    )
    parser.add_argument("--no_bf16", action="store_true", help="train in float32")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile the network (needs a C++ compiler)"
    )
    parser.add_argument(
        "--save_seconds",
        type=float,
        default=120,
        help="between checkpoints",
    )
    parser.add_argument(
        "--log_steps",
        type=int,
        default=25,
        help="between lines of the log; each may be a checkpoint",
    )
    parser.add_argument(
        "--ns_steps",
        type=int,
        default=5,
        help="Newton-Schulz steps of Muon: bfloat16, slow on a CPU without it",
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    loss = train(
        args.out,
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
    )
    print(f"Done: last loss {loss:.4f}; weights in {args.out}.")
