"""Whole sampling runs of a tiny family with AsynDM or the regional hook."""

from __future__ import annotations

import numpy as np
import torch
from sampling import LATENTS, TIMES, shaken

import comfy.sample
import comfy.samplers
from comfy.model_sampling import CONST

SWAPPED = {"process_timestep", "calculate_input", "calculate_denoised", "get_modulations"}
STEPS = 4


class Runs:
    def __init__(self, family, pack):
        self.model, self.positive, self.negative, self.empty = family
        self.sampling = self.model.get_model_object("model_sampling")
        self.network = self.model.model.diffusion_model
        self.sigmas = comfy.samplers.calculate_sigmas(self.sampling, "simple", STEPS)
        self.asyndm, self.hook = pack("nodes.run.asyndm"), pack("nodes.run.hook")
        self.policies, self.region = pack("tpm.policies"), pack("nodes.run.region").Region
        self.half = torch.zeros(1, *self.empty.shape[-2:])
        self.half[..., self.empty.shape[-1] // 2 :] = 1

    def run(self, sampler, model=None, sigmas=None, cfg=3.0, noise=None, latent=None, **more):
        """Latents after one run, from which nothing may be left on the model."""
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        cfg = 1.0 if self.empty.shape[1:3] == (128, 8) else cfg  # Flux.2's 512 text tokens are slow
        latent = self.empty if latent is None else latent
        noise = comfy.sample.prepare_noise(latent, 5) if noise is None else noise
        sigmas = self.sigmas if sigmas is None else sigmas
        try:
            return comfy.sample.sample_custom(
                model or self.model, noise, cfg, sampler, sigmas, self.positive, self.negative,
                latent, disable_pbar=True, seed=5, **more,
            )  # fmt: skip
        finally:
            self.nothing_is_left()

    def close(self, run, sigmas=None, noise=None) -> float:
        """The tolerance, of the largest value, for what should be the same as run(sigmas=, noise=):
        what ten roundings of all that goes in make of it. What the tests tell apart is far larger.
        """
        sigmas = self.sigmas if sigmas is None else sigmas
        noise = comfy.sample.prepare_noise(self.empty, 5) if noise is None else noise
        others = torch.cat([sigmas[:1], shaken(sigmas[1:], TIMES)])
        right, wrong = (
            run(sigmas=sigmas, noise=noise),
            run(sigmas=others, noise=shaken(noise, LATENTS)),
        )
        found = float((wrong - right).abs().max() / right.abs().max())
        assert found < 1e-3, "the network amplifies rounding: no tolerance can be told from a fault"
        return max(found, 1e-5)

    def nothing_is_left(self) -> None:
        for module in self.model.model.modules():
            assert not module._forward_hooks and not module._forward_pre_hooks
            assert not SWAPPED & vars(module).keys() and "forward" not in vars(module)
        assert not SWAPPED & vars(self.sampling).keys()

    def sampler(self, mask, strength, name="euler", **more):
        region = self.region("all") if mask is None else self.region("mask", mask=mask)
        return self.asyndm.asyndm_sampler(region, strength, name, **more)

    def asyn(self, mask, strength, name="euler", eta=0.0, **more):
        return self.run(self.sampler(mask, strength, name, eta=eta)[0], **more)

    def attached(self, mask, deviation=0.4, **more):
        region = None if mask is None else self.region("mask", mask=mask)
        policy = self.policies.Constant(deviation)
        return self.hook.attach(self.model, policy, region=region, **more)[0]

    def lagged(self, strength: float) -> torch.Tensor:
        """sigma(i - d_i) with d' = (d + w r / L) (r - 1) / r, r = L - i, for a grid that ends at 0;
        between two nodes flow sigmas are linear, others the table's at a linear index."""
        nodes, last = self.sigmas.double().numpy(), len(self.sigmas) - 2
        lag, positions = 0.0, [0.0]
        for i in range(last):
            r = last - i
            lag = (lag + strength * r / last) * (r - 1) / r
            positions.append(i + 1 - lag)
        at, whole = np.array(positions), np.arange(last + 1)
        if isinstance(self.sampling, CONST):
            levels = np.interp(at, whole, nodes[:-1])
        else:
            table = self.sampling.log_sigmas.double().numpy()
            index = np.interp(np.log(nodes[:-1]), table, np.arange(len(table)))
            levels = np.exp(np.interp(np.interp(at, whole, index), np.arange(len(table)), table))
        return torch.from_numpy(np.append(levels, 0.0)).float()
