"""docs/guides/detail_daemon.md: what a user of Detail Daemon sets here, against its equation.

    sigma'_k = sigma_k (1 - 0.1 a c_k)

is passed through the whole model; a = detail_amount times cfg, c_k the curve. By default c_k rises
from 0 at step round(0.2 (K - 1)) as a half cosine to 1 at round(0.5 (K - 1)) and falls again to 0
at round(0.8 (K - 1)).
"""

from __future__ import annotations

import math
import re
import types
from pathlib import Path

import comfy_stubs
import pytest
import torch
from planted import schedule
from sampling import sample
from watching import FLOW, watched

import comfy.sample
import comfy.samplers
from comfy_api.input import CurveInput

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "detail_daemon.md").read_text()


def bump(steps: int) -> list[float]:
    """c_k of the default curve."""
    start, peak, end = corners(steps)
    out = []
    for k in range(steps):
        side = (k - start) / (peak - start) if k <= peak else (end - k) / (end - peak)
        out.append(0.5 * (1 - math.cos(math.pi * min(max(side, 0.0), 1.0))))
    return out


def corners(steps: int) -> list[int]:
    return [round(x * (steps - 1)) for x in (0.2, 0.5, 0.8)]


def five_points(steps: int) -> list[tuple[float, float]]:
    start, peak, end = (k / steps for k in corners(steps))
    return [(0.0, 0.0), (start, 0.0), (peak, 1.0), (end, 0.0), (1.0, 0.0)]


def deviated(pack, model, deviation: float, curve, mode="follow_time"):
    policy = pack("nodes.deviation").deviation_policy(
        "custom", deviation, unit="percent", mode=mode, curve=curve
    )
    return pack("nodes.run.hook").attach(model, policy)[0]


@pytest.mark.parametrize("steps", [8, 15])
@pytest.mark.parametrize("family", FLOW)
def test_a_flow_model_runs_as_with_its_sigmas(pack, families, family, steps):
    tiny, cuts = families[family], [0.1 * 0.8 * c for c in bump(steps)]
    sigmas = schedule(tiny[0], steps)
    points = [(k / steps, c) for k, c in enumerate(bump(steps))]
    lies = [float(s) * (1 - cut) for s, cut in zip(sigmas[:-1], cuts, strict=True)]
    wanted = comfy_stubs.euler_lying_sigma(tiny, sigmas, lies)
    ours, told = sample(tiny, deviated(pack, tiny[0], 0.8, points), steps=steps, cfg=1.0)
    scale = float(wanted.abs().max())
    assert float((ours - wanted).abs().max()) < 1e-5 * scale
    times = tiny[0].get_model_object("model_sampling").timestep(sigmas[:-1])
    for t, u, cut in zip(told, times, cuts, strict=True):
        assert float(t[0]) == pytest.approx(float(u) * (1 - cut), rel=1e-5)
    conditioning = deviated(pack, tiny[0], 0.8, points, "conditioning")
    plain, same = sample(tiny, conditioning, steps=steps, cfg=1.0)
    assert all(torch.equal(a, b) for a, b in zip(same[:3], told[:3], strict=True))
    assert float((plain - wanted).abs().max()) > 1e-3 * scale, "it does not shorten the steps"


@pytest.mark.parametrize("steps", [8, 15, 28])
def test_five_points_draw_its_default_curve(steps):
    shape = CurveInput.from_raw(five_points(steps))
    for k, wanted in enumerate(bump(steps)):
        assert shape.interp(k / steps) == pytest.approx(wanted, abs=0.0105)
    assert f"| {steps} | " + ", ".join(f"{x:.3f}" for x, _ in five_points(steps)[1:-1]) in PAGE


def rows_for_eps() -> list[tuple[str, int, list[float]]]:
    """(scheduler, steps, deviations for 1, 5, 10 and 20 %) as the page prints them."""
    found = re.findall(r"^\| eps, (\w+), (\d+) steps \| (.+) \|$", PAGE, re.MULTILINE)
    return [(s, int(k), [float(v) for v in row.split(" | ")]) for s, k, row in found]


@pytest.mark.parametrize(("scheduler", "steps", "deviations"), rows_for_eps())
def test_the_page_gives_the_deviation_for_an_eps_model(
    pack, families, scheduler, steps, deviations
):
    """The curve's peak alone is told: a noise level that many percent lower."""
    model = families["sd15"][0]
    sampling, peak = model.get_model_object("model_sampling"), corners(steps)[1]
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
    u = sampling.timestep(sigmas[peak : peak + 1]).float()
    time, constant = pack("nodes.run.times").ModelTime(sampling), pack("tpm.policies").Constant
    state = types.SimpleNamespace(batch=1, device="cpu")
    for percent, deviation in zip((1, 5, 10, 20), deviations, strict=True):
        u_star = time.star(u, float(u), constant(deviation, "percent").decide(state))
        cut = 100 * (1 - float(sampling.sigma(u_star) / sampling.sigma(u)))
        assert cut == pytest.approx(percent, rel=0.05, abs=0.15)


def test_the_page_has_eps_rows_to_check():
    assert {(s, k) for s, k, _ in rows_for_eps()} == {
        (s, k) for s in ("normal", "karras") for k in (8, 15, 28)
    }


