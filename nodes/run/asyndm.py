"""AsynDM: a sampler in which every pixel has its own noise level.

The pixels of a region fall behind the sampler's grid and catch up before its end, so they are
denoised on a clearer context. Network, input scaling, denoised and integration all use the pixel's
own level; conditions with a time (prompt ranges, ControlNets, inpainting) keep the grid's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import comfy.k_diffusion.sampling as k_diffusion
from comfy.model_sampling import CONST, ModelSamplingDiscrete, ModelSamplingDiscreteEDM
from comfy.samplers import KSAMPLER

from ...asyndm.lag import meeting_node, next_lag
from ...asyndm.sigmas import Space, flow_space, log_space, sigma_at, table_space
from ...asyndm.steps import ancestral_step, euler_step, flow_ancestral_step
from ...report.trace import ASYNDM, Run, Trace
from ..pixels.masking import Region
from ..pixels.run import PixelRun, times_of
from ..pixels.scope import pixel_map
from .checks import require_finite, require_picture
from .family import model_family
from .hook import KEY as HOOK_KEY
from .state import add_run
from .times import require_descending
from .warnings import note, warn

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
        what = "all (concave)" if self.region.mode == "all" else self.region.mode
        if self.region.mode == "words":
            what = ", ".join(self.region.columns)
        return f"AsynDM {self.sampler}, strength {self.strength:g}, {what}"


def asyndm_sampler(
    region: Region,
    strength: float = 0.5,
    sampler: str = "euler",
    eta: float = 0.0,
    curve: str = "quadratic",
) -> tuple[KSAMPLER, Trace]:
    """A SAMPLER for SamplerCustomAdvanced, and the trace of its runs. Raises ValueError on an
    unknown sampler and on numbers that are not finite."""
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


def stock(settings: AsynDM, model, x, sigmas, **args) -> torch.Tensor:
    """The stock sampler that strength 0 stands for."""
    eta = eta_of(settings)
    if eta == 0:
        return k_diffusion.sample_euler(model, x, sigmas, **args)
    return k_diffusion.sample_euler_ancestral(model, x, sigmas, **args, eta=eta)


def eta_of(settings: AsynDM) -> float:
    return {"euler": 0.0, "ddim": settings.eta, "euler_ancestral": 1.0}[settings.sampler]


@torch.no_grad()
def sample(settings: AsynDM, trace: Trace, model, x, sigmas, extra_args, callback, disable):
    """The sampler function: x (B, C, ...) at sigmas[0] to x at sigmas[-1]; sigmas (N+1,)."""
    require_picture(x)
    args = {"callback": callback, "disable": disable}
    guider = model.inner_model
    last = meeting_node(sigmas)
    family = model_family(guider.model_patcher)
    record = Run(settings.label(), family, sigmas.tolist(), kind=ASYNDM)
    add_run(trace, record)
    if settings.strength == 0:
        record.source = "strength 0 is the stock sampler"
        return stock(settings, model, x, sigmas, extra_args=extra_args, **args)
    if last < 2:
        warn(record, "AsynDM needs 3 steps or more: all pixels meet before the last one")
        return stock(settings, model, x, sigmas, extra_args=extra_args, **args)
    require_descending(sigmas.detach().float().cpu())
    refuse_patch(extra_args)
    keep = extra_args.get("denoise_mask")
    run = PixelRun(settings.region, guider, x.shape, x.device, keep)
    note(record, *run.region.warnings)
    if run.region.fixed and not bool(run.region.weight.any()):
        return stock(settings, model, x, sigmas, extra_args=extra_args, **args)
    options = run.attached(extra_args.get("model_options", {}))
    extra_args = {**extra_args, "model_options": options}
    if settings.region.static and settings.region.mode == "words":
        plain = Watched(model, run)
        stock(settings, plain, x.clone(), sigmas, extra_args=extra_args, **args)
        run.region.freeze()
    return asynchronous(settings, run, record, model, x, sigmas, last, extra_args, **args)


def asynchronous(
    settings, run: PixelRun, record: Run, model, x, sigmas, last, extra_args, callback, disable
):
    """Lag d, level s = sigma(i - d), one step to s' = sigma(i + 1 - d'), at every grid point i."""
    sampling = model.inner_model.inner_model.model_sampling
    space, ones = space_of(sampling), x.new_ones(len(x))
    noise = noise_of(settings, sampling, x, extra_args)
    lag = torch.zeros(len(x), 1, *x.shape[2:], device=x.device)
    s = torch.full_like(lag, float(sigmas[0]))
    for i in k_diffusion.trange(len(sigmas) - 1, disable=disable):
        pixels, times = None, None
        if bool(lag.any()):
            times = times_of(sampling, s)
            grid_time = sampling.timestep(sigmas[i : i + 1].to(s)).float()
            pixels = pixel_map(run.network, times[:, 0], grid_time.expand(len(x)), s)
        weight = (settings.strength * run.region.weight).clamp(max=1)
        with run.evaluation(pixels):
            denoised = model(x, sigmas[i] * ones, **extra_args)
        write_down(record, sampling, i, sigmas[i], lag, s, times)
        run.region.after()
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i],
                      "denoised": denoised})  # fmt: skip
        lag = next_lag(lag, weight, i, last, settings.curve)
        s_next = sigma_at(sigmas, i + 1 - lag, space)
        x = step(settings, sampling, x, denoised, s, s_next, noise)
        s = s_next
    run.region.close()
    record.masks = run.region.masks
    note(record, *run.region.warnings)
    return x


def step(settings: AsynDM, sampling, x, denoised, s, s_next, noise) -> torch.Tensor:
    """One element-wise step; no noise is drawn for the last one, as in the stock samplers."""
    eta = eta_of(settings)
    if eta == 0:
        return euler_step(x, denoised, s, s_next)
    if not bool(s_next.any()):
        return denoised
    form = flow_ancestral_step if isinstance(sampling, CONST) else ancestral_step
    return form(x, denoised, s, s_next, noise(s, s_next), eta)


def noise_of(settings: AsynDM, sampling, x, extra_args):
    """The stock ancestral samplers' noise, in their order."""
    if eta_of(settings) == 0:
        return None
    draw = k_diffusion.default_noise_sampler(x, seed=extra_args.get("seed"))
    scale = getattr(sampling, "noise_scale", 1.0) if isinstance(sampling, CONST) else 1.0
    return draw if scale == 1.0 else lambda s, s_next: draw(s, s_next) * scale


