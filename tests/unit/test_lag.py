"""AsynDM's lags behind the grid, noise levels between its nodes, and one step for every pixel."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from async_timestep.asyndm.lag import CURVES, MAX_LAG, meeting_node, next_lag
from async_timestep.asyndm.sigmas import flow_space, log_space, sigma_at, table_space
from async_timestep.asyndm.steps import (
    ancestral_levels,
    ancestral_step,
    euler_step,
    flow_ancestral_step,
)

often = settings(max_examples=60, deadline=None, derandomize=True, database=None)
lengths, curves, seeds = st.integers(2, 60), st.sampled_from(CURVES), st.integers(0, 2**31)
strengths = st.floats(0.0, 1.0, width=32)


def run(weights, last: int, curve: str) -> torch.Tensor:
    """(last + 3, ...): the lags at the nodes 0 ... last + 2 under weights(i)."""
    lags = [torch.zeros_like(weights(0))]
    for i in range(last + 2):
        lags.append(next_lag(lags[-1], weights(i), i, last, curve))
    return torch.stack(lags)


def constant(value: float, last: int, curve: str) -> torch.Tensor:
    return run(lambda i: torch.tensor([value]), last, curve)[:, 0]


def toggling(seed: int, strength: float, last: int, curve: str) -> torch.Tensor:
    """24 pixels: half enter and leave a hard mask at random, half a soft one."""
    random = torch.Generator().manual_seed(seed)
    mask = torch.rand(last + 2, 24, generator=random)
    mask[torch.rand(last + 2, 24, generator=random) < torch.linspace(0, 1, 24)] = 0
    mask[:, ::2] = mask[:, ::2].ceil()
    return run(lambda i: strength * mask[i], last, curve)


@often
@given(lengths, strengths, curves, seeds)
def test_a_toggling_pixel_stays_between_the_linear_and_the_all_ones_curve(last, w, curve, seed):
    lags, ones = toggling(seed, w, last, curve), constant(w, last, curve)
    assert (lags >= 0).all() and (lags <= ones[:, None] + 2e-6 * last).all()
    assert lags.max() <= MAX_LAG[curve] * w * last + 1e-5 * last


@often
@given(lengths, strengths, curves, seeds)
def test_a_position_never_decreases_and_all_pixels_meet_at_the_last_node(last, w, curve, seed):
    lags = toggling(seed, w, last, curve)
    assert torch.equal(lags[last:], torch.zeros(3, 24))
    position = torch.arange(last + 3)[:, None] - lags
    rounding = 1e-7 * last if curve == "linear" else 0.0  # d + 1 at strength 1 is rounded up
    assert (position.diff(dim=0) >= -rounding).all()
    assert (position >= 0).all()
    grid = torch.linspace(14.6, 0.03, last + 1)
    assert (sigma_at(grid, position, log_space()).diff(dim=0) <= 50 * rounding).all()


@often
@given(lengths, st.floats(0.03125, 1.0, width=32), curves, seeds)
def test_strength_0_or_mask_0_is_exactly_0_beside_pixels_that_lag(last, w, curve, seed):
    mask = torch.rand(1, 1, 3, 5, generator=torch.Generator().manual_seed(seed))
    mask[..., 1:, ::2] = 0
    lags = run(lambda i: w * mask, last, curve)
    assert not constant(0.0, last, curve).any() and not lags[:, mask == 0].any()
    assert (lags[1:last, mask > 0] > 0).all()


@often
@given(lengths, strengths, curves, seeds)
def test_a_soft_mask_is_a_strength(last, w, curve, seed):
    soft = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    lags = run(lambda i: soft * w, last, curve)
    for pixel, m in enumerate(soft):
        assert torch.equal(lags[:, pixel], run(lambda i, alone=m * w: alone, last, curve))
    scaled = soft * constant(w, last, curve)[:, None]
    torch.testing.assert_close(lags, scaled, rtol=0, atol=2e-6 * last)


@often
@given(lengths, strengths, curves)
def test_closed_forms_of_a_constant_mask(last, w, curve):
    i, x = np.arange(last + 1), np.linspace(0, 1, last + 1)
    known = {
        "quadratic": w * i * (last - i) / last,
        "linear": w * np.minimum(i, last - i),
        "exponential": w * last * (x - np.expm1(x) / (math.e - 1)),
    }
    found = constant(w, last, curve)[:-2].double().numpy()
    np.testing.assert_allclose(found, known[curve], rtol=0, atol=1e-5 * last)
    if curve == "quadratic" and w == 1:
        np.testing.assert_allclose(i - found, i**2 / last, rtol=0, atol=1e-5 * last)


@often
@given(lengths, strengths, strengths, curves, seeds)
def test_more_weight_or_more_lag_never_gives_less_lag(last, w, v, curve, seed):
    """Also where a soft mask falls: inside, a pixel loses no more lag than outside."""
    low, high = (torch.full((1,), f(w, v)) for f in (min, max))
    lags = torch.cat([toggling(seed, 1.0, last, curve)[:last], torch.zeros(last, 1)], dim=1)
    for i, d in enumerate(lags):
        d = d.sort().values
        more, less, outside = (next_lag(d, z, i, last, curve) for z in (high, low, 0 * low))
        assert torch.equal(outside, d * (max(last - i - 1, 0) / (last - i)))
        assert (more >= less - 1e-6 * last).all() and (less >= outside - 1e-6 * last).all()
        assert (more.diff() >= -1e-6 * last).all()


def test_the_official_rule_at_50_steps():
    grid = torch.arange(1001.0, 0, -20)
    for strength, first, late in [(0.3, 986.9, 26.9), (0.5, 990.8, 30.8), (0.7, 994.7, 34.7)]:
        position = torch.arange(51) - constant(strength, 50, "quadratic")[:51]
        times = sigma_at(grid, position, flow_space()).tolist()
        assert times[:2] + times[49:] == pytest.approx([1001, first, late, 1], abs=0.05)


def test_a_weight_above_1_lets_sigma_rise():
    lags = run(lambda i: torch.tensor(1.2 if i >= 3 else 0.0), 60, "quadratic")
    sigma = sigma_at(torch.linspace(1, 0, 62), torch.arange(63) - lags, flow_space())
    assert sigma[4] > sigma[3]


def test_an_unknown_curve_is_an_error():
    with pytest.raises(ValueError, match="'cubic'; choose one of quadratic, linear, exponential"):
        next_lag(torch.zeros(1), torch.ones(1), 0, 10, "cubic")


def test_the_meeting_node_is_the_last_above_0():
    assert meeting_node([3.0, 2.0, 1.0, 0.0]) == 2 and meeting_node([3.0, 2.0, 1.0]) == 2
    assert meeting_node(torch.tensor([1.0, 0.0])) == 0


KEPT = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)  # Stable Diffusion's
TABLE = torch.tensor(0.5 * np.log((1 - KEPT) / KEPT), dtype=torch.float32)
SPACES = {"flow": flow_space(), "log": log_space(), "table": table_space(TABLE)}


def falling(seed: int, steps: int, space: str, to_zero: bool) -> torch.Tensor:
    """A grid; for a table its ends lie outside (karras below it, zero terminal SNR above)."""
    low, high = dict(flow=(1e-3, 1.0), log=(2e-3, 80.0), table=(3e-4, 4518.0))[space]
    inside = np.random.default_rng(seed).uniform(math.log(low), math.log(high), steps - 1)
    nodes = [high, *np.exp(np.sort(inside)[::-1]), low] + [0.0] * to_zero
    return torch.tensor(nodes, dtype=torch.float32)


@pytest.mark.parametrize("space", SPACES)
@often
@given(st.integers(1, 30), seeds, st.booleans())
def test_levels_are_node_bits_at_nodes_and_fall_between_them(space, steps, seed, to_zero):
    grid = falling(seed, steps, space, to_zero)
    whole = torch.arange(len(grid)).float()
    assert torch.equal(sigma_at(grid, whole, SPACES[space]), grid)
    random = torch.Generator().manual_seed(seed)
    near = torch.arange(steps).double() + 1e-9  # where a logarithm's rounding could pass a node
    position = torch.cat([torch.rand(200, generator=random) * steps, near]).sort().values
    found = sigma_at(grid, position, SPACES[space])
    assert found.dtype == torch.float32 and (found.diff() <= 0).all()
    k = position.floor().long()
    assert (found <= grid[k]).all() and (found >= grid[(k + 1).clamp(max=steps)]).all()
    mapped = sigma_at(grid, position[:200].view(2, 1, 10, 10), SPACES[space])
    assert torch.equal(mapped.flatten(), found[:200])


def test_between_two_nodes_each_space_has_its_own_mean():
    pair, half = torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.25])
    assert sigma_at(pair, half, SPACES["flow"]).tolist() == pytest.approx([0.65, 0.775])
    geometric = [math.sqrt(0.36), 0.9**0.75 * 0.4**0.25]
    assert sigma_at(pair, half, SPACES["log"]).tolist() == pytest.approx(geometric, rel=1e-6)
    end = TABLE[[21, 1]].exp()
    for nodes, known in ((end, TABLE[11]), (TABLE[[1, 0]].exp(), TABLE[:2].mean())):
        middle = sigma_at(nodes, half, SPACES["table"])[0]
        torch.testing.assert_close(middle, known.exp(), rtol=1e-5, atol=0)
    assert sigma_at(end, half, SPACES["log"])[0] < TABLE[7].exp()


def levels(seed: int, top: float, dtype=torch.float32):
    """x, denoised, noise (2, 3, 4, 5) and a map s >= s' with some pixels that do not move."""
    random = torch.Generator().manual_seed(seed)
    x, x0, noise = torch.randn(3, 2, 3, 4, 5, generator=random, dtype=dtype)
    s = top * (0.01 + 0.98 * torch.rand(2, 1, 4, 5, generator=random, dtype=dtype))
    s_next = s * torch.rand(2, 1, 4, 5, generator=random, dtype=dtype)
    return x, x0, noise, s, torch.where(torch.rand(s.shape, generator=random) < 0.3, s, s_next)


