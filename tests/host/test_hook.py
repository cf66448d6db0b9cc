"""The hook against the equation written again, and against everything else that reads sigma."""

from __future__ import annotations

import comfy_stubs
import numpy as np
import pytest
import torch
from sampling import PerSample, add_wrapper, sample, sample_sigmas

import comfy.model_management as mm
import comfy.sample
import comfy.samplers

FAMILIES = ("sd35", "flux", "sd15", "vpred")


def attach(pack, tiny, deviation=0.4, scale=1.0, sigmas=None, **kwargs):
    policies = pack("tpm.policies")
    policy = (
        deviation
        if isinstance(deviation, policies.Policy)
        else policies.Constant(deviation, **kwargs)
    )
    return pack("nodes.run.hook").attach(tiny[0], policy, scale, sigmas)


def schedule(model, steps: int, scheduler="simple") -> torch.Tensor:
    return comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), scheduler, steps
    )


def expected_times(u: np.ndarray, deviation: float, low: float, high: float) -> list[float]:
    """Eq. 6/12 in float64: u the timesteps of the grid without its final zero."""
    times = [u[0]]
    for k in range(1, len(u)):
        times.append(min(max(u[k] + deviation * (u[k] - u[k - 1]), low), high))
    return times


@pytest.mark.parametrize("deviation, gamma", [(0.5, 1.0), (0.3, 2.0), (-0.7, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_network_receives_t_star(pack, families, family, deviation, gamma):
    tiny = families[family]
    sigmas = schedule(tiny[0], 6)
    sampling = tiny[0].get_model_object("model_sampling")
    u = sampling.timestep(sigmas[:-1]).double().numpy()
    flow = family in ("sd35", "flux")
    low = float(sampling.timestep(torch.tensor(1e-3))) if flow else 0.0
    high = float(sampling.timestep(torch.as_tensor(sampling.sigma_max)))
    _, seen = sample(tiny, attach(pack, tiny, deviation, gamma)[0], steps=6)
    told = [float(t[0]) for t in seen]
    assert np.allclose(
        told, expected_times(u, deviation * gamma, low, high), rtol=1e-5, atol=1e-5 * high
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trace_tells_the_share_of_sigma(pack, families, family):
    """cut_percent: 1 - sigma*/sigma; on flow models sigma is the time, else the table's own
    value.
    """
    tiny = families[family]
    patched, trace = attach(pack, tiny, 0.5)
    sample(tiny, patched, steps=5)
    sampling = tiny[0].get_model_object("model_sampling")
    for step in trace.runs[-1].steps[1:]:
        ratio = step["t_star"][0] / step["t"]
        if family in ("sd15", "vpred"):
            logs, u = sampling.log_sigmas.double().numpy(), (step["t"], step["t_star"][0])
            a, b = np.interp(u, np.arange(len(logs)), logs)
            ratio = np.exp(b - a)
        assert step["cut_percent"][0] == pytest.approx(100 * (1 - ratio), rel=1e-3)
        assert step["cut_percent"][0] > 0


@pytest.mark.parametrize("family", ("sd35", "flux"))
def test_percent_is_a_share_of_the_time(pack, families, family):
    tiny = families[family]
    u = tiny[0].get_model_object("model_sampling").timestep(schedule(tiny[0], 5)[:-1])
    _, seen = sample(tiny, attach(pack, tiny, 0.6, unit="percent")[0], steps=5)
    told = torch.stack([t[0] for t in seen])
    assert torch.allclose(told[1:], u[1:] * (1 - 0.06), rtol=1e-6)
    assert told[0] == u[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_time_changes(pack, families, family):
    """Euler by hand with the stock network at t*: the hook's latents, step for step."""
    tiny = families[family]
    sigmas = schedule(tiny[0], 5)
    patched, trace = attach(pack, tiny, 0.5)
    out = sample_sigmas(tiny, patched, sigmas, cfg=1.0)
    told = [step["t_star"][0] for step in trace.runs[-1].steps]
    reference = comfy_stubs.euler_with_times(tiny, sigmas, told)
    assert torch.allclose(out, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_batch_items_have_their_own_time(pack, families):
    tiny = families["sd35"]
    _, seen = sample(tiny, attach_policy(pack, tiny, PerSample(pack, [0.3, -0.4]))[0], steps=4)
    u = tiny[0].get_model_object("model_sampling").timestep(schedule(tiny[0], 4))
    for k in range(1, 4):
        want = [float(u[k] + d * (u[k] - u[k - 1])) for d in (0.3, -0.4)]
        assert torch.allclose(seen[k], torch.tensor(want * 2), rtol=1e-5)


def attach_policy(pack, tiny, policy):
    return pack("nodes.run.hook").attach(tiny[0], policy)


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_one_equals_the_item_in_batch_four(pack, families, family):
    tiny = families[family]
    latent = tiny[3].repeat(4, 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, 9)
    both, _ = sample(tiny, attach(pack, tiny)[0], latent=latent, noise=noise, steps=4)
    one, _ = sample(tiny, attach(pack, tiny)[0], latent=latent[:1], noise=noise[2:3], steps=4)
    stock4, _ = sample(tiny, latent=latent, noise=noise, steps=4)
    stock1, _ = sample(tiny, latent=latent[:1], noise=noise[2:3], steps=4)
    slack = float(
        (stock4[2] - stock1[0]).abs().max()
    )  # what the kernels lose at another batch size
    assert float((both[2] - one[0]).abs().max()) <= 4 * slack + 1e-5 * float(one.abs().max())


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2m", "dpmpp_sde", "uni_pc"])
def test_in_between_sigmas_keep_their_interval(pack, families, sampler):
    """Every evaluation: t* from its own sigma and the node above it."""
    tiny = families["flux"]
    patched, trace = attach(pack, tiny, 0.5)
    sample(tiny, patched, sampler=sampler, steps=4)
    run = trace.runs[-1]
    grid = np.array(run.sigmas)
    for step in run.steps:
        k = int((grid > step["sigma"] * (1 + 1e-4)).sum())
        above = grid[k - 1] if k else step["sigma"]
        want = max(step["sigma"] + 0.5 * (step["sigma"] - above), 1e-3)
        assert step["step"] == k
        assert step["t_star"][0] == pytest.approx(want, rel=1e-4)


def test_requeue_gives_the_same_bits_and_the_original_is_untouched(pack, families):
    tiny = families["sd35"]
    before, _ = sample(tiny)
    patched, _ = attach(pack, tiny)
    first, _ = sample(tiny, patched, sampler="dpmpp_2m_sde")
    second, _ = sample(tiny, patched, sampler="dpmpp_2m_sde")
    assert torch.equal(first, second)
    after, _ = sample(tiny)
    assert torch.equal(before, after)


def test_two_patches_do_not_stack(pack, families):
    tiny = families["flux"]
    hook, p = pack("nodes.run.hook"), pack("tpm.policies")
    once = hook.attach(tiny[0], p.Constant(0.4))[0]
    over = hook.attach(hook.attach(tiny[0], p.Constant(-0.9))[0], p.Constant(0.4))[0]
    assert torch.equal(sample(tiny, once)[0], sample(tiny, over)[0])


def test_ksampler_policy_wins_over_the_patch(pack, families):
    tiny = families["sd35"]
    p, node = pack("tpm.policies"), pack("nodes.sampler")
    patched = pack("nodes.run.hook").attach(tiny[0], p.Constant(-0.9))[0]
    stock = dict(
        seed=5,
        cfg=3.0,
        positive=tiny[1],
        negative=tiny[2],
        latent={"samples": tiny[3]},
        denoise=1.0,
    )
    out = [
        node.async_ksampler(model, p.Constant(0.4), 1.0, 3, "euler", "simple", **stock)[0][
            "samples"
        ]
        for model in (tiny[0], patched)
    ]
    assert torch.equal(*out)


@pytest.mark.parametrize("family", ("sd35", "flux"))
def test_order_against_model_sampling_does_not_matter(pack, families, family):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux, ModelSamplingSD3

    def shift(model):
        if family == "sd35":
            return ModelSamplingSD3().patch(model, 2.0)[0]
        return ModelSamplingFlux().patch(model, 1.3, 0.4, 512, 512)[0]

    tiny = families[family]
    hook, constant = pack("nodes.run.hook"), pack("tpm.policies").Constant(0.5)
    first = hook.attach(shift(tiny[0]), constant)[0]
    last = shift(hook.attach(tiny[0], constant)[0])
    assert torch.equal(sample(tiny, first)[0], sample(tiny, last)[0])
    assert not torch.equal(sample(tiny, first)[0], sample(tiny, attach(pack, tiny, 0.5)[0])[0])


@pytest.mark.parametrize(
    "kind", ["PREDICT_NOISE", "APPLY_MODEL", "OUTER_SAMPLE", "CALC_COND_BATCH"]
)
def test_order_against_another_packs_wrapper_does_not_matter(pack, families, kind):
    def passing(executor, *args, **kwargs):
        called.append(1)
        return executor(*args, **kwargs)

    called: list[int] = []
    tiny = families["flux"]
    hook, constant = pack("nodes.run.hook"), pack("tpm.policies").Constant(0.5)
    inner = hook.attach(add_wrapper(tiny[0], kind, passing), constant)[0]
    outer = add_wrapper(hook.attach(tiny[0], constant)[0], kind, passing)
    assert torch.equal(sample(tiny, inner)[0], sample(tiny, outer)[0])
    assert called


def test_a_process_timestep_of_another_pack_is_kept(pack, families):
    tiny = families["sd35"]
    base, got = tiny[0].model, []

    def theirs(timestep, **kwargs):
        got.append(timestep.clone())
        return timestep

    base.process_timestep = theirs
    try:
        sample(tiny, attach(pack, tiny, 0.5)[0])
        assert vars(base)["process_timestep"] is theirs
        assert len(got) == 3
    finally:
        del base.process_timestep


@pytest.mark.parametrize("where", ["callback", "network"])
def test_an_interrupt_leaves_nothing_behind(pack, families, where):
    def stop(*args, **kwargs):
        raise mm.InterruptProcessingException()

    tiny = families["flux"]
    stock, _ = sample(tiny)
    patched, _ = attach(pack, tiny, 0.5)
    want, _ = sample(tiny, patched)
    with pytest.raises(mm.InterruptProcessingException):
        if where == "callback":
            sample(tiny, patched, callback=stop)
        else:
            sample(tiny, add_wrapper(patched, "APPLY_MODEL", stop))
    assert "process_timestep" not in vars(tiny[0].model)
    assert torch.equal(sample(tiny)[0], stock)
    assert torch.equal(sample(tiny, patched)[0], want)


@pytest.mark.parametrize("family", ("sd35", "flux", "sd15"))
@pytest.mark.parametrize("kind", ["patch", "advanced"])
def test_stages_equal_the_single_run(pack, families, family, kind):
    tiny = families[family]
    p, node, hook = pack("tpm.policies"), pack("nodes.sampler"), pack("nodes.run.hook")
    constant, sigmas = p.Constant(0.5), schedule(tiny[0], 6)
    if kind == "patch":
        noise = comfy.sample.prepare_noise(tiny[3], 5)
        single = sample_sigmas(
            tiny, hook.attach(tiny[0], constant)[0], sigmas, latent=tiny[3], noise=noise
        )
        patched, trace = hook.attach(tiny[0], constant, 1.0, sigmas)
        first = sample_sigmas(tiny, patched, sigmas[:4], latent=tiny[3], noise=noise)
        last = sample_sigmas(tiny, patched, sigmas[3:], latent=first, noise=torch.zeros_like(noise))
        times = [step["t_star"][0] for run in trace.runs for step in run.steps]
    else:
        common = dict(seed=5, cfg=3.0, positive=tiny[1], negative=tiny[2])
        args = (tiny[0], constant, 1.0, 6, "euler", "simple")

        def stage(latent, start, end, noise, leftover):
            out, trace = node.async_ksampler(
                *args,
                **common,
                latent={"samples": latent},
                disable_noise=not noise,
                start_step=start,
                last_step=end,
                force_full_denoise=not leftover,
            )
            return out["samples"], [s["t_star"][0] for s in trace.runs[-1].steps]

        single, _ = stage(tiny[3], 0, 10000, True, False)
        first, head = stage(tiny[3], 0, 3, True, True)
        last, tail = stage(first, 3, 10000, False, False)
        times = head + tail
    u = tiny[0].get_model_object("model_sampling").timestep(sigmas[:-1]).double().numpy()
    assert np.allclose(times, expected_times(u, 0.5, 0.0, 1e9), rtol=1e-5)
    scale = float(single.abs().max())
    assert float((last - single).abs().max()) <= 2e-5 * scale  # leaving and entering rounds once


def test_without_the_schedule_a_stage_starts_synchronous(pack, families):
    tiny = families["flux"]
    sigmas = schedule(tiny[0], 6)
    patched, trace = attach(pack, tiny, 0.5)
    sample_sigmas(tiny, patched, sigmas[3:])
    steps = trace.runs[-1].steps
    assert steps[0]["t_star"][0] == steps[0]["t"] and steps[1]["t_star"][0] < steps[1]["t"]


def test_follow_time_is_detail_daemon_on_flow_models(pack, families):
    """omega_k = t*_k / t_k: the same latents as calling the model with the lower sigma."""
    tiny = families["flux"]
    sigmas = schedule(tiny[0], 5)
    patched, trace = attach(pack, tiny, 0.5, mode="follow_time")
    out = sample_sigmas(tiny, patched, sigmas, cfg=1.0)
    told = [step["t_star"][0] for step in trace.runs[-1].steps]
    daemon = comfy_stubs.euler_lying_sigma(tiny, sigmas, told)
    plain = sample_sigmas(tiny, attach(pack, tiny, 0.5)[0], sigmas, cfg=1.0)
    scale = float(daemon.abs().max())
    assert float((out - daemon).abs().max()) <= 1e-5 * scale
    assert float((plain - daemon).abs().max()) > 1e-3 * scale, "lying sigma is another method"


@pytest.mark.parametrize("family", FAMILIES)
def test_omega_scales_the_velocity_but_not_on_the_last_step(pack, families, family):
    tiny = families[family]
    sigmas = schedule(tiny[0], 4)
    velocity = pack("tpm.policies").VelocityScale(None, 0.8)
    patched, trace = attach(pack, tiny, velocity)
    out = sample_sigmas(tiny, patched, sigmas, cfg=1.0)
    assert [step["omega"][0] for step in trace.runs[-1].steps] == pytest.approx(
        [0.8, 0.8, 0.8, 1.0]
    )
    times = [step["t"] for step in trace.runs[-1].steps]
    reference = comfy_stubs.euler_with_times(tiny, sigmas, times, omegas=[0.8, 0.8, 0.8, 1.0])
    assert torch.allclose(out, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))


def test_window_is_on_the_true_sigma(pack, families):
    tiny = families["sd35"]
    p = pack("tpm.policies")
    patched, trace = attach(pack, tiny, p.Window(p.Constant(0.5), 0.25, 0.75))
    sample(tiny, patched, steps=8)
    sampling = tiny[0].get_model_object("model_sampling")
    start, end = sampling.percent_to_sigma(0.25), sampling.percent_to_sigma(0.75)
    active = [step["deviation"][0] != 0 for step in trace.runs[-1].steps]
    inside = [end <= step["sigma"] <= start for step in trace.runs[-1].steps]
    assert active == inside and any(active) and not all(active)


def test_presets_follow_the_family(pack, families):
    preset = pack("tpm.policies").Preset("auto")
    told, cuts = {}, {}
    for family in FAMILIES:
        patched, trace = attach(pack, families[family], preset)
        sample(families[family], patched, steps=4)
        run = trace.runs[-1]
        told[family] = [round(s["deviation"][0], 3) for s in run.steps], not run.tuned
        cuts[family] = [s["cut_percent"][0] for s in run.steps]
    assert told["flux"] == ([0.0, 0.5, 0.5, 0.5], False)
    assert told["sd35"] == ([0.0, 0.2, 0.2, 0.2], False)
    # a quarter of its steep intervals would cut 20 % of sigma and more
    (first, *middle, last), untuned = told["sd15"]
    assert first == last == 0 and untuned and all(0 < d < 0.25 for d in middle)
    assert cuts["sd15"][1:3] == pytest.approx([10.0, 10.0], abs=0.3)  # to the nearest of 1000 times


def test_rising_sigmas_are_refused_in_one_sentence(pack, families):
    tiny = families["flux"]
    with pytest.raises(ValueError, match="expected a schedule of two or more falling values"):
        attach(pack, tiny, sigmas=torch.tensor([0.0, 0.5, 1.0]))