def space_of(sampling) -> Space:
    """In which coordinate the grid is straight between its nodes."""
    if isinstance(sampling, CONST):
        return flow_space()
    if isinstance(sampling, ModelSamplingDiscrete) and not isinstance(
        sampling, ModelSamplingDiscreteEDM
    ):
        return table_space(sampling.log_sigmas)
    return log_space()


def write_down(record: Run, sampling, i, sigma, lag, s, times) -> None:
    """A line of the trace; for a map smallest, mean and largest."""
    grid = sampling.timestep(sigma.view(1).to(s)).float()
    record.add(
        step=i,
        sigma=float(sigma),
        t=float(grid),
        t_star=spread(grid if times is None else times),
        deviation=spread(0 - lag),
        cut_percent=spread(100 * (1 - s / sigma)),
        omega=[1.0] * 3,
        map_of=len(s),
    )


def spread(values: torch.Tensor) -> list[float]:
    values = values.float()
    return [float(values.min()), float(values.mean()), float(values.max())]


class Watched:
    """The model of a plain first pass, whose attention is collected."""

    def __init__(self, model, run: PixelRun):
        self.inner_model, self.model, self.run = model.inner_model, model, run

    def __call__(self, x, sigma, **extra_args):
        with self.run.evaluation(None):
            denoised = self.model(x, sigma, **extra_args)
        self.run.region.collect()
        return denoised


def refuse_patch(extra_args: dict) -> None:
    options = extra_args.get("model_options", {}).get("transformer_options", {})
    if HOOK_KEY in options:
        raise ValueError(
            "AsynDM found an Async Timestep patch on its model: both tell the network another "
            "time; take the patch (or Async Timestep KSampler) out, or use a stock sampler with it."
        )
