"""A TPM with planted weights in the real samplers, against its decisions worked out by hand."""

from __future__ import annotations

import logging
from collections import Counter

import comfy_stubs
import pytest
import torch
from planted import count_calls, planted_tpm, relative, schedule, tpm_policy
from sampling import LATENTS, TIMES, sample, sample_sigmas, shaken

import comfy.sample

FLOW = ("sd35", "flux")
STEPS = 6
# `same_run` asserts that it is ten times what rounding makes of the planted policies: a velocity
# and a time that are wrong by ten times what float32 leaves open stay below it. So it holds
# on a processor that sums in another order, and what it finds is no rounding.
TOLERANCE = 1e-4


def planted(pack, folder, tiny, family, steps=STEPS, **kwargs):
    path = planted_tpm(pack, folder, family, schedule(tiny[0], steps), **kwargs)
    return tpm_policy(pack, path)


class Network:
    """The stock network at any times (B,), with cfg: v (B, C, h, w), without our hook.

    shake: every time that it is told and every velocity is a little wrong, see TOLERANCE.
    """

    def __init__(self, tiny, sigmas, cfg: float, shake: bool = False):
        self.shake, self.calls = shake, 0
        model, positive, negative, empty = tiny
        self.base, self.x, conds = comfy_stubs.start(tiny, sigmas)
        self.prompts = [(cfg, conds)]
        if cfg != 1:
            swapped = comfy_stubs.start((model, negative, positive, empty), sigmas)[2]
            self.prompts.append((1 - cfg, swapped))

    def velocity(self, x, sigma, times) -> torch.Tensor:
        unit = float(self.base.model_sampling.timestep(torch.tensor(1.0)))
        rows, times = [], self.wrong(times, TIMES)
        for i, t in enumerate(times.tolist()):
            one = x[i : i + 1]
            v = 0
            for weight, conds in self.prompts:
                own = {name: value[i : i + 1] for name, value in conds.items()}
                denoised = comfy_stubs.network(self.base, one, sigma, unit * t, own)
                v = v + weight * (one - denoised) / sigma
            rows.append(v)
        return self.wrong(torch.cat(rows), LATENTS)

    def wrong(self, values, share: float) -> torch.Tensor:
        self.calls += 1
        return shaken(values, share, seed=self.calls) if self.shake else values


def eq_18(raw: torch.Tensor) -> torch.Tensor:
    """The mode (alpha - 1) / (alpha + beta - 2) of Eq. 17's Beta, as it is printed."""
    raw = raw.double()
    phi = torch.where(raw > 0, 2 + raw + raw**2 / 2, 1 + torch.exp(raw))
    alpha, beta = phi[..., 0], phi[..., 1]
    return ((alpha - 1) / (alpha + beta - 2)).float()


def by_hand(tiny, policy, sigmas, cfg=1.0, change=lambda k, d, omega: (d, omega), shake=False):
    """Algorithm 2 with Euler: (latents, deviations of each step, omegas of each step), each (B,).

    change: what scales and windows make of the TPM's answer for grid point k.
    """
    module, meta = policy.module, policy.meta
    net, steps = Network(tiny, sigmas, cfg, shake), len(sigmas) - 1
    x = net.x
    pooled = tiny[1][0][1]["pooled_output"].repeat(len(x), 1)
    d = torch.zeros(len(x))
    omega = change(0, d, torch.ones(len(x)))[1]
    deviations, omegas = [], []
    for k in range(steps):
        t = sigmas[k].expand(len(x))
        star = t
        if k:
            star = t + d * (t - sigmas[k - 1])
            star = torch.where(d == 0, t, star.clamp(1e-3, 1.0))
        if meta.actions == "follow_time":
            omega = star / t
        deviations.append(d)
        omegas.append(omega)
        v = net.velocity(x, sigmas[k], star)
        if k + 1 < steps:
            x0 = x - sigmas[k] * v
            r = eq_18(module(x, v, x0, pooled, t, star, k + 1, steps))
            d, next_omega = torch.zeros(len(x)), torch.ones(len(x))
            if meta.actions != "omega":
                d = (r[:, 0] - 0.5) * 2 * meta.deviation_bound
            if meta.actions in ("omega", "both") and k + 2 < steps:
                low, high = meta.omega_range
                next_omega = low + r[:, -1] * (high - low)
            d, next_omega = change(k + 1, d, next_omega)
        x = x + (sigmas[k + 1] - sigmas[k]) * omega.view(-1, 1, 1, 1) * v
        omega = next_omega
    return net.base.process_latent_out(x), torch.stack(deviations), torch.stack(omegas)


