"""What Detail Daemon changes beside the detail, and a picture of both: for peers_conversion.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import peers_load as load
from async_timestep.bench.parts.peers_field import measure, run
from async_timestep.bench.parts.peers_methods import detail_daemon, deviated, five_points
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown


def euler():
    import comfy.samplers

    return comfy.samplers.sampler_object("euler")


def both(daemon, setup: load.Setup) -> dict[str, tuple]:
    """name -> (model, sampler): stock, its node with a peak cut of 10 %, and our patch with it."""
    settings = {"unit": "percent", "mode": "follow_time", "curve": five_points(setup.steps)}
    return {
        "stock": (setup.model, euler()),
        "Detail Daemon": (
            setup.model,
            detail_daemon(daemon, euler(), detail_amount=1.0, cfg_scale_override=1.0),
        ),
        "Async Timestep": (deviated(setup.model, 1.0, **settings), euler()),
    }


def kept_noise(setup: load.Setup, model, sampler) -> list[float]:
    """Inpainting: noise level of the half that is kept, as the network sees it, a step each."""
    import comfy.sample

    latent = setup.model.model.process_latent_out(torch.zeros_like(setup.latent))
    mask = torch.zeros(1, 1, *latent.shape[2:])
    mask[..., mask.shape[-1] // 2 :] = 1
    kept = (1 - mask) * comfy.sample.prepare_noise(latent, 5)
    _, steps, _ = run(setup, model, sampler, latent=latent, noise_mask=mask)
    return [float((s.calls[-1].x * kept).sum() / (kept * kept).sum()) for s in steps]


def switch_step(setup: load.Setup, model, sampler, percent: float) -> int:
    """The first step that sees the second of two prompts, which take turns at `percent`."""
    from nodes import ConditioningSetTimestepRange

    late = [[setup.positive[0][0].flip(1), setup.positive[0][1]]]
    split = ConditioningSetTimestepRange()
    early = split.set_range(setup.positive, 0.0, percent)[0]
    positive = early + split.set_range(late, percent, 1.0)[0]
    seen: list[bool] = []

    def note(module, args, kwargs):
        context = kwargs["context"][kwargs["transformer_options"]["cond_or_uncond"].index(0)]
        seen.append(torch.equal(context, late[0][0][0]))

    network = setup.model.model.diffusion_model
    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        load.sample(setup, model, sampler, positive=positive, cfg=1.0)
    finally:
        handle.remove()
    return seen.index(True) if True in seen else len(seen)


def peak(setup: load.Setup, model, sampler, sigmas=None, cfg=None) -> float:
    """The highest cut of sigma that the network is told, in %."""
    sampling = setup.model.get_model_object("model_sampling")
    _, steps, sigmas = run(setup, model, sampler, sigmas=sigmas, cfg=cfg or setup.cfg)
    true = sampling.timestep(sigmas[:-1])
    told = [min(s.calls[-1].times) / float(t) for s, t in zip(steps, true, strict=True)]
    return 100 * (1 - min(told))


def table(daemon, setup: load.Setup) -> str:
    setup = replace(setup, steps=8)
    rows, found = both(daemon, setup), {}
    whole = load.sigmas_of(setup, 8)
    for name, (model, sampler) in rows.items():
        ours = name == "Async Timestep"
        cfgs, stages = [], []
        for cfg in (1.0, 3.0, 7.5):
            auto = detail_daemon(daemon, euler(), detail_amount=0.5)
            node = auto if name == "Detail Daemon" else sampler
            cfgs.append(f"{peak(setup, model, node, cfg=cfg):.1f}")
        policy = pack("nodes.deviation").deviation_policy
        if ours:
            policy = policy("custom", 1.0, unit="percent", mode="follow_time", curve=five_points(8))
            staged = pack("nodes.run.hook").attach(setup.model, policy, sigmas=whole)[0]
        for part in (whole[:5], whole[4:]):
            stages.append(f"{peak(setup, staged if ours else model, sampler, sigmas=part):.1f}")
        field = measure(setup, model, sampler)
        found[name] = [
            ", ".join(f"{level:.3f}" for level in kept_noise(setup, model, sampler)),
            ", ".join(str(switch_step(setup, model, sampler, p)) for p in (0.3, 0.4, 0.5, 0.6)),
            f"{field.found} of {field.calls}",
            ", ".join(stages),
            ", ".join(cfgs),
        ]
    titles = (
        "noise of the kept half while inpainting",
        "step at which prompt ranges of 30, 40, 50, 60 % switch",
        "calls whose sigma is in sample_sigmas",
        "peak cut in the two stages of a split, %",
        "peak cut at cfg 1, 3, 7.5 (its amount 0.5), %",
    )
    return markdown(["", *found], zip(titles, *found.values(), strict=True))


def picture(daemon, setup: load.Setup, path: Path) -> None:
    """Time told and step length, both as a share of the true ones, for 15 steps."""
    setup = replace(setup, steps=15)
    rows = both(daemon, setup)
    rows.pop("stock")
    rows["Async Timestep, follow_time"] = rows.pop("Async Timestep")
    plain = {"unit": "percent", "curve": five_points(15)}
    rows["Async Timestep, conditioning"] = (deviated(setup.model, 1.0, **plain), euler())
    rows["Deviation 0.5, unit interval"] = (deviated(setup.model, 0.5), euler())
    looks = (  # (marker, size, color, filled)
        ("o", 10, "#333333", False),
        ("s", 6, "C0", False),
        ("x", 6, "C1", True),
        ("v", 5, "C2", True),
    )
    figure, (axes,) = frame.drawing(2, (9, 3.4), sharey=True)
    for (name, (model, sampler)), look in zip(rows.items(), looks, strict=True):
        field, (marker, size, color, filled) = measure(setup, model, sampler), look
        for ax, values in zip(axes, ([low for low, _ in field.time], field.length), strict=True):
            ax.plot(
                values,
                marker=marker,
                markersize=size,
                color=color,
                label=name,
                linewidth=1,
                markerfacecolor=color if filled else "none",
            )
    axes[0].set_title("time that the network is told / true time", fontsize=10)
    axes[1].set_title("length of the sampler's step / full step", fontsize=10)
    for ax in axes:
        ax.set_xlabel("step")
        ax.grid(alpha=0.3)
    axes[1].legend(fontsize=8, loc="lower left")
    frame.save(figure, path)
