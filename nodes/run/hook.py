"""The hook: the network is told t*, everything else keeps the sampler's sigma.

Three wrappers of ComfyUI's own wrapper interface, all on the MODEL:
OUTER_SAMPLE opens a run, PREDICT_NOISE decides t* for this evaluation and afterwards asks a learned
policy about the next grid point, APPLY_MODEL puts t* in the place of the timestep, and only there:
`process_timestep` of the loaded model is replaced for the length of one call. Input scaling,
denoised, the sampler, masks, prompt ranges, ControlNets and caches never see t*. Where another pack
has taken some of the three off the MODEL, the run is the stock one, and says so: OUTER_SAMPLE where
it is there, else a callback of ON_PRE_RUN, which stands elsewhere on the MODEL.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...report.trace import Run, Trace
from ...tpm.policies import Policy, Scaled
from ..pixels.families import family_of
from ..pixels.hooks import swapped
from .chain import Chain
from .checks import require_finite, require_picture
from .family import model_family
from .opening import add_run, current_prompt, open_run, open_step
from .region import Region
from .state import RunState
from .times import require_descending
from .told import say_removed, say_replaced, tell
from .warnings import stage_note, warn

KEY = "async_timestep"  # of the wrappers and of the run in transformer_options
WRAPPERS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL)


def attach(
    model: ModelPatcher,
    policy: Policy,
    scale: float = 1.0,
    sigmas: torch.Tensor | None = None,
    region: Region | None = None,
    node: str = "",
) -> tuple[ModelPatcher, Trace]:
    """A clone of `model` that is conditioned on t* in any sampler, and the trace of its runs.

    policy: decides the deviation. scale: gamma of Eq. 12; 0 is bit-identical to `model`.
    sigmas: the whole schedule (K+1,) of which a sampler may run a part; None takes each sampler's
    own. region: multiplies the deviation per pixel; the network is then told a map of times, in
    the same one pass. node: the id of the node that says what was done; "" for the one that
    samples. A patch that is already on the model is replaced, never added to, and its trace says
    so. Raises ValueError on a scale that is not finite, on sigmas that do not fall, and on a region
    with a model that takes no map.
    """
    require_finite(deviation_scale=scale)
    if region is not None and scale != 0:
        family_of(model.model.diffusion_model)  # before anything is sampled
    if sigmas is not None:
        require_descending(sigmas)
        sigmas = sigmas.detach().float().cpu()
    patched, trace = model.clone(), Trace()
    trace.node = node
    trace.replaced = replaced_by_a_patch_on(model)
    for wrapper_type in WRAPPERS:
        patched.remove_wrappers_with_key(wrapper_type, KEY)
    if scale != 1.0:
        policy = Scaled(policy, scale)
    outer = outer_sample_wrapper(policy, trace, sigmas, None if scale == 0 else region)
    outer.trace = trace
    own = (outer, predict_noise_wrapper, apply_model)
    for wrapper_type, wrapper in zip(WRAPPERS, own, strict=True):
        patched.add_wrapper_with_key(wrapper_type, KEY, wrapper)
    patched.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, KEY)
    patched.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, pre_run_callback(trace))
    return patched, trace


def replaced_by_a_patch_on(model: ModelPatcher) -> list[Trace]:
    """The traces of the patches that are on a model, and of those that they have replaced."""
    own = [w.trace for w in model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY)]
    return [*own, *(earlier for trace in own for earlier in trace.replaced)]


def missing_parts(wrappers: dict) -> list[str]:
    """The names of our wrappers that are not on a model any more. wrappers: kind -> key -> list."""
    return [part.upper() for part in WRAPPERS if not wrappers.get(part, {}).get(KEY)]


def outer_sample_wrapper(
    policy: Policy, trace: Trace, sigmas: torch.Tensor | None, region: Region | None = None
):
    """OUTER_SAMPLE: opens a run for the predict and apply wrappers, closes it whatever happens."""

    chain = Chain()

    def outer_sample(executor, noise, latent_image, sampler, sampler_sigmas, *args, **kwargs):
        def sample(noise):
            return executor(noise, latent_image, sampler, sampler_sigmas, *args, **kwargs)

        require_picture(latent_image)
        guider, stage = executor.class_obj, sampler_sigmas.detach().float().cpu()
        owner = (current_prompt(), tuple(noise.shape))
        if sigmas is not None:
            run = open_run(policy, trace, guider, stage, region, sigmas)
            run.decisions = chain.carry(stage.tolist(), owner)
        elif len(stage) == 2:
            run = open_step(policy, trace, guider, stage, region, chain, owner)
        else:
            run = open_run(policy, trace, guider, stage, region, stage)
            if said := stage_note(stage, noise):
                warn(run.written, said)
        say_replaced(trace, policy)
        options = guider.model_options.setdefault("transformer_options", {})
        if gone := missing_parts(options.get("wrappers", {})):
            say_removed(run.written, gone)
            return sample(noise)
        options[KEY] = run
        try:
            with run.region or nullcontext() as tracker:
                if tracker is not None:
                    tracker.first_pass(lambda: sample(noise.clone()))
                done = sample(noise)
        finally:
            options.pop(KEY, None)
        tell(run.written, run.policy)
        return done

    return outer_sample


def pre_run_callback(trace: Trace):
    """ON_PRE_RUN: says where OUTER_SAMPLE, which would say it, is not on the model any more."""

    def pre_run(patcher: ModelPatcher) -> None:
        gone = missing_parts(patcher.wrappers)
        if WrappersMP.OUTER_SAMPLE.upper() in gone:
            record = Run("Async Timestep", model_family(patcher), [])
            record.node = trace.node
            add_run(trace, record)
            say_removed(record, gone)

    return pre_run


def predict_noise_wrapper(executor, x, timestep, model_options={}, seed=None):  # noqa: B006 (host's)
    """PREDICT_NOISE: without a run it lets everything pass."""
    run: RunState | None = model_options.get("transformer_options", {}).get(KEY)
    if run is None:
        return executor(x, timestep, model_options, seed)
    return predict_noise(run, executor, x, timestep, model_options, seed)


def predict_noise(run: RunState, executor, x, timestep, model_options: dict, seed):
    """One evaluation, the body of Algorithm 2's loop. timestep: (B,), the host's name for sigma.
    Returns denoised (B, C, ...)."""
    guider, sigma = executor.class_obj, timestep

    def network(options):
        return executor(x, timestep, options, seed)

    run.begin(guider, x)
    if run.is_collecting:
        with run.region.evaluation(None, model_options) as options:
            return network(options)
    k, u = run.locate(sigma)
    decision = run.decide(k, sigma, x)
    step = run.step(k, sigma, u, decision)
    denoised = run.evaluate(step, network, model_options)
    run.record(step)
    run.ask_next(step, x, denoised, guider, model_options)
    return step.scaled(x, denoised)


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
    """u* (B,) repeated over the chunks (cond, uncond, areas ...) that ComfyUI put into one batch.
    Raises ValueError on a batch that is none of whole chunks, unless all times are one."""
    chunks, rest = divmod(len(timestep), len(u_star))
    if rest == 0:
        times = u_star.to(timestep)
        return times if chunks == 1 else times.repeat(chunks)
    if bool((u_star == u_star[0]).all()):
        return u_star[:1].to(timestep).expand(len(timestep))
    raise ValueError(
        f"Async Timestep has one time for each of {len(u_star)} images, but the network was "
        f"called with a batch of {len(timestep)}, which is no multiple of it; use one deviation "
        "for all images here, or take the node out that splits the batch (context windows)."
    )