def column(trace, name: str) -> torch.Tensor:
    """(evaluations, B) of the last run."""
    return torch.tensor([step[name] for step in trace.runs[-1].steps])


def same_run(pack, tiny, policy, wired=None, cfg=1.0, change=lambda k, d, omega: (d, omega)):
    """The hooked sampler against `by_hand`; returns the deviations and omegas of the trace."""
    sigmas = schedule(tiny[0], policy.meta.steps)
    model, trace = pack("nodes.run.hook").attach(tiny[0], wired or policy)
    out = sample_sigmas(tiny, model, sigmas, cfg=cfg)
    wanted = by_hand(tiny, policy, sigmas, cfg, change)
    got = out, column(trace, "deviation"), column(trace, "omega")
    errors, rounding = (
        apart(found, wanted)
        for found in (got, by_hand(tiny, policy, sigmas, cfg, change, shake=True))
    )
    text = "latents {:.2g} relative, deviation {:.2g}, omega {:.2g}"
    print(text.format(*errors), "| rounding:", text.format(*rounding))
    assert max(errors) <= TOLERANCE, errors
    assert max(rounding) <= TOLERANCE, "the planted policy amplifies rounding: plant another"
    return got[1:]


def apart(found, wanted) -> list[float]:
    """The largest difference of the latents, relative, and of deviations and omegas."""
    differences = [float((a - b).abs().max()) for a, b in zip(found[1:], wanted[1:], strict=True)]
    return [relative(found[0], wanted[0]), *differences]


@pytest.mark.parametrize("bound", [0.5, 1.0])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("family", FLOW)
def test_deviations_are_the_modules_own(pack, families, tmp_path, family, cfg, bound):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family, bound=bound)
    deviations, omegas = same_run(pack, tiny, policy, cfg=cfg)
    assert bool((deviations[0] == 0).all()), "t*_0 = t_0"
    assert float(deviations[1:].abs().max()) > 0.2 * 2 * bound
    assert float(deviations[1:].std(dim=0).min()) > 0.01, "they follow the state from step to step"
    assert float((deviations[1:, 0] - deviations[1:, 1]).abs().min()) > 0.01, (
        "and from image to image"
    )
    assert bool((omegas == 1).all())


@pytest.mark.parametrize("family", FLOW)
def test_a_tpm_that_follows_the_time(pack, families, tmp_path, family):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family, actions="follow_time")
    deviations, omegas = same_run(pack, tiny, policy)
    assert bool(deviations[1:].all()) and bool((omegas[0] == 1).all())
    assert bool(((omegas[1:] < 1) == (deviations[1:] > 0)).all())  # also on the last step
    assert float((omegas[1:] - 1).abs().max()) > 0.03


@pytest.mark.parametrize("actions", ["omega", "both"])
@pytest.mark.parametrize("family", FLOW)
def test_omegas_are_the_modules_own(pack, families, tmp_path, family, actions):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family, actions=actions)
    deviations, omegas = same_run(pack, tiny, policy)
    assert bool((omegas[0] == 1).all()) and bool((omegas[-1] == 1).all())
    assert float((omegas[1:-1] - 1).abs().max()) > 0.03
    assert bool(deviations[1:].all()) == (actions == "both")
    assert bool(deviations.any()) == (actions == "both")


@pytest.mark.parametrize("combination", ["window", "scaled", "velocity", "all"])
@pytest.mark.parametrize("family", FLOW)
def test_scales_and_windows_around_a_tpm(pack, families, tmp_path, family, combination):
    tiny, p = families[family], pack("tpm.policies")
    policy = planted(pack, tmp_path, tiny, family)
    sampling = tiny[0].get_model_object("model_sampling")
    sigmas = schedule(tiny[0], STEPS)

    def inside(k, start, end):
        high, low = (float(sampling.percent_to_sigma(percent)) for percent in (start, end))
        return low <= float(sigmas[k]) <= high

    def window(k, d, omega):
        return (d, omega) if inside(k, 0.25, 0.75) else (d * 0, omega)

    def scaled(k, d, omega):
        return (1.5 * d if inside(k, 0.0, 0.6) else d), omega

    def velocity(k, d, omega):
        return d, omega * (0.8 if k < STEPS - 1 else 1.0)

    wired, change = {
        "window": (p.Window(policy, 0.25, 0.75), window),
        "scaled": (p.Scaled(policy, 1.5, 0.0, 0.6), scaled),
        "velocity": (p.VelocityScale(policy, 0.8), velocity),
        "all": (
            p.VelocityScale(p.Scaled(p.Window(policy, 0.25, 0.75), 1.5, 0.0, 0.6), 0.8),
            lambda k, d, omega: velocity(k, *scaled(k, *window(k, d, omega))),
        ),
    }[combination]
    deviations, omegas = same_run(pack, tiny, policy, wired, change=change)
    active = deviations[:, 0] != 0
    if combination in ("window", "all"):
        assert bool(active.any()) and not bool(active[1:].all())
    else:
        assert bool(active[1:].all())
    assert bool((omegas[:-1] == 0.8).all()) == (combination in ("velocity", "all"))


