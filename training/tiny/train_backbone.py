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

from pathlib import Path

import torch

from . import loop
from .backbone import new_transformer
from .scenes import render, sample_scene
from .text import TextTable, make_table
from .vae import LinearVAE, fit_vae

ABOUT = {"format": "async-timestep-tiny-transformer"}
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


def zero_gates(network: torch.nn.Module) -> torch.nn.Module:
    """The same network with modulations and output of zero: its blocks do nothing at first."""
    for block in [*network.transformer_blocks, network]:
        for name in ("norm1.linear", "norm1_context.linear", "norm_out.linear", "proj_out"):
            layer = dict(block.named_modules()).get(name)
            if layer is not None:
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    return network


def optimizers_of(network: torch.nn.Module, plan: loop.Plan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices, rest = split_parameters(network)
    muon = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", "ns_steps": plan.ns_steps}
    return [
        torch.optim.Muon(matrices, lr=plan.lr, **muon),
        torch.optim.AdamW(rest, lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]


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


def train(out: Path, plan: loop.Plan) -> float:
    """Trains by `plan`, into `out`. Returns the last mean loss."""
    rng = torch.Generator().manual_seed(plan.seed)
    if not (out / "text.safetensors").exists():
        make_table(out / "text.safetensors", rng)
        fit_vae(render([sample_scene(rng) for _ in range(2000)], rng)[0], out / "vae.safetensors")
    text, vae = TextTable(out / "text.safetensors"), LinearVAE(out / "vae.safetensors")
    network = zero_gates(new_transformer())
    optimizers = optimizers_of(network, plan)

    def loss_of(forward, progress, rng):
        t = loop.sample_times(plan.batch, rng, progress)
        batch = loop.batch_of(plan.batch, rng, text, vae)
        return flow_loss(forward, *batch, t, rng, plan.bf16)

    path, files = out / "transformer.safetensors", ("log.jsonl", "checkpoint.pt")
    return loop.run(network, optimizers, loss_of, plan, rng, path, ABOUT, *files)


def main() -> None:
    loop.command(__doc__, train, batch=128, lr=3e-3, rates="both optimizers")
