"""Trains the embedded UNet (eps prediction) on the scenes of the first model. A CPU is enough.

    python training/make_tiny.py unet --out training/tiny/weights --minutes 90
    python training/make_tiny.py unet --out smoke --steps 300       (not by the clock)

Times are drawn as for the first model: flow times shifted by 3, as sigmas of Stable Diffusion's
table. The loss is the squared error of the noise times (1 + sigma)^2, which is what the first
model's velocity loss is in terms of the noise; without it the layout, which is decided at high
noise, hardly counts. Muon for attention, feed-forward and convolutions (a kernel as a matrix of
out x in 9), AdamW for the rest. Word table and autoencoder are those in training/tiny/weights.
Writes unet.safetensors (fp16), unet_log.jsonl and SHA256SUMS. Killed, it goes on from its last
checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch

from . import loop
from .backbone import WEIGHTS
from .text import TextTable
from .unet import SIGMAS, nearest_time, new_unet
from .vae import CHANNELS, LinearVAE

LAST = float(SIGMAS[-1] / (1 + SIGMAS[-1]))  # flow time of the table's largest sigma
KERNELS = 0.3  # of the learning rate: their matrices are long, and Muon's update grows with that
KEEP = 0.99  # of the average of the weights, a step: there are few steps
ABOUT = {
    "format": "async-timestep-tiny-unet",
    "layout": "diffusers UNet2DConditionModel",
    "prediction_type": "epsilon",
    "schedule": "scaled_linear 0.00085 0.012 1000",
}


class KernelMuon(torch.optim.Muon):
    """Muon on matrices that share their memory with convolution kernels, (out, in, 3, 3) as (out,
    in 9)."""

    def __init__(self, kernels: list[torch.nn.Parameter], **settings):
        self.kernels = kernels
        super().__init__([torch.nn.Parameter(p.detach().flatten(1)) for p in kernels], **settings)

    def step(self, closure=None):
        for matrix, kernel in zip(self.param_groups[0]["params"], self.kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        return super().step(closure)


def split_parameters(network: torch.nn.Module) -> tuple[list, list, list]:
    """(matrices of the transformers, kernels, everything else)."""
    matrices, kernels, rest = [], [], []
    for name, p in network.named_parameters():
        if "transformer_blocks" in name and p.ndim == 2:
            matrices.append(p)
        elif p.ndim == 4 and name not in ("conv_in.weight", "conv_out.weight"):
            kernels.append(p)
        else:
            rest.append(p)
    return matrices, kernels, rest


def identity_start(network: torch.nn.Module) -> None:
    """Sets the network to pass its input on, which is almost the noise where the noise is high.

    The first 32 channels carry +x and -x side by side: their mean is 0, so a GroupNorm keeps x, and
    silu(z) - silu(-z) = z. Each residual branch ends in zeros, as in ADM. Without this the weighted
    loss starts at 33 and not at 1.5.
    """
    for name, layer in network.named_modules():
        if name.endswith(("conv2", "proj_out", "conv_out", "conv_in")):
            torch.nn.init.zeros_(layer.bias)
            if name != "conv_in":
                torch.nn.init.zeros_(layer.weight)
    with torch.no_grad():
        for i in range(CHANNELS):
            for row, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
                network.conv_in.weight[row] = 0
                network.conv_in.weight[row, i, 1, 1] = sign
                network.conv_out.weight[i, row, 1, 1] = sign
        last = network.up_blocks[-1].resnets[-1].conv_shortcut
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.zeros_(last.bias)
        width = last.out_channels
        last.weight[:, -width:, 0, 0] = torch.eye(width)


def noise_loss(network, latents, tokens, t, rng: torch.Generator, bf16: bool) -> torch.Tensor:
    """Mean of (1 + sigma)^2 (eps - noise)^2 at flow times t (n,), each as the nearest sigma."""
    noise = torch.randn(latents.shape, generator=rng)
    index = nearest_time(LAST * t / (1 - LAST * t))
    sigma = SIGMAS[index][:, None, None, None]
    x = (latents + sigma * noise) / (1 + sigma**2).sqrt()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        eps = network(x, index, encoder_hidden_states=tokens, return_dict=False)[0]
    return ((1 + sigma) * (eps.float() - noise)).square().mean()


def train(out: Path, plan: loop.Plan) -> float:
    """Trains by `plan`, into `out`. Returns the last mean loss."""
    text, vae = TextTable(WEIGHTS / "text.safetensors"), LinearVAE(WEIGHTS / "vae.safetensors")
    network = new_unet()
    identity_start(network)
    matrices, kernels, rest = split_parameters(network)
    muon = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", "ns_steps": plan.ns_steps}
    optimizers = [
        torch.optim.Muon(matrices, lr=plan.lr, **muon),
        KernelMuon(kernels, lr=KERNELS * plan.lr, **muon),
        torch.optim.AdamW(rest, lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]

    def loss_of(forward, progress, rng):
        t = loop.sample_times(plan.batch, rng, progress)
        latents, tokens, _ = loop.batch_of(plan.batch, rng, text, vae)
        return noise_loss(forward, latents, tokens, t, rng, plan.bf16)

    rng = torch.Generator().manual_seed(plan.seed)
    path, files = out / "unet.safetensors", ("unet_log.jsonl", "unet_checkpoint.pt")
    return loop.run(network, optimizers, loss_of, plan, rng, path, ABOUT, *files, keep=KEEP)


def main() -> None:
    loop.command(__doc__, train, batch=64, lr=2e-3, rates="transformers; kernels get 0.3 of it")