# --- how often, and with what


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpm_2", "dpmpp_sde", "lcm"])
@pytest.mark.parametrize("family", FLOW)
def test_every_sampler_asks_about_every_grid_point(pack, families, tmp_path, family, sampler):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family)
    asked = count_calls(policy.module)
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
    out, _ = sample(tiny, model, sampler=sampler, steps=STEPS)
    stock, _ = sample(tiny, sampler=sampler, steps=STEPS)
    assert torch.isfinite(out).all()
    assert float((out - stock).abs().max()) > 1e-3 * float(stock.abs().max())
    points = Counter(args[6] for args in asked)
    assert sorted(points) == list(range(1, STEPS)), "K - 1 decisions"
    assert {args[7] for args in asked} == {STEPS}
    if sampler in ("euler", "heun", "dpmpp_2m", "lcm"):  # every evaluation is at a grid point
        assert set(points.values()) == {1}
    else:  # an evaluation in between asks too, the one at the grid point has the last word
        assert max(points.values()) <= 2
    grid = torch.tensor(trace.runs[-1].sigmas)  # dpm_2 has one of its own
    final = {args[6]: args for args in asked}
    for k, args in final.items():
        assert torch.allclose(args[4], grid[k - 1].expand(2), rtol=1e-4), "t of the point before"
    for step in trace.runs[-1].steps:
        k = step["step"]
        deviation = torch.zeros(2)
        if k:
            deviation = eq_18(policy.module(*final[k]))[:, 0] - 0.5
        assert torch.allclose(torch.tensor(step["deviation"]), deviation, atol=1e-5), step


@pytest.mark.parametrize("family", FLOW)
def test_the_module_is_given_the_state(pack, families, tmp_path, family):
    """x, v and x0 fit together, all float32; the pooled text is the positive prompt's."""
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family)
    asked = count_calls(policy.module)
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
    sample(tiny, model, steps=STEPS, cfg=2.0)
    steps = trace.runs[-1].steps
    for args in asked:
        x, v, x0, pooled, t, t_star, k, _ = args
        assert all(tensor.dtype == torch.float32 for tensor in args[:6])
        assert torch.allclose(x - t.view(-1, 1, 1, 1) * v, x0, atol=1e-5)
        assert torch.equal(pooled, tiny[1][0][1]["pooled_output"].repeat(2, 1))
        unit = steps[0]["t"]
        assert t[0] == pytest.approx(steps[k - 1]["t"] / unit, rel=1e-6)
        assert t_star.tolist() == pytest.approx(
            [u / unit for u in steps[k - 1]["t_star"]], rel=1e-6
        )
        assert bool((t_star == t).all()) == (k == 1)


@pytest.mark.parametrize("family", FLOW)
def test_each_image_has_the_deviation_of_its_own(pack, families, tmp_path, family):
    """Two images together are as each alone."""
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family)
    latent = tiny[3].repeat(2, 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, 5)

    def run(part):
        model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
        out, _ = sample(tiny, model, steps=STEPS, latent=latent[part], noise=noise[part])
        return out, column(trace, "deviation")

    both, deviations = run(slice(0, 2))
    for i in range(2):
        alone, own = run(slice(i, i + 1))
        assert torch.allclose(deviations[:, i], own[:, 0], atol=1e-4)
        assert float((both[i] - alone[0]).abs().max()) <= 1e-4 * float(both.abs().max())
    assert float((deviations[1:, 0] - deviations[1:, 1]).abs().min()) > 0.01


