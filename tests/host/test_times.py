"""D > 0 is cleaner on every kind of sampling that the host has, in every unit, mode and preset."""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sampling import PerSample, sample, sample_sigmas

import comfy.model_base
import comfy.model_sampling as host_sampling
import comfy.samplers
from async_timestep.harness.tiny_families import BUILDERS
from comfy_extras import nodes_model_advanced

# every class of the host that has a time, and every one that has a parametrisation
TIMES = {
    name: cls
    for module in (host_sampling, nodes_model_advanced)
    for name, cls in vars(module).items()
    if inspect.isclass(cls) and issubclass(cls, torch.nn.Module) and hasattr(cls, "timestep")
}
FORMS = {
    name: cls
    for module in (host_sampling, nodes_model_advanced)
    for name, cls in vars(module).items()
    if inspect.isclass(cls) and hasattr(cls, "calculate_denoised") and name not in TIMES
}
ZERO = ", zero terminal SNR"
MODEL_TYPES = [kind.name for kind in comfy.model_base.ModelType]
MODEL_TYPES.insert(MODEL_TYPES.index("V_PREDICTION") + 1, f"V_PREDICTION{ZERO}")
NAMES = [*TIMES, f"ModelSamplingDiscrete{ZERO}"]
LOGARITHMS = {"ModelSamplingContinuousEDM", "ModelSamplingDiscreteEDM"}
FLOWS = {"ModelSamplingDiscreteFlow", "ModelSamplingFlux"}


def made(name: str, form: str = "EPS", **more):
    """An instance, as the host's nodes make theirs: the time's class before the form's."""
    if name.endswith(ZERO):
        more["zsnr"] = True
    return type("ModelSampling", (TIMES[name.removesuffix(ZERO)], FORMS[form]), {})(**more)


def sampling_of(kind: str):
    """That of a model of this type, as the host makes it."""
    settings = {"zsnr": True} if kind.endswith(ZERO) else {}
    config = type("Config", (), {"sampling_settings": settings})()
    own = comfy.model_base.ModelType[kind.removesuffix(ZERO)]
    return comfy.model_base.model_sampling(config, own)


@functools.lru_cache(maxsize=2)
def table_of(sampling) -> tuple[np.ndarray, np.ndarray]:
    """Times and logarithms of the sigmas that the class keeps for the schedulers."""
    times = sampling.timestep(sampling.sigmas).double().numpy()
    return times, sampling.sigmas.double().log().numpy()


def sigma_of(sampling, u: float) -> float:
    """By interpolation in its table."""
    return float(np.exp(np.interp(u, *table_of(sampling))))


def told(pack, sampling, sigmas, policy) -> list[tuple[float, float, float]]:
    """(sigma, u, u*) of every evaluation after the first, by the policy's own decision."""
    times, policies = pack("nodes.run.times"), pack("tpm.policies")
    time, rows = times.ModelTime(sampling), []
    grid = times.grid_times(time, sigmas, torch.device("cpu"))
    for k in range(1, len(sigmas) - 1):
        last = float(sigmas[k + 1]) == 0
        state = policies.State(k, len(sigmas) - 1, float(sigmas[k]), last, 1, "cpu", "sd15",
                               lambda p: float(sampling.percent_to_sigma(p)))  # fmt: skip
        u = time.of(sigmas[k : k + 1])
        u_star = time.star(u, grid[k - 1], policy.decide(state))
        rows.append((float(sigmas[k]), float(u), float(u_star)))
    return rows


def policies_of(pack, sign: int):
    made_of, presets = pack("tpm.policies"), pack("tpm.families").PRESETS
    for unit in made_of.UNITS:
        for mode in made_of.MODES:
            yield made_of.Constant(sign * 0.5, unit, mode)
            yield made_of.Scaled(made_of.Constant(1.0, unit, mode), sign * 4.0)
            for preset in ("auto", *presets):
                yield made_of.Scaled(made_of.Preset(preset, mode, unit), sign * 1.0)


def test_the_table_has_every_kind_of_the_host():
    assert len(TIMES) >= 9 and len(FORMS) >= 10, (list(TIMES), list(FORMS))
    assert LOGARITHMS | FLOWS < set(TIMES)


