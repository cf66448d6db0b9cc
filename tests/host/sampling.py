"""Sampling in this process through ComfyUI's own entry point, with the network's calls written
down.
"""

from __future__ import annotations

import torch

import comfy.sample
from comfy.patcher_extension import WrappersMP

# Shares by which `shaken` makes values wrong: ten times what float32 leaves open. A forward pass,
# summed in another order, differs by 1e-6; a time or a sigma has the rounding of one number.
LATENTS, TIMES = 1e-5, 1e-6


def shaken(values: torch.Tensor, share: float, seed: int = 1) -> torch.Tensor:
    """Every value wrong by this share, at random. What that does to a result is a tolerance that
    holds on every processor: the networks here hear times of up to 1000, of whose sinusoids float32
    has only 6e-5, and some make 400 times as much of a wrong sigma.
    """
    rng = torch.Generator().manual_seed(seed)
    return values * (1 + share * torch.randn(values.shape, generator=rng))


def sample(
    family,
    model=None,
    sampler="euler",
    steps=3,
    cfg=3.0,
    batch=2,
    seed=5,
    scheduler="simple",
    **more,
):
    """(latents, timesteps that the network received [(chunks * B,), ...]) for a family's tiny
    model.
    """
    stock, positive, negative, empty = family
    model = (model or stock).clone()
    latent = more.pop("latent", empty.repeat(batch, *[1] * (empty.ndim - 1)))
    positive, negative = more.pop("positive", positive), more.pop("negative", negative)
    noise = more.pop("noise", None)
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, seed)
    calls = []

    def watch(network, args):
        calls.append(args[1].detach().clone())

    handle = model.model.diffusion_model.register_forward_pre_hook(watch)
    try:
        out = comfy.sample.sample(
            model, noise, steps, cfg, sampler, scheduler, positive, negative, latent,
            seed=seed, disable_pbar=True, **more,
        )  # fmt: skip
    finally:
        handle.remove()
    return out, calls


def sample_sigmas(
    family, model, sigmas: torch.Tensor, sampler="euler", cfg=3.0, latent=None, noise=None, seed=5
):
    """The custom-sampler path: an explicit schedule, as SamplerCustomAdvanced runs it."""
    import comfy.samplers

    _, positive, negative, empty = family
    latent = empty.repeat(2, 1, 1, 1) if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, seed) if noise is None else noise
    return comfy.sample.sample_custom(
        model, noise, cfg, comfy.samplers.sampler_object(sampler), sigmas, positive, negative,
        latent,
        disable_pbar=True, seed=seed,
    )  # fmt: skip


def add_wrapper(model, wrapper_type: str, wrapper):
    """A clone of the model with another pack's wrapper on it."""
    clone = model.clone()
    clone.add_wrapper_with_key(getattr(WrappersMP, wrapper_type), "another_pack", wrapper)
    return clone


class PerSample:
    """A policy with another deviation for every image of the batch."""

    label, learned, policy, needs_schedule = "per sample", False, None, False

    def __init__(self, pack, values):
        self.decision, self.values = pack("tpm.policies").Decision, torch.tensor(values)

    def decide(self, state):
        zero = torch.zeros_like(self.values)
        return self.decision(self.values, zero, zero + 1)
