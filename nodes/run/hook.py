"""The hook: the network is told t*, everything else keeps the sampler's sigma.

Three wrappers of ComfyUI's own wrapper interface, all on the MODEL:
OUTER_SAMPLE opens a run, PREDICT_NOISE decides t* for this evaluation and afterwards asks a learned
policy about the next grid point, APPLY_MODEL puts t* in the place of the timestep, and only there:
`process_timestep` of the loaded model is replaced for the length of one call. Input scaling,
denoised, the sampler, masks, prompt ranges, ControlNets and caches never see t*.
"""

from __future__ import annotations

import torch

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...report.trace import Trace
from ...tpm.conditioning import PERCENT_UNIT, grid_index
from ...tpm.policies import Decision, Policy, Scaled, State
from ..pixels.families import family_of
from ..pixels.hooks import swapped
from ..pixels.masking import Region
from ..pixels.run import PixelRun
from ..pixels.scope import pixel_map
from .asking import ask_next, grid_state, network_ran
from .chain import Chain
from .checks import require_finite, require_picture
from .regional import like, listed, over, per_sample
from .state import RunState, current_prompt, open_run, open_step
from .times import ModelTime, grid_times, require_descending, velocity_factor
from .warnings import note

KEY = "async_timestep"  # of the wrappers and of the run in transformer_options
WRAPPERS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL)


def attach(
    model: ModelPatcher,
    policy: Policy,
    scale: float = 1.0,
    sigmas: torch.Tensor | None = None,
    region: Region | None = None,
) -> tuple[ModelPatcher, Trace]:
    """A clone of `model` that is conditioned on t* in any sampler, and the trace of its runs.

    policy: decides the deviation. scale: gamma of Eq. 12; 0 is bit-identical to `model`.
    sigmas: the whole schedule (K+1,) of which a sampler may run a part; None takes each sampler's
    own. region: multiplies the deviation per pixel; the network is then told a map of times, in
    the same one pass. A patch that is already on the model is replaced, never added to. Raises
    ValueError on a scale that is not finite, on sigmas that do not fall, and on a region with a
    model that takes no map.
    """
    require_finite(deviation_scale=scale)
    if region is not None and scale != 0:
        family_of(model.model.diffusion_model)  # before anything is sampled
    if sigmas is not None:
        require_descending(sigmas)
        sigmas = sigmas.detach().float().cpu()
    patched, trace = model.clone(), Trace()
    for wrapper_type in WRAPPERS:
        patched.remove_wrappers_with_key(wrapper_type, KEY)
    if scale != 1.0:
        policy = Scaled(policy, scale)
    outer = outer_sample_wrapper(policy, trace, sigmas, None if scale == 0 else region)
    for wrapper_type, wrapper in zip(WRAPPERS, (outer, predict_noise, apply_model), strict=True):
        patched.add_wrapper_with_key(wrapper_type, KEY, wrapper)
    return patched, trace


def outer_sample_wrapper(
    policy: Policy, trace: Trace, sigmas: torch.Tensor | None, region: Region | None = None
):
    """OUTER_SAMPLE: opens a run for the predict and apply wrappers, closes it whatever happens."""

    chain = Chain()

    def outer_sample(executor, noise, latent_image, sampler, own, *args, **kwargs):
        require_picture(latent_image)
        guider, nodes = executor.class_obj, own.detach().float().cpu()
        owner = (current_prompt(), tuple(noise.shape))
        if sigmas is not None:
            run = open_run(policy, trace, guider, nodes, region, sigmas)
            run.decisions = chain.carry(nodes.tolist(), owner)
        elif len(nodes) == 2:
            run = open_step(policy, trace, guider, nodes, region, chain, owner)
        else:
            run = open_run(policy, trace, guider, nodes, region, nodes)
        options = guider.model_options.setdefault("transformer_options", {})
        options[KEY] = run
        try:
            if region is not None and region.static and region.mode == "words":
                run.first_pass = True
                executor(noise.clone(), latent_image, sampler, own, *args, **kwargs)
                run.first_pass = False
                run.pixels.region.freeze()
            latent = executor(noise, latent_image, sampler, own, *args, **kwargs)
            if run.pixels is not None:
                run.pixels.region.close()
            return latent
        finally:
            options.pop(KEY, None)
            if run.pixels is not None:
                run.record.masks += run.pixels.region.masks
                note(run.record, *run.pixels.region.warnings)

    return outer_sample