@often
@given(seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_equal_levels_have_the_bits_of_the_scalar_samplers(seed, eta):
    x, x0, noise, *maps = levels(seed, 0.99)
    a, b = (m.flatten()[0] for m in maps)
    s, t = (m.expand(2, 1, 4, 5).clone() for m in (a, b))
    d = (x - x0) / a
    assert torch.equal(euler_step(x, x0, s, t), x + d * (b - a))
    up = min(b, eta * (b**2 * (a**2 - b**2) / a**2) ** 0.5)
    down = (b**2 - up**2) ** 0.5
    assert torch.equal(ancestral_step(x, x0, s, t, noise, eta), x + d * (down - a) + noise * up)
    if a == b:
        return
    down = b * (1 + (b / a - 1) * eta)
    renoise = (b**2 - down**2 * (1 - b) ** 2 / (1 - down) ** 2) ** 0.5
    known = down / a * x + (1 - down / a) * x0
    if eta > 0:
        known = (1 - b) / (1 - down) * known + noise * renoise
    assert torch.equal(flow_ancestral_step(x, x0, s, t, noise, eta), known)


@often
@given(seeds, st.sampled_from([0.0, 0.5, 1.0]))
def test_a_map_of_levels_is_the_papers_ddim_and_the_rectified_flow_formula(seed, eta):
    x, x0, noise, s, t = levels(seed, 14.0, torch.float64)
    down, up = ancestral_levels(s, t, eta)
    torch.testing.assert_close(up**2 + down**2, t**2)
    a, b = 1 / (1 + s**2), 1 / (1 + t**2)
    variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    known = b**0.5 * x0 + (1 - b - variance).sqrt() * (x - x0) / s + variance.sqrt() * noise
    found = ancestral_step(x, x0, s, t, noise, eta) * b**0.5
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-9)

    x, x0, noise, s, t = (v.numpy() for v in levels(seed, 1.0, torch.float64))
    down = t + eta * t * (t - s) / s
    known = x + (down - s) * (x - x0) / s
    if eta > 0:
        scale = (1 - t) / (1 - down)
        known = scale * known + np.sqrt(np.maximum(t**2 - (scale * down) ** 2, 0)) * noise
    found = flow_ancestral_step(*map(torch.tensor, (x, x0, s, t, noise)), eta)
    np.testing.assert_allclose(found.numpy(), known, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("form", [ancestral_step, flow_ancestral_step])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_pixel_that_stays_is_unchanged_and_one_at_0_is_denoised(form, eta):
    x, x0, noise, s, t = levels(0, 1.0)
    s[0, 0, 0, 0] = t[0, 0, 0, 0] = 1.0  # where the flow has no signal
    t[1, 0, 1] = 0
    found, still = form(x, x0, s, t, noise, eta), (s == t).expand_as(x)
    assert still.any() and torch.equal(found[still], x[still])
    assert torch.equal(found[1, :, 1], x0[1, :, 1]) and found.isfinite().all()
    assert (eta == 0) == torch.equal(found[~still], form(x, x0, s, t, 0 * noise, eta)[~still])
    torch.testing.assert_close(euler_step(x, x0, s, t)[1, :, 1], x0[1, :, 1])


def test_the_linear_curve_at_strength_1_gives_no_nan():
    """A pixel that enters the mask stays at its level: d + 1, rounded up, lets sigma rise a bit."""
    lags = run(lambda i: torch.tensor([float(i in (3, 6))]), 10, "linear")
    s = sigma_at(torch.linspace(14, 0, 12), torch.arange(12) - lags[:12, 0], flow_space())
    assert not any(ancestral_levels(a, b, 1.0)[1].isnan() for a, b in pairwise(s))
