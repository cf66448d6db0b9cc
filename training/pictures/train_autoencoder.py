"""Trains the autoencoder of the pictures. A CPU is enough.

    python training/make_pictures.py autoencoder --out runs/pictures --minutes 15 --threads 1

L1 on cuts of rendered pictures, and the strength of the finest detail in every 8 x 8 patch, so that
a texture that cannot be kept is at least as strong as it was. A tenth of noise is added to the
latents. Writes vae.safetensors (fp16), vae_log.jsonl and SHA256SUMS. Killed, it goes on from its
last checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ..tiny import loop
from .autoencoder import CHANNELS, FORMAT, PATCH, AutoencoderNetwork, start_from_pca
from .scenes import SIZE, render, sample_scene

CUT = 64  # pixels; an image gives one
NOISE = 0.1  # in the latents, share of their standard deviation
DETAIL_WEIGHT = 0.5


def detail(images: torch.Tensor) -> torch.Tensor:
    """Strength (B, 3, H/8, W/8) of what a blur of 5 pixels takes away."""
    fine = images - F.avg_pool2d(images, 5, 1, 2, count_include_pad=False)
    return (F.avg_pool2d(fine.square(), PATCH) + 1e-5).sqrt()


def cuts(size: int, rng: torch.Generator) -> torch.Tensor:
    """(size, 3, CUT, CUT) in [-1, 1], from as many new pictures."""
    images = render([sample_scene(rng) for _ in range(size)], rng, with_masks=False)[0]
    corners = PATCH * torch.randint((SIZE - CUT) // PATCH + 1, (size, 2), generator=rng)
    parts = [
        image[:, y : y + CUT, x : x + CUT]
        for image, (y, x) in zip(images, corners.tolist(), strict=True)
    ]
    return torch.stack(parts) * 2 - 1


@torch.no_grad()
def normalise(network: AutoencoderNetwork, rng: torch.Generator, n: int = 512) -> None:
    """Measures the latents of `n` pictures: mean 0 a channel and unit variance over all from now
    on."""
    images = render([sample_scene(rng) for _ in range(n)], rng, with_masks=False)[0]
    z = torch.cat([network.encode(part * 2 - 1) for part in images.split(32)])
    network.shift.copy_(z.mean((0, 2, 3)))
    network.scale.fill_(float((z - network.shift[:, None, None]).square().mean().sqrt()))


def train(out: Path, plan: loop.Plan) -> float:
    """Trains by `plan`, into `out`. Returns the last mean loss."""
    rng = torch.Generator().manual_seed(plan.seed)
    network, about = AutoencoderNetwork(), {"format": FORMAT}
    explained = start_from_pca(
        network, render([sample_scene(rng) for _ in range(300)], rng, with_masks=False)[0]
    )
    print(f"The linear part alone explains {explained:.4f} of the variance.", flush=True)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), plan.lr, (0.9, 0.99), weight_decay=0.0)

    def loss_of(forward, progress, rng):
        x = cuts(plan.batch, rng).to(memory_format=torch.channels_last)
        side = CUT // PATCH
        noise = torch.randn(plan.batch, CHANNELS, side, side, generator=rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.bf16):
            y = forward(x, noise, NOISE)
        y = y.float()
        return (y - x).abs().mean() + DETAIL_WEIGHT * (detail(y) - detail(x)).abs().mean()

    path = out / "vae.safetensors"
    files = ("vae_log.jsonl", "vae_checkpoint.pt")
    loss = loop.run(network, [optimizer], loss_of, plan, rng, path, about, *files)
    network.load_state_dict(load_file(path))
    normalise(network, torch.Generator().manual_seed(plan.seed + 1))
    loop.export(network, path, about)
    return loss


def main() -> None:
    loop.command(__doc__, train, batch=32, lr=2e-3, rates="AdamW")