@pytest.mark.parametrize("actions", ["deviation", "omega", "both", "follow_time"])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("family", FLOW)
def test_an_untrained_tpm_is_stock(pack, families, tmp_path, family, sampler, actions):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family, head=0.0, actions=actions)
    asked = count_calls(policy.module)
    out, _ = sample(
        tiny, pack("nodes.run.hook").attach(tiny[0], policy)[0], sampler=sampler, steps=STEPS
    )
    assert len(asked) == STEPS - 1
    assert torch.equal(out, sample(tiny, sampler=sampler, steps=STEPS)[0])


def test_a_second_run_starts_anew(pack, families, tmp_path):
    tiny = families["flux"]
    policy = planted(pack, tmp_path, tiny, "flux")
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
    first, second = (sample(tiny, model, steps=STEPS)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert trace.runs[0].steps == trace.runs[1].steps


def test_stages_of_one_schedule_have_the_decisions_of_the_single_run(pack, families, tmp_path):
    """All but the first of a stage: the evaluation that would have decided it is in the other."""
    tiny, sigmas = families["flux"], schedule(families["flux"][0], STEPS)
    policy = planted(pack, tmp_path, tiny, "flux")
    noise = comfy.sample.prepare_noise(tiny[3], 5)

    def run(part, latent, noise):
        model, trace = pack("nodes.run.hook").attach(tiny[0], policy, 1.0, sigmas)
        out = sample_sigmas(tiny, model, part, latent=latent, noise=noise)
        return out, column(trace, "deviation")[:, 0]

    _, whole = run(sigmas, tiny[3], noise)
    half, head = run(sigmas[:4], tiny[3], noise)
    _, tail = run(sigmas[3:], half, torch.zeros_like(noise))
    assert torch.allclose(head, whole[:3], atol=1e-4)
    assert float(tail[0]) == 0.0 and bool(tail[1:].all())


# --- what does not fit


def refused(pack, tiny, policy, **more) -> str:
    """The message; and the model is as it was."""
    stock, _ = sample(tiny)
    model, _ = pack("nodes.run.hook").attach(tiny[0], policy)
    with pytest.raises(ValueError) as caught:
        sample(tiny, model, **more)
    assert "process_timestep" not in vars(tiny[0].model)
    assert torch.equal(sample(tiny)[0], stock)
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and text.count(". ") == 0, "one sentence"
    return text


def test_a_tpm_of_another_text_encoder_is_refused(pack, families, tmp_path):
    policy = planted(pack, tmp_path, families["sd35"], "sd35")
    text = refused(pack, families["flux"], policy)
    assert "pooled text [1, 768] (flux1_dev), expected 2048" in text
    assert "trained for sd35_medium" in text and policy.name in text


def test_a_tpm_of_another_latent_is_refused(pack, families, tmp_path):
    policy = planted(pack, tmp_path, families["sd35"], "sd35", latent_channels=4)
    text = refused(pack, families["sd35"], policy)
    assert "latents of shape [2, 16, 8, 8] (sd35_medium), expected 4 channels" in text


def test_a_tpm_on_an_sd15_model_is_refused(pack, families, tmp_path):
    policy = planted(pack, tmp_path, families["sd35"], "sd35")
    assert "expected 16 channels" in refused(pack, families["sd15"], policy)


def test_a_prompt_without_pooled_text_is_refused(pack, families, tmp_path):
    policy = planted(pack, tmp_path, families["flux"], "flux")
    bare = [[families["flux"][1][0][0], {}]]
    assert "found no pooled text" in refused(pack, families["flux"], policy, positive=bare)


@pytest.mark.parametrize("family", FLOW)
def test_another_grid_warns_once_a_run(pack, families, tmp_path, family, caplog):
    tiny = families[family]
    policy = planted(pack, tmp_path, tiny, family)
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)

    def warnings(**kwargs) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            sample(tiny, model, **kwargs)
        return [r.message for r in caplog.records if "TPM" in r.message]

    assert warnings(steps=STEPS) == [] and trace.runs[-1].remark == ""
    for kwargs in ({"steps": STEPS - 1}, {"steps": STEPS, "scheduler": "sgm_uniform"}):
        (found,) = warnings(**kwargs)
        assert f"trained on {STEPS} steps" in found and f"runs here on {kwargs['steps']}" in found
        assert f"use {STEPS} steps and scheduler" in found
        assert trace.runs[-1].remark == found
    assert len(warnings(steps=STEPS + 2)) == 1 and len(warnings(steps=STEPS + 2)) == 1
