"""Our AsynDM on the official code's grid: 1001, 981, ..., 21, 1, whose first interval is not
evaluated, then 0; every pixel's level rounded to whole timesteps, and the official run's noises.

    ours = sampled(patcher, region, theirs, prompts, steps=10, eta=0.0, guidance=5.0)
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch

from async_timestep.harness.in_process import pack


class VirtualStart:
    """The model without its first evaluation: x stays, as official states move once before it."""

    def __init__(self, model):
        self.inner_model, self.model, self.began = model.inner_model, model, False

    def __call__(self, x, sigma, **extra_args):
        if self.began:
            return self.model(x, sigma, **extra_args)
        self.began = True
        return x


@dataclass
class Ours:
    """levels: (B, 1, h, w) of sigma at every node after the first; x, denoised: of every evaluation
    (the first is the virtual one); masks: (B, h, w) of every evaluation; last: the latents."""

    levels: list
    x: list
    denoised: list
    masks: list
    last: torch.Tensor
    space: object

    def at_zero(self, fresh: torch.Tensor, eta: float) -> torch.Tensor:
        """The latents at the official end, t = 0, which has a sigma: from the last evaluation, in
        the scale of the official code."""
        end = self.space.inverse(torch.zeros(1, dtype=torch.float64)).float().expand(1, 1, 1, 1)
        step = pack("asyndm.steps").ancestral_step
        final = step(self.x[-1], self.denoised[-1], self.levels[-2], end, fresh, eta)
        return final / (1 + end**2) ** 0.5


def sampled(patcher, region, theirs, prompts, steps: int, eta: float, guidance: float) -> Ours:
    """The run beside `theirs`. prompts: (positive, negative) as ComfyUI has them."""
    import comfy.sample
    import comfy.samplers

    nodes, sigmas_of = pack("nodes.run.asyndm"), pack("asyndm.sigmas")
    sampler, trace = nodes.asyndm_sampler(region, 0.5, "ddim", eta)
    space = pack("nodes.run.times").ModelTime(patcher.get_model_object("model_sampling")).space
    nodes_t = torch.linspace(1001, 1, steps + 1, dtype=torch.float64)
    grid = torch.cat([space.inverse(nodes_t).float(), torch.zeros(1)])
    rounded = sigmas_of.Space(space.forward, lambda t: space.inverse(t.round().clamp(max=999)))
    fresh = [torch.zeros_like(theirs.noise)] + [f.clone() for f in theirs.fresh[-steps:]]
    levels, mine, denoised = [], [], []

    def sigma_at(sigmas, position, _):
        levels.append(sigmas_of.sigma_at(sigmas, position, rounded))
        return levels[-1]

    def collect(step):
        mine.append(step["x"])
        denoised.append(step["denoised"])

    def start(model, x, sigmas, extra_args=None, callback=None, disable=None):
        first = torch.full((1, 1, 1, 1), float(theirs.t[0].float().mean()), dtype=torch.float64)
        x = theirs.noise * (1 + space.inverse(first).float() ** 2) ** 0.5
        return sampler.sampler_function(
            VirtualStart(model), x, sigmas, extra_args, lambda step: collect(step), disable
        )

    with contextlib.ExitStack() as stack:
        for owner, name, value in (
            (nodes, "sigma_at", sigma_at),
            (
                nodes.k_diffusion,
                "default_noise_sampler",
                lambda x, seed=None: lambda s, s_next: fresh.pop(0),
            ),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        last = comfy.sample.sample_custom(
            patcher, theirs.noise, guidance, comfy.samplers.KSAMPLER(start), grid, *prompts,
            torch.zeros_like(theirs.noise), disable_pbar=True, seed=1,
        )  # fmt: skip
    last = patcher.model.process_latent_in(last)
    return Ours(levels, mine, denoised, trace.runs[-1].masks, last, space)