@pytest.mark.parametrize("scheduler", ["simple", "karras", "exponential", "sgm_uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_positive_is_cleaner_and_negative_noisier(pack, name, scheduler):
    sampling = made(name)
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, 8)
    time = pack("nodes.run.times").ModelTime(sampling)
    for sign in (1, -1):
        for policy in policies_of(pack, sign):
            for sigma, u, u_star in told(pack, sampling, sigmas, policy):
                same = sigma_of(sampling, u)  # a table's own rounding is in both
                moved = sigma_of(sampling, u_star)
                case = (policy, sigma, u, u_star)
                assert sign * (u - u_star) >= 0 and sign * (same - moved) >= 0, case
                inside = time.lowest < u_star < time.highest and u > time.lowest
                untuned = getattr(policy, "policy", None) and sigma == float(sigmas[-2])
                if inside and not untuned:
                    assert sign * (same - moved) > 0, case


@pytest.mark.parametrize("name", NAMES)
def test_percent_is_a_share_of_the_time_or_of_sigma(pack, name):
    sampling = made(name)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", 8)
    time = pack("nodes.run.times").ModelTime(sampling)
    assert (time.is_sigma, time.is_logarithm) == (name in FLOWS, name in LOGARITHMS)
    for deviation in (0.5, 1.0):
        policy = pack("tpm.policies").Constant(deviation, "percent")
        for _, u, u_star in told(pack, sampling, sigmas, policy)[:-1]:
            if u_star <= time.lowest + 1e-6 * abs(time.lowest):
                continue  # clamped, Algorithm 2 line 10
            if name in LOGARITHMS:
                assert np.exp(4 * (u_star - u)) == pytest.approx(1 - 0.1 * deviation, rel=1e-5)
            else:
                assert u_star == pytest.approx(u * (1 - 0.1 * deviation), rel=1e-5)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", NAMES)
def test_ratios_of_sigma(pack, name, form):
    """Against the class's own table; batches of 1, 2 and 3, since the host's own Cosmos takes only
    one number at a time."""
    sampling = made(name, form)
    time = pack("nodes.run.times").ModelTime(sampling)
    ends = (time.lowest, time.highest)
    for batch in (1, 2, 3):
        u = torch.linspace(0.3, 0.8, batch) * (ends[1] - ends[0]) + ends[0]
        u_star = u - 0.1 * (ends[1] - ends[0])
        u_star[-1:] = u[-1:] if batch > 1 else u_star[-1:]
        ratio = time.sigma_ratio(u, u_star)
        for r, a, b in zip(ratio.tolist(), u.tolist(), u_star.tolist(), strict=True):
            assert r == pytest.approx(sigma_of(sampling, b) / sigma_of(sampling, a), rel=5e-3)
            assert r == 1 if a == b else 0 < r < 1
    flow = time.flow_time(torch.tensor([float(sampling.sigma_min), float(sampling.sigma_max)]))
    assert 0 < float(flow[0]) < float(flow[1]) <= 1


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_samples_in_batches(pack, families, kind):
    """The whole run on a tiny network whose model_sampling is exchanged as the host's nodes do."""
    stock, *rest = families["sd35"]
    model = stock.clone()
    sampling = sampling_of(kind)
    model.add_object_patch("model_sampling", sampling)
    sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", 4)
    tiny = (model, *rest)
    for batch in (1, 2, 3):
        latent = rest[2].repeat(batch, 1, 1, 1)
        attach, constant = pack("nodes.run.hook").attach, pack("tpm.policies").Constant
        plain = sample_sigmas(tiny, model, sigmas, cfg=1.0, latent=latent)
        zero = sample_sigmas(tiny, attach(model, constant(0.0))[0], sigmas, cfg=1.0, latent=latent)
        assert torch.equal(plain, zero)
        for unit in ("interval", "percent"):
            for mode in ("conditioning", "follow_time"):
                patched, trace = attach(model, constant(0.5, unit, mode))
                out = sample_sigmas(tiny, patched, sigmas, cfg=1.0, latent=latent)
                assert torch.isfinite(out).all() and not torch.equal(out, plain)
                steps = trace.runs[-1].steps
                assert all(c >= 0 for step in steps for c in step["cut_percent"])
                assert all(c > 0 for step in steps[1:3] for c in step["cut_percent"])


TIME_OF = {
    "ModelSamplingDiscreteFlow": "sigma x 1000",
    "ModelSamplingFlux": "sigma",
    "ModelSamplingDiscrete": "place in a table of 1000",
    "StableCascadeSampling": "angle of the cosine schedule, 0 to 1",
    "ModelSamplingContinuousEDM": "log(sigma) / 4",
    "ModelSamplingContinuousV": "atan(sigma) / 90 degrees",
    "ModelSamplingCosmosRFlow": "sigma / (1 + sigma)",
}


def table(pack) -> str:
    """How much of sigma D = +0.5 cuts, in percent, at the second, the sixth and the ninth of 10
    evaluations (karras); `-` where the lowest time is reached."""
    policies, rows = pack("tpm.policies"), []
    for kind in MODEL_TYPES:
        sampling = sampling_of(kind)
        time = pack("nodes.run.times").ModelTime(sampling)
        name = next(c.__name__ for c in type(sampling).__mro__[1:] if c.__name__ in TIMES)
        sigmas = comfy.samplers.calculate_sigmas(sampling, "karras", 10)
        cells = []
        for unit in policies.UNITS:
            cuts = []
            for _, u, u_star in told(pack, sampling, sigmas, policies.Constant(0.5, unit)):
                ratio = time.sigma_ratio(torch.tensor([u]), torch.tensor([u_star]))
                cuts.append("-" if u_star <= time.lowest else f"{100 * (1 - float(ratio)):.1f}")
            cells.append(", ".join((cuts[0], cuts[4], cuts[-2])))
        what = "sigma" if time.is_logarithm else "the time"
        rows.append(f"| {kind} | {TIME_OF[name]} | {what} | {cells[0]} | {cells[1]} |")
    head = (
        "| ComfyUI's model type | the network's time | percent is a share of | interval | percent |"
    )
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def cells_of(text: str) -> list[float | str]:
    """Every cell of the tables in a text, its numbers as numbers."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [part.strip(" |") for row in rows for part in re.split(r"[|,]", row)]
    return [float(c) if re.fullmatch(r"[\d.]+", c) else c for c in cells]


def test_the_page_has_this_table(pack):
    page = (Path(__file__).parents[2] / "docs" / "guides" / "times.md").read_text()
    wanted = table(pack)
    for found, cell in zip(cells_of(page), cells_of(wanted), strict=True):
        same = found == (pytest.approx(cell, abs=0.15) if isinstance(cell, float) else cell)
        assert same, f"put this into docs/guides/times.md:\n{wanted}"


@pytest.mark.parametrize("name", list(BUILDERS))
def test_batches_of_every_family(pack, tmp_path_factory, name):
    """A deviation for each image; images without one get the stock latents, in any batch."""
    tiny = BUILDERS[name](tmp_path_factory.getbasetemp())
    empty = tiny[3]
    for batch in (1, 2, 3):
        latent = empty.repeat(batch, *[1] * (empty.ndim - 1))
        stock, _ = sample(tiny, steps=3, cfg=1.0, latent=latent)
        zero = pack("nodes.run.hook").attach(tiny[0], PerSample(pack, [0.0] * batch))[0]
        assert torch.equal(sample(tiny, zero, steps=3, cfg=1.0, latent=latent)[0], stock)
        policy = PerSample(pack, [0.4, 0.0, -0.4][:batch])
        patched, trace = pack("nodes.run.hook").attach(tiny[0], policy)
        out, _ = sample(tiny, patched, steps=3, cfg=1.0, latent=latent)
        assert torch.isfinite(out).all() and not torch.equal(out[0], stock[0])
        for step in trace.runs[-1].steps[1:]:
            signs = [np.sign(c) for c in step["cut_percent"]]
            assert signs == [1, 0, -1][:batch]
        if batch > 1:
            moved, still = (float((out[i] - stock[i]).abs().max()) for i in (0, 1))
            assert still < 1e-4 * max(1.0, float(stock.abs().max())) < moved or still == 0
