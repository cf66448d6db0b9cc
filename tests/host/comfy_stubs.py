"""Independent samplers and small stand-ins for other packs' parts, written without our hook."""

from __future__ import annotations

import torch

import comfy.sample


def start(family, sigmas: torch.Tensor, seed=5):
    """(BaseModel, x_0, extra model arguments) as the host's own sampler would begin, cfg 1."""
    model, positive, _, empty = family
    latent = empty.repeat(2, 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, seed)
    base = model.model
    sampling = base.model_sampling = model.get_model_object("model_sampling")
    full = float(sigmas[0]) >= float(sampling.sigma_max) - 1e-5
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), full)
    tokens, extra = positive[0]
    conds = base.extra_conds(
        cross_attn=tokens,
        pooled_output=extra.get("pooled_output"),
        noise=noise,
        device="cpu",
        latent_image=None,
        prompt_type="positive",
    )
    made = {
        name: cond.process_cond(batch_size=2, device="cpu").cond for name, cond in conds.items()
    }
    return base, x, made


def network(base, x, sigma: torch.Tensor, u: float, conds: dict) -> torch.Tensor:
    """denoised with the true sigma in input scaling and output, and u as the only time that is
    told.
    """
    sampling = base.model_sampling
    s = sigma.expand(len(x))
    inside = sampling.calculate_input(s, x)
    extra = {k: v for k, v in conds.items() if k != "c_crossattn"}
    raw = base.diffusion_model(
        inside,
        torch.full((len(x),), u),
        context=conds["c_crossattn"],
        transformer_options={},
        **extra,
    )
    return sampling.calculate_denoised(s, raw.float(), x)


def euler_with_times(
    family, sigmas, times: list[float], omegas: list[float] | None = None
) -> torch.Tensor:
    """Algorithm 2's integration: x += (sigma_{k+1} - sigma_k) omega_k v(x, u_k)."""
    base, x, conds = start(family, sigmas)
    for k, u in enumerate(times):
        v = (x - network(base, x, sigmas[k], u, conds)) / sigmas[k]
        x = x + (sigmas[k + 1] - sigmas[k]) * (1.0 if omegas is None else omegas[k]) * v
    return base.process_latent_out(base.model_sampling.inverse_noise_scaling(sigmas[-1], x))


def euler_lying_sigma(family, sigmas, lies: list[float]) -> torch.Tensor:
    """Detail Daemon: the whole model call is made with the lower sigma; the step keeps the true
    one.
    """
    base, x, conds = start(family, sigmas)
    sampling = base.model_sampling
    for k, lie in enumerate(lies):
        sigma = torch.tensor(lie)
        denoised = network(base, x, sigma, float(sampling.timestep(sigma)), conds)
        x = x + (sigmas[k + 1] - sigmas[k]) * (x - denoised) / sigmas[k]
    return base.process_latent_out(sampling.inverse_noise_scaling(sigmas[-1], x))
