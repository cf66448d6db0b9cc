"""One sampling step with a noise level for every pixel.

x, denoised, noise: (B, C, ...). s, s_next: (B, 1, ...), s_next <= s. Written in the order of
operations of k-diffusion, so that equal levels give the scalar step's bits.
"""

from __future__ import annotations

import torch


def euler_step(x, denoised, s, s_next) -> torch.Tensor:
    """x + (x - x0) / s (s' - s): DDIM with eta 0 in variance-exploding form, and the flow's
    x + (s' - s) v."""
    d = (x - denoised) / s
    return x + d * (s_next - s)


def ancestral_levels(s, s_next, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(sigma_down, sigma_up): how far to denoise and how much noise to add (Karras et al.; for the
    official code's DDIM the same numbers, eta its `eta`; 1 is DDPM with the posterior variance).
    """
    left = (s**2 - s_next**2).clamp(min=0)  # a still pixel may differ by a rounding
    fresh = eta * (s_next**2 * left / s**2) ** 0.5
    up = torch.minimum(s_next, fresh)
    return (s_next**2 - up**2) ** 0.5, up


def ancestral_step(x, denoised, s, s_next, noise, eta: float) -> torch.Tensor:
    """Variance-exploding models (eps, v): Euler to sigma_down, then noise of sigma_up."""
    down, up = ancestral_levels(s, s_next, eta)
    d = (x - denoised) / s
    return torch.where(down == 0, denoised, x + d * (down - s) + noise * up)


def flow_ancestral_step(x, denoised, s, s_next, noise, eta: float) -> torch.Tensor:
    """Flow models: Euler beyond s', then noise that brings signal and noise back to s'.

    sigma_down = s' (1 + (s' / s - 1) eta); alpha = 1 - sigma. A pixel that does not move gets no
    noise. noise: already scaled by the model's noise scale.
    """
    down = s_next * (1 + (s_next / s - 1) * eta)
    alpha, alpha_down = 1 - s_next, 1 - down
    ratio = down / s
    moved = ratio * x + (1 - ratio) * denoised
    still = s_next == s
    safe = torch.where(still, torch.ones_like(alpha_down), alpha_down)
    renoise = (s_next**2 - down**2 * alpha**2 / safe**2).clamp(min=0) ** 0.5
    if eta > 0:
        moved = (alpha / safe) * moved + noise * renoise
    return torch.where(s_next == 0, denoised, torch.where(still, x, moved))