def predict_noise(executor, x, timestep, model_options={}, seed=None):  # noqa: B006 (host's own)
    """PREDICT_NOISE: one evaluation. Decides t*, lets the network run, scales v, asks about k+1."""
    run: RunState | None = model_options.get("transformer_options", {}).get(KEY)
    if run is None:
        return executor(x, timestep, model_options, seed)
    guider = executor.class_obj
    if run.region is not None and run.pixels is None:
        run.pixels = PixelRun(run.region, guider, x.shape, x.device)
    if run.first_pass:
        return first_pass(run, executor, x, timestep, model_options, seed)
    sampling = guider.inner_model.model_sampling
    run.time = run.time or ModelTime(sampling)
    sigma = float(timestep[0])
    k = grid_index(run.nodes, sigma)
    own = decision = decide(run, grid_state(run, sampling, k, sigma, len(x)))
    if run.pixels is not None:
        decision = over(own, per_sample(run.pixels.region.weight))
    u = run.time.of(timestep)
    u_star = told(run, k, u, decision)
    moved = not torch.equal(u_star, like(u, u_star))

    denoised = evaluate(run, executor, x, timestep, model_options, seed, u, u_star if moved else u)

    ratio = run.time.sigma_ratio(like(u, u_star), u_star) if moved else None
    omega = velocity_factor(decision, ratio)
    write_down(run, k, sigma, u, u_star, decision, ratio, omega)
    if run.policy.learned and network_ran(run, model_options):
        unmasked = u_star if run.pixels is None else told(run, k, u, own)
        ask_next(run, guider, sampling, k, x, denoised, timestep, u, unmasked)
    if omega is not None:
        omega = omega.to(x.device)
        omega = omega.view(-1, *[1] * (x.ndim - 1)) if omega.ndim == 1 else omega
        denoised = x - omega * (x - denoised)
    return denoised


def told(run: RunState, k: int, u: torch.Tensor, decision: Decision) -> torch.Tensor:
    """u* of Eq. 6/12: (B,), or a map (B, 1, ...) where the decision is one."""
    if k == 0 or not bool((decision.deviation != 0).any() or (decision.cut != 0).any()):
        return u
    run.times = run.times or grid_times(run.time, run.grid, u.device)
    return run.time.star(like(u, decision.deviation), run.times[k - 1], decision)


def evaluate(run: RunState, executor, x, timestep, model_options, seed, u, u_star):
    """The network, told u*: by `apply_model` below, or by the run's map of pixels."""
    run.network_called = False
    if run.pixels is None:
        run.u_star = None if u_star is u else u_star
        try:
            return executor(x, timestep, model_options, seed)
        finally:
            run.u_star = None
    run.u_star = u_star if u_star is not u and u_star.ndim == 1 else None
    pixels = None
    if u_star.ndim > 1:
        pixels = pixel_map(run.pixels.network, u_star[:, 0], u)
    try:
        with run.pixels.evaluation(pixels):
            out = executor(x, timestep, run.pixels.attached(model_options), seed)
    finally:
        run.u_star = None
    run.pixels.region.after()
    return out


def first_pass(run: RunState, executor, x, timestep, model_options, seed):
    """A synchronous evaluation whose attention makes the masks of a static region."""
    with run.pixels.evaluation(None):
        out = executor(x, timestep, run.pixels.attached(model_options), seed)
    run.pixels.region.collect()
    return out


def decide(run: RunState, state: State) -> Decision:
    """The decision for this evaluation: t*_0 = t_0, and a TPM has answered one step earlier."""
    if state.k == 0:
        return run.policy.decide(state).scaled(0.0)
    return run.decisions.get(state.k) or run.policy.decide(state)


def write_down(run: RunState, k, sigma, u, u_star, decision: Decision, ratio, omega) -> None:
    """One line of the trace; its cut_percent compares sigmas and so means the same everywhere."""
    as_map = decision.deviation.ndim > 1
    if as_map:
        u_star = like(u_star, decision.deviation) if u_star.ndim == 1 else u_star
    ones = [1.0] * (3 if as_map else len(u))
    ratios = ones if ratio is None else listed(ratio)
    if as_map:
        ratios = ratios[::-1]  # the largest ratio is the smallest cut
    run.record.add(
        step=k,
        sigma=sigma,
        t=float(u[0]),
        t_star=listed(u_star),
        deviation=listed(decision.deviation + decision.cut / PERCENT_UNIT),
        cut_percent=[100 * (1 - r) for r in ratios],
        omega=ones if omega is None else listed(omega),
        map_of=len(u) if as_map else 0,
    )


def apply_model(
    executor,
    x,
    t,
    c_concat=None,
    c_crossattn=None,
    control=None,
    transformer_options={},  # noqa: B006 (the host's own signature)
    **kwargs,
):
    """APPLY_MODEL: the network, and nothing else, receives u*, tiled over the cond chunks."""
    run: RunState | None = transformer_options.get(KEY)
    if run is not None:
        run.network_called = True
    if run is None or run.u_star is None:
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)
    base, u_star = executor.class_obj, run.u_star
    original = base.process_timestep
    window = transformer_options.get("context_window")
    if getattr(window, "dim", None) == 0:  # the host cuts the batch into windows: so must u*
        u_star = window.get_tensor(u_star, dim=0)

    def process_timestep(timestep, **extra):
        return original(tile(u_star, timestep), **extra)

    with swapped(base, "process_timestep", process_timestep):
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)


def tile(u_star: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """u* (B,) repeated over the chunks (cond, uncond, areas ...) that ComfyUI put into one
    batch.
    """
    chunks, rest = divmod(len(timestep), len(u_star))
    if rest == 0:
        told = u_star.to(timestep)
        return told if chunks == 1 else told.repeat(chunks)
    if bool((u_star == u_star[0]).all()):
        return u_star[:1].to(timestep).expand(len(timestep))
    raise ValueError(
        f"Async Timestep has one time for each of {len(u_star)} images, but the network was "
        f"called with a batch of {len(timestep)}, which is no multiple of it; use one deviation "
        "for all images here, or take the node out that splits the batch (context windows)."
    )
