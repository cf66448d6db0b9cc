"""The laboratory's own Euler loop, with the network's time apart from the sampler's.

    noise, sigmas = backbone.noise(seeds), simple_sigmas(4)
    latents = euler(backbone, captions, noise, sigmas, guidance=3, deviation=0.5)
    images = backbone.vae.decode(latents)

It shares tpm.conditioning with the nodes, so that what is measured here is what a user runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...tpm.conditioning import FLOW_TIME_MIN, PERCENT_UNIT, conditioning_time
from .backbone import TinyBackbone


def _per_step(value: float | torch.Tensor, batch: int, steps: int) -> torch.Tensor:
    """A number, (B,) or (B, K) as (B, K). Raises ValueError on another shape."""
    value = torch.as_tensor(value, dtype=torch.float32)
    if value.ndim == 1:
        value = value[:, None]
    try:
        return value.expand(batch, steps)
    except RuntimeError:
        raise ValueError(
            f"Expected one value, one a sample ({batch},) or one a sample and step "
            f"({batch}, {steps}), not {tuple(value.shape)}."
        ) from None


@torch.inference_mode()
def euler(
    backbone: TinyBackbone,
    captions: list[str],
    noise: torch.Tensor,
    sigmas: torch.Tensor,
    guidance: float,
    deviation: float | torch.Tensor = 0.0,
    omega: float | torch.Tensor = 1.0,
    lying: bool = False,
    percent: float | torch.Tensor = 0.0,
    bf16: bool = False,
) -> torch.Tensor:
    """Flow Euler from `noise` (B, 16, h, w) down `sigmas` (K + 1,), 1 to 0; float32 latents.

    Step k evaluates v at t*_0 = t_0, t*_k = t_k + D_k (t_k - t_{k-1}) >= 1e-3 (Eq. 6) and
    integrates with its own times: x += omega_k (sigma_{k+1} - sigma_k) v, omega = 1 on the last
    step (Eq. 19). `deviation`, `omega` and `percent` (t* = t (1 - percent * 10 %)) are numbers,
    (B,) or (B, K); their first step has no t* of its own.

    `lying` is Detail Daemon's operator instead, for comparison: the whole model call is made at
    sigma* = t*, so that denoised = x - t* v, and the sampler's derivative (x - denoised) / t is
    v t* / t; `omega` does nothing there. Raises ValueError on a value of another shape.
    """
    b, steps = len(noise), len(sigmas) - 1
    d, w, cut = (_per_step(value, b, steps) for value in (deviation, omega, percent))
    x = noise.float() * sigmas[0]
    for k in range(steps):
        t = sigmas[k].expand(b)
        t_star = t
        if k > 0:
            share = PERCENT_UNIT * cut[:, k]
            t_star = conditioning_time(t, sigmas[k - 1], d[:, k], cut=share * t, low=FLOW_TIME_MIN)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # the network alone
            v = backbone.velocity(x, t_star, captions, guidance).float()
        scale = t_star / t if lying else w[:, k] if k < steps - 1 else torch.ones(b)
        x = x + (sigmas[k + 1] - sigmas[k]) * scale[:, None, None, None] * v
    return x


def generate(
    backbone: TinyBackbone,
    captions: list[str],
    seeds: list[int],
    sigmas: torch.Tensor,
    guidance: float,
    batch: int = 64,
    progress: Callable[[int], None] | None = None,
    **method,
) -> torch.Tensor:
    """Images (B, 3, 64, 64) in [0, 1] by `euler(..., **method)`, one seed a caption.

    `batch` of them at a time; `progress` is called with the number of images just finished. Tensors
    in `method` are split with the batch.
    """
    images = []
    for i in range(0, len(captions), batch):
        part = captions[i : i + batch]
        noise = backbone.noise(seeds[i : i + batch])
        own = {
            name: value[i : i + batch] if isinstance(value, torch.Tensor) and value.ndim else value
            for name, value in method.items()
        }
        latents = euler(backbone, part, noise, sigmas, guidance, **own)
        images.append(backbone.vae.decode(latents))
        if progress:
            progress(len(part))
    return torch.cat(images)