def test_an_eps_model_keeps_its_input_scale(pack, families):
    """follow_time there: its time and its step length, but the network's input is left alone."""
    tiny, steps = families["sd15"], 4
    sampling, sigmas = tiny[0].get_model_object("model_sampling"), schedule(families["sd15"][0], 4)
    times = sampling.timestep(sigmas[:-1]).float()
    told = times * torch.tensor([1.0, 0.95, 0.95, 0.95])
    lies = sampling.sigma(told)
    omegas = (lies / sampling.sigma(times)).tolist()
    model = deviated(pack, tiny[0], 0.5, [(0.0, 1.0), (1.0, 1.0)])
    ours, _ = sample(tiny, model, steps=steps, cfg=1.0)
    wanted = comfy_stubs.euler_with_times(tiny, sigmas, told.tolist(), omegas)
    daemon = comfy_stubs.euler_lying_sigma(tiny, sigmas, lies.tolist())
    scale = float(wanted.abs().max())
    assert float((ours - wanted).abs().max()) < 1e-5 * scale
    assert float((ours - daemon).abs().max()) > 1e-5 * scale


def lowered(sampler, cut: float, first: int = 1, last: int = 99):
    """A SAMPLER wrapper in its manner: these steps call the model with (1 - cut) sigma."""

    def sample_lowered(model, x, sigmas, **kwargs):
        chosen = sigmas[:-1][first : last + 1]

        def call(x, sigma, **extra):
            inside = bool((chosen == sigma.max()).any())
            return model(x, sigma * (1 - cut) if inside else sigma, **extra)

        call.inner_model = model.inner_model
        return sampler.sampler_function(call, x, sigmas, **kwargs, **sampler.extra_options)

    return comfy.samplers.KSAMPLER(sample_lowered)


def run(tiny, model, sampler):
    sigmas = schedule(tiny[0], 5)
    noise = comfy.sample.prepare_noise(tiny[3], 5)
    with watched(tiny[0].model.diffusion_model) as calls:
        out = comfy.sample.sample_custom(
            model, noise, 1.0, sampler, sigmas, tiny[1], tiny[2], tiny[3], disable_pbar=True, seed=5
        )
    return out, torch.stack([seen[0] for seen, _ in calls])


def test_on_top_of_percent_the_cuts_multiply(pack, families):
    """docs/measurements/beside.md; in the unit interval they do not: there the deviation is a share
    of a distance.
    """
    tiny, euler = families["sd35"], comfy.samplers.sampler_object("euler")
    model = deviated(pack, tiny[0], 0.4, [(0.0, 1.0), (1.0, 1.0)], "conditioning")
    plain, daemon = run(tiny, tiny[0], euler)[1], run(tiny, tiny[0], lowered(euler, 0.1))[1]
    assert torch.allclose(daemon[1:], 0.9 * plain[1:])
    both = run(tiny, model, lowered(euler, 0.1))[1]
    assert torch.allclose(both[1:], 0.9 * 0.96 * plain[1:], rtol=1e-5)
    interval = pack("nodes.run.hook").attach(tiny[0], pack("tpm.policies").Constant(0.4))[0]
    alone = run(tiny, interval, euler)[1] / plain
    assert not torch.allclose(
        run(tiny, interval, lowered(euler, 0.1))[1] / daemon, alone, rtol=0.01
    )


def test_around_asyndm_it_does_nothing(pack, families):
    """docs/measurements/beside.md: each pixel's noise level is from AsynDM's own schedule."""
    tiny, half = families["sd35"], torch.zeros(1, 8, 8)
    half[..., 4:] = 1
    region = pack("nodes.run.region").Region("mask", mask=half)
    asyndm = lambda: pack("nodes.run.asyndm").asyndm_sampler(region, 1.0)[0]  # noqa: E731
    alone = run(tiny, tiny[0], asyndm())[0]
    stock = run(tiny, tiny[0], comfy.samplers.sampler_object("euler"))[0]
    assert not torch.equal(alone, stock)
    # the first and the last step have one level everywhere and go the ordinary way
    assert torch.equal(run(tiny, tiny[0], lowered(asyndm(), 0.1, 1, 3))[0], alone)
    assert not torch.equal(run(tiny, tiny[0], lowered(asyndm(), 0.1, 1, 4))[0], alone)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 15, 28])
@pytest.mark.parametrize("family", ["sd35", "sd15"])
def test_the_preset_tells_its_sigma_on_every_model(pack, families, family, steps):
    """The share of sigma, whether the model's time is its sigma or an index; never at the first
    evaluation."""
    node = pack("nodes.deviation").deviation_policy("detail daemon", 0.5, 0.2, 0.8)
    model, trace = pack("nodes.run.hook").attach(families[family][0], node)
    sample(families[family], model, steps=steps)
    told = [step["cut_percent"][0] for step in trace.runs[-1].steps]
    wanted = [0.0, *(10 * 0.5 * c for c in (bump(steps) if steps > 4 else [0.0] * steps)[1:])]
    if steps > 4:
        # an eps model is told one of 1000 times: half of one is .2 % of sigma
        assert told == pytest.approx(wanted, abs=0.02 if family == "sd35" else 0.2)
    else:
        assert told[0] == 0 and max(map(abs, told)) <= 5.02


def test_the_preset_is_five_points_in_percent(pack, families):
    """On a flow model, to what a curve of straight and smooth pieces leaves open."""
    preset = pack("nodes.deviation").deviation_policy(
        "detail daemon", 0.8, 0.2, 0.8, mode="follow_time"
    )
    tiny, steps = families["sd35"], 15
    curve = [(x, y) for x, y in five_points(steps)]
    drawn = sample(tiny, deviated(pack, tiny[0], 0.8, curve), steps=steps)[1]
    found = sample(tiny, pack("nodes.run.hook").attach(tiny[0], preset)[0], steps=steps)[1]
    for a, b in zip(found, drawn, strict=True):
        assert torch.allclose(a, b, rtol=0.002)
