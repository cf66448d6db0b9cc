"""Trains the embedded UNet on the scenes of the first model. A CPU is enough.

    python training/make_tiny.py unet --out training/tiny/weights --minutes 90
    python training/make_tiny.py unet --prediction v --init training/tiny/weights --out runs/unet_v
    python training/make_tiny.py unet --out smoke --steps 300       (not by the clock)

Times are drawn as for the first model: flow times shifted by 3, as sigmas of the table. The loss is
the first model's velocity loss in terms of what the network says,

    eps:  (1 + sigma)^2 |eps - noise|^2
    v:    (1 + sigma)^2 / (1 + sigma^2) |v - (noise - sigma x0) / sqrt(1 + sigma^2)|^2

Without the first factor the layout, which is decided at high noise, hardly counts; the second is 1
at both ends, pure noise included, and 2 at most. With v one image in TERMINAL is pure noise.

Muon for attention, feed-forward and convolutions (a kernel as a matrix of out x in 9), AdamW for
the rest. Word table and autoencoder are those in training/tiny/weights. With --init a training
begins with the eps weights of another; for v the last layer is solved anew. Writes unet.safetensors
or unet_v.safetensors (fp16), a log of that name and SHA256SUMS. Killed, it goes on from its last
checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ..run.stopping import stop
from . import loop
from .backbone import WEIGHTS
from .text import TextTable
from .unet import FILES, TABLES, TinyUNet, nearest_time, new_unet
from .vae import CHANNELS, LinearVAE

TERMINAL = 16  # all sampling starts with pure noise, which is one time in 1,000 by chance
SOLVED = 8  # batches that the last layer is solved with
KERNELS = 0.3  # of the learning rate: their matrices are long, and Muon's update grows with that
SHORT = 40  # steps of warm-up where the first weights are trained ones
KEEP = 0.99  # of the average of the weights, a step: there are few steps
FORMAT = {"format": "async-timestep-tiny-unet", "layout": "diffusers UNet2DConditionModel"}
SCHEDULE = "scaled_linear 0.00085 0.012 1000"
ABOUT = {
    "eps": {**FORMAT, "prediction_type": "epsilon", "schedule": SCHEDULE},
    "v": {
        **FORMAT,
        "prediction_type": "v_prediction",
        "schedule": f"{SCHEDULE}, rescaled to zero terminal SNR",
    },
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


def noised(latents, t, rng: torch.Generator, prediction: str) -> tuple[torch.Tensor, ...]:
    """At flow times t (n,), each as the nearest sigma of the table: the network's x and index, what
    it should say, and the weight of the square of that, (n, 1, 1, 1)."""
    table = TABLES[prediction]
    last = table[-1] / (1 + table[-1])  # the flow time of pure noise
    index = nearest_time(last * t / (1 - last * t), table)
    sigma, noise = table[index][:, None, None, None], torch.randn(latents.shape, generator=rng)
    root = (1 + sigma**2).sqrt()
    x = (latents + sigma * noise) / root
    if prediction == "v":
        return x, index, (noise - sigma * latents) / root, ((1 + sigma) / root) ** 2
    return x, index, noise, (1 + sigma) ** 2


def loss_at(network, latents, tokens, t, rng, prediction: str, bf16: bool) -> torch.Tensor:
    """Mean of the weighted square of the error at flow times t (n,)."""
    x, index, wanted, weight = noised(latents, t, rng, prediction)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        said = network(x, index, encoder_hidden_states=tokens, return_dict=False)[0]
    return (weight * (said.float() - wanted).square()).mean()


@torch.no_grad()
def solve_last_layer(network: torch.nn.Module, batches: list) -> None:
    """Sets the last convolution to what comes nearest v, by weighted least squares over `batches`
    of (tokens, x, index, wanted, weight). The layers below, which said the noise, are kept."""
    last, seen = network.conv_out, []
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    left = right = 0.0
    for tokens, x, index, wanted, weight in batches:
        network(x, index, encoder_hidden_states=tokens)
        patches = torch.nn.functional.unfold(seen.pop(), 3, padding=1)  # (n, 9 in, cells)
        patches = torch.nn.functional.pad(patches, (0, 0, 0, 1), value=1.0).double()
        weighted = weight[..., 0].double() * patches
        left = left + torch.einsum("bik,bjk->ij", weighted, patches)
        right = right + torch.einsum("bik,bjk->ij", weighted, wanted.flatten(2).double())
    handle.remove()
    solution = torch.linalg.lstsq(left, right).solution.T.float()
    last.weight.copy_(solution[:, :-1].reshape(last.weight.shape))
    last.bias.copy_(solution[:, -1])


def first_weights(out: Path, plan: loop.Plan) -> dict[str, torch.Tensor]:
    """Those of the eps model in the folder plan.init; stops where there is none, or where the new
    ones would take its place."""
    if not (plan.init / "unet.safetensors").exists():
        stop("unet", f"--init {plan.init} has no unet.safetensors; give a trained model's folder.")
    if plan.prediction == "eps" and out.resolve() == plan.init.resolve():
        stop("unet", f"--out and --init are both {out}; give an --out of its own.")
    return TinyUNet(plan.init).network.state_dict()


def train(out: Path, plan: loop.Plan) -> float:
    """Trains by `plan`, into `out`. Returns the last mean loss."""
    text, vae = TextTable(WEIGHTS / "text.safetensors"), LinearVAE(WEIGHTS / "vae.safetensors")
    rng, name = torch.Generator().manual_seed(plan.seed), FILES[plan.prediction]

    def times(progress):
        t = loop.sample_times(plan.batch, rng, progress)
        if plan.prediction == "v":
            t[::TERMINAL] = 1.0
        return t

    def batch_to_solve():
        latents, tokens, _ = loop.batch_of(plan.batch, rng, text, vae)
        return tokens, *noised(latents, times(0.0), rng, plan.prediction)

    path, files = out / f"{name}.safetensors", (f"{name}_log.jsonl", f"{name}_checkpoint.pt")
    network = new_unet()
    if not plan.init:
        identity_start(network)
    elif not (out / files[1]).exists():  # which it would go on from
        network.load_state_dict(first_weights(out, plan))
        if plan.prediction == "v":
            solve_last_layer(network, [batch_to_solve() for _ in range(SOLVED)])
    matrices, kernels, rest = split_parameters(network)
    muon = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", "ns_steps": plan.ns_steps}
    optimizers = [
        torch.optim.Muon(matrices, lr=plan.lr, **muon),
        KernelMuon(kernels, lr=KERNELS * plan.lr, **muon),
        torch.optim.AdamW(rest, lr=plan.lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]

    def loss_of(forward, progress, rng):
        t = times(progress)
        latents, tokens, _ = loop.batch_of(plan.batch, rng, text, vae)
        return loss_at(forward, latents, tokens, t, rng, plan.prediction, plan.bf16)

    settings = {"keep": KEEP, "warm_up": SHORT if plan.init else 200}
    about = ABOUT[plan.prediction]
    return loop.run(network, optimizers, loss_of, plan, rng, path, about, *files, **settings)


def main() -> None:
    rates = "transformers; kernels get 0.3 of it"
    loop.command(__doc__, train, batch=64, lr=2e-3, rates=rates, more=("init", "prediction"))
