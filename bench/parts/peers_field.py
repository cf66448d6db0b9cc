"""What a method does to the field that the sampler integrates, measured call by call.

The network is watched from outside (hooks on the diffusion model and on its time embedder), the
sampler by its own callback: nothing is taken from a method's own words.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

import torch

from async_timestep.bench.parts.peers_load import Setup, sample, sigmas_of


@dataclass
class Call:
    """One call of the network: input and guided output (B, C, ...), times, and the host's sigma."""

    x: torch.Tensor
    out: torch.Tensor
    times: list[float]
    sigma_in_schedule: bool


@dataclass
class Step:
    """One callback of the sampler: x, denoised, and the calls since the last one."""

    x: torch.Tensor
    denoised: torch.Tensor
    calls: list[Call]


@dataclass
class Field:
    """Per step, except `calls` and `found`: see `table_row` of bench/peers.py."""

    calls: int = 0
    found: int = 0
    length: list[float] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    time: list[tuple[float, float]] = field(default_factory=list)  # lowest and highest pixel
    scale: list[float] = field(default_factory=list)


@contextlib.contextmanager
def watched(network, cfg: float):
    """The calls of a diffusion model. A map of times is seen where the times are embedded."""
    calls, embedded = [], []
    embedder = getattr(network, "t_embedder", None)

    def note(module, args, kwargs, out):
        options = kwargs["transformer_options"]
        kinds, sigmas = options["cond_or_uncond"], options["sigmas"]
        parts = dict(zip(kinds, out.detach().float().chunk(len(kinds)), strict=True))
        guided = parts[0] if 1 not in parts else parts[1] + cfg * (parts[0] - parts[1])
        given = dict(zip(kinds, args[0].detach().float().chunk(len(kinds)), strict=True))[0]
        times = embedded.copy() or args[1].flatten().tolist()
        embedded.clear()
        found = bool((options["sample_sigmas"].to(sigmas) == sigmas[0]).any())
        calls.append(Call(given, guided, times, found))

    def embed(t, *args, **kwargs):
        embedded.extend(t.flatten().tolist())
        return type(embedder).forward(embedder, t, *args, **kwargs)

    handle = network.register_forward_hook(note, with_kwargs=True)
    if embedder is not None:
        embedder.forward = embed
    try:
        yield calls
    finally:
        handle.remove()
        if embedder is not None:
            del embedder.forward


def run(setup: Setup, model=None, sampler=None, sigmas=None, **more):
    """(latents, steps, sigmas) of one watched run."""
    sigmas = sigmas_of(setup, setup.steps) if sigmas is None else sigmas
    steps: list[Step] = []
    network, cfg = setup.model.model.diffusion_model, more.get("cfg", setup.cfg)
    with watched(network, cfg) as calls:

        def callback(i, denoised, x, total):
            since = sum(len(step.calls) for step in steps)
            steps.append(Step(x.clone(), denoised.clone(), calls[since:]))

        out = sample(setup, model, sampler, sigmas, callback, **more)
    return out, steps, sigmas


def projection(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """(f, rest): f b is nearest to a, rest = |a - f b| / |a|."""
    factor = float((a * b).sum() / (b * b).sum())
    return factor, float((a - factor * b).norm() / a.norm())


def sigma_of(sampling, time: float) -> float:
    """The noise level that a network time stands for; a flow model's time is its level."""
    from comfy.model_sampling import CONST

    if isinstance(sampling, CONST):
        return time
    return float(sampling.sigma(torch.tensor(float(time))))


def measure(setup: Setup, model=None, sampler=None, own_levels: bool = False) -> Field:
    """own_levels: pixels have levels of their own (AsynDM), which `length` then refers to."""
    sampling = setup.model.get_model_object("model_sampling")
    _, steps, sigmas = run(setup, model, sampler)
    found = Field()
    for k, step in enumerate(steps):
        sigma, last = sigmas[k], step.calls[-1]
        found.calls += len(step.calls)
        found.found += sum(call.sigma_in_schedule for call in step.calls)
        if own_levels and k + 1 < len(steps):
            s, s_next = levels(step), levels(steps[k + 1])
            moved = steps[k + 1].x - step.x
            length, rest = projection(moved, (s_next - s) * last.out)
        elif not own_levels:
            length, rest = projection((step.x - step.denoised) / sigma, last.out)
        found.length.append(length)
        found.rest.append(rest)
        true = sigma_of(sampling, float(sampling.timestep(sigma)))
        told = [sigma_of(sampling, t) / true for call in step.calls for t in call.times]
        found.time.append((min(told), max(told)))
        wanted = sampling.calculate_input(sigma.expand(len(step.x)), step.x)
        found.scale += [projection(call.x, wanted)[0] for call in step.calls]
    return found


def levels(step: Step) -> torch.Tensor:
    """The noise level (B, 1, ...) that each pixel's denoised was made with: x - denoised = s f."""
    out = step.calls[-1].out
    return ((step.x - step.denoised) * out).sum(1, keepdim=True) / (out * out).sum(1, keepdim=True)
