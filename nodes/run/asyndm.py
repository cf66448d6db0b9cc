"""AsynDM: a sampler in which every pixel has its own noise level.

The pixels of a region fall behind the sampler's grid and catch up before its end, so they are
denoised on a clearer context. Network, input scaling, denoised and integration all use the pixel's
own level; conditions with a time (prompt ranges, ControlNets, inpainting) keep the grid's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

import comfy.k_diffusion.sampling as k_diffusion
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import KSAMPLER

from ...asyndm.lag import meeting_node, next_lag
from ...asyndm.sigmas import sigma_at
from ...asyndm.steps import ancestral_step, euler_step, flow_ancestral_step
from ...report.trace import ASYNDM, Run, Trace
from ..pixels.families import family_of
from ..pixels.scope import pixel_map
from .checks import require_finite, require_guidance, require_picture, short
from .family import model_family
from .hook import KEY as HOOK_KEY
from .opening import add_run
from .region import Region
from .regional import per_sample_or_map
from .times import ModelTime, require_descending
from .told import tell
from .tracker import RegionTracker
from .warnings import warn

KEY = "asyndm_ksampler"
SAMPLERS = ("euler", "ddim", "euler_ancestral")


@dataclass(frozen=True)
class AsynDM:
    """The settings of one sampler. strength: w of the lag recursion, 0 is the stock sampler.
    eta: of ddim only (1 is the paper's DDPM). curve: see `asyndm.lag`."""

    region: Region
    strength: float = 0.5
    sampler: str = "euler"
    eta: float = 0.0
    curve: str = "quadratic"

    def label(self) -> str:
        what = self.region.label
        if what == "all":
            what += " (concave)"
        return f"AsynDM {self.sampler}, strength {self.strength:g}, {what}"


def asyndm_sampler(
    region: Region,
    strength: float = 0.5,
    sampler: str = "euler",
    eta: float = 0.0,
    curve: str = "quadratic",
) -> tuple[KSAMPLER, Trace]:
    """A SAMPLER for SamplerCustomAdvanced, and the trace of its runs. Raises ValueError on what is
    no region, on an unknown sampler and on numbers that are not finite."""
    if not isinstance(region, Region):
        raise ValueError(
            f"region is {short(region)}, expected what an AsynDM Region Mask gives; connect one, "
            "or look for the node between them that gave nothing."
        )
    if sampler not in SAMPLERS:
        raise ValueError(
            f"AsynDM found the sampler {sampler!r}; it has {', '.join(SAMPLERS)} (a sampler that "
            "remembers earlier steps has no meaning where pixels take steps of different size)."
        )
    require_finite(strength=strength, eta=eta)
    settings, trace = AsynDM(region, strength, sampler, eta, curve), Trace()

    def sample_asyndm(model, x, sigmas, extra_args=None, callback=None, disable=None):
        args = {"extra_args": extra_args or {}, "callback": callback, "disable": disable}
        return sample(settings, trace, model, x, sigmas, **args)

    # ComfyUI's ddim is euler with fresh noise in the kept part of an inpainting
    inpaint = {"random": True} if sampler == "ddim" else {}
    return KSAMPLER(sample_asyndm, inpaint_options=inpaint), trace


def attach_asyndm(
    model: ModelPatcher, region: Region, strength: float, sampler: str, eta: float
) -> tuple[ModelPatcher, Trace]:
    """A clone of `model` on which any sampler is AsynDM's, and the trace of its runs. Raises
    ValueError as `asyndm_sampler` does, and on a model that cannot be told one time per pixel."""
    if strength != 0:
        family_of(model.model.diffusion_model)  # before anything is sampled
    ours, trace = asyndm_sampler(region, strength, sampler, eta)

    def outer_sample(executor, noise, latent_image, stock_sampler, *args, **kwargs):
        return executor(noise, latent_image, ours, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return patched, trace


def stock(settings: AsynDM, model, x, sigmas, **args) -> torch.Tensor:
    """The stock sampler that strength 0 stands for."""
    eta = eta_of(settings)
    if eta == 0:
        return k_diffusion.sample_euler(model, x, sigmas, **args)
    return k_diffusion.sample_euler_ancestral(model, x, sigmas, **args, eta=eta)


def eta_of(settings: AsynDM) -> float:
    """How much of the noise that a step removes is drawn anew."""
    return {"euler": 0.0, "ddim": settings.eta, "euler_ancestral": 1.0}[settings.sampler]


@torch.no_grad()
def sample(settings: AsynDM, trace: Trace, model, x, sigmas, extra_args, callback, disable):
    """The sampler function: x (B, C, ...) at sigmas[0] to x at sigmas[-1]; sigmas (N+1,)."""
    require_picture(x)
    guider = model.inner_model
    require_guidance(guider)
    record = Run(settings.label(), model_family(guider.model_patcher), sigmas.tolist(), kind=ASYNDM)
    add_run(trace, record)
    args = {"extra_args": extra_args, "callback": callback, "disable": disable}
    done = sampled(settings, record, model, x, sigmas, **args)
    tell(record)
    return done


def sampled(settings: AsynDM, record: Run, model, x, sigmas, extra_args, **shown):
    """The sampling itself, or the stock one where nothing would fall behind."""
    args, guider, last = (
        {"extra_args": extra_args, **shown},
        model.inner_model,
        meeting_node(sigmas),
    )
    if settings.strength == 0:
        record.source = "strength 0 is the stock sampler"
        return stock(settings, model, x, sigmas, **args)
    if last < 2:
        warn(record, "AsynDM needs 3 steps or more: all pixels meet before the last one")
        return stock(settings, model, x, sigmas, **args)
    require_descending(sigmas.detach().float().cpu())
    refuse_patch(extra_args)
    with RegionTracker(settings.region, record) as tracker:
        tracker.fit(guider, x.shape, x.device, extra_args.get("denoise_mask"))
        if tracker.does_nothing:
            return stock(settings, model, x, sigmas, **args)
        plain = partial(evaluated, tracker, None, model)
        plain.inner_model = guider  # which the stock samplers ask for the model's sampling
        tracker.first_pass(lambda: stock(settings, plain, x.clone(), sigmas, **args))
        return asynchronous(settings, tracker, model, x, sigmas, last, **args)


def asynchronous(
    settings, tracker: RegionTracker, model, x, sigmas, last, extra_args, callback, disable
):
    """Lag d, level s = sigma(i - d), one step to s' = sigma(i + 1 - d'), at every grid point i.

    Lag and levels: (B, 1, ...); x: (B, C, ...). last: the node where all pixels meet."""
    time = ModelTime(model.inner_model.inner_model.model_sampling)
    space, ones = time.space, x.new_ones(len(x))
    noise = noise_of(settings, time, x, extra_args)
    lag = torch.zeros(len(x), 1, *x.shape[2:], device=x.device)
    s = torch.full_like(lag, float(sigmas[0]))
    for i in k_diffusion.trange(len(sigmas) - 1, disable=disable):
        u = time.of(sigmas[i : i + 1].to(s))
        pixels, times = None, u.view(1, 1)
        if bool(lag.any()):
            times = time.of_map(s)
            pixels = pixel_map(tracker.network, times[:, 0], u.expand(len(x)), s)
        weight = (settings.strength * tracker.weight).clamp(max=1)
        denoised = evaluated(tracker, pixels, model, x, sigmas[i] * ones, **extra_args)
        write(tracker.record, i, sigmas[i], u, times, lag, s)
        if callback is not None:
            callback(
                {"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised}
            )
        lag = next_lag(lag, weight, i, last, settings.curve)
        s_next = sigma_at(sigmas, i + 1 - lag, space)
        x = step(settings, time, x, denoised, s, s_next, noise)
        s = s_next
    return x


def evaluated(tracker: RegionTracker, pixels, model, x, sigma, model_options=None, **extra_args):
    """denoised (B, C, ...) of one evaluation of `model`, inside of the region's tracker."""
    with tracker.evaluation(pixels, model_options or {}) as options:
        return model(x, sigma, model_options=options, **extra_args)


def step(settings: AsynDM, time: ModelTime, x, denoised, s, s_next, noise) -> torch.Tensor:
    """One element-wise step; no noise is drawn for the last one, as in the stock samplers."""
    eta = eta_of(settings)
    if eta == 0:
        return euler_step(x, denoised, s, s_next)
    if not bool(s_next.any()):
        return denoised
    form = flow_ancestral_step if time.mixes else ancestral_step
    return form(x, denoised, s, s_next, noise(s, s_next), eta)


def noise_of(settings: AsynDM, time: ModelTime, x, extra_args):
    """The stock ancestral samplers' noise, in their order; None where none is drawn."""
    if eta_of(settings) == 0:
        return None
    draw = k_diffusion.default_noise_sampler(x, seed=extra_args.get("seed"))
    scale = time.noise_scale
    return draw if scale == 1.0 else lambda s, s_next: draw(s, s_next) * scale


def write(record: Run, i: int, sigma, u, times, lag, s) -> None:
    """One entry of the trace, of the pixels: their times, lags and levels s (B, 1, ...)."""
    record.add(
        step=i,
        sigma=float(sigma),
        t=float(u),
        t_star=per_sample_or_map(times),
        deviation=[0.0] * 3,
        lag=per_sample_or_map(lag),
        cut_percent=per_sample_or_map(100 * (1 - s / sigma)),
        omega=[1.0] * 3,
        map_of=len(s),
    )


def refuse_patch(extra_args: dict) -> None:
    """Raises ValueError on a model that the hook is on: one time for a pixel, not two."""
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    if HOOK_KEY in options:
        raise ValueError(
            "AsynDM found an Async Timestep patch on its model: both tell the network another "
            "time; take the patch (or Async Timestep KSampler) out, or use a stock sampler with it."
        )
