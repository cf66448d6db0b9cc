"""Time shift by variance against the paper's search over a window, written again in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from async_timestep.tpm.policies import Scaled, State, Window
from async_timestep.tpm.variance import VarianceMatch, marginal_variance, sigma_of_variance


def searched(x: np.ndarray, low: float, high: float, mixes: bool, data: float) -> float:
    """argmin over tau in [low, high] of |var(x) - sigma^2_tau|, on 200,001 times."""
    tau = np.linspace(low, high, 200_001)
    marginal = (1 - tau) ** 2 * data + tau**2 if mixes else data + tau**2
    return float(tau[np.abs(x.var(ddof=1) - marginal).argmin()])


def state(x: torch.Tensor, sigma: float, previous: float | None, **more) -> State:
    cpu = torch.device("cpu")
    return State(2, 4, sigma, False, len(x), cpu, "tiny", lambda p: 1 - p, None, x=x,
                 previous=previous, **more)  # fmt: skip


def latents(variance: float, count: int = 3, seed: int = 0) -> torch.Tensor:
    """Random images with a common offset, each with exactly this variance, but for rounding."""
    x = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    flat = x.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)
    return (flat.view_as(x) * variance**0.5 + 0.3).float()


@pytest.mark.parametrize("share", [-0.06, -0.02, 0.0, 0.01, 0.05])
@pytest.mark.parametrize("data", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(
    ("mixes", "sigma", "previous"),
    [(True, 0.9, 1.0), (True, 0.75, 0.9), (True, 0.55, 0.7), (False, 6.0, 14.6), (False, 1.2, 3.0)],
)
def test_it_is_the_papers_search(mixes, sigma, previous, data, share):
    x = latents(float(marginal_variance(torch.tensor(sigma), mixes, data)) * (1 + share))
    reach = 0.5 * (previous - sigma)
    low = sigma - reach
    if mixes:  # below its turn a mix has the same variances again
        low = max(low, data / (1 + data))
    tau = searched(x[0].double().numpy(), low, sigma + reach, mixes, data)
    found = VarianceMatch(data=data).decide(state(x, sigma, previous, mixes=mixes))
    t_star = sigma + found.deviation.double().numpy() * (sigma - previous)
    assert t_star == pytest.approx(np.full(3, tau), abs=2e-5 * previous)
    assert bool((found.omega == 1).all()) and not bool(found.cut.any()) and not found.follow


@pytest.mark.parametrize("mixes", [True, False])
def test_the_marginals_own_variance_shifts_nothing(mixes):
    for sigma, previous in ((0.9, 1.0), (0.75, 0.9)) if mixes else ((5.0, 9.0), (1.1, 2.0)):
        x = latents(float(marginal_variance(torch.tensor(sigma).double(), mixes)))
        found = VarianceMatch().decide(state(x, sigma, previous, mixes=mixes)).deviation
        assert found.abs().max() < 1e-5


def test_noisier_latents_are_told_a_noisier_time_and_each_image_its_own():
    calm, right, rough = (latents(v, 1) for v in (0.80, 0.82, 0.83))  # 0.82 is that of t = 0.9
    found = VarianceMatch().decide(state(torch.cat([calm, right, rough]), 0.9, 1.0)).deviation
    assert found[0] > 0.1 and found[1].abs() < 1e-5 and found[2] < -0.05


@pytest.mark.parametrize("mixes", [True, False])
def test_a_noise_level_has_one_variance_and_back(mixes):
    sigma = torch.linspace(0.5, 1.0, 50).double() if mixes else torch.linspace(0, 15, 50).double()
    found = sigma_of_variance(marginal_variance(sigma, mixes), mixes)
    torch.testing.assert_close(found, sigma, rtol=1e-6, atol=1e-6)
    lowest = sigma_of_variance(torch.tensor([0.0]), mixes)  # no time has so little
    assert lowest.tolist() == [0.5 if mixes else 0.0]


def test_the_window_is_the_largest_shift_and_zero_is_off():
    far = latents(0.3)
    for window in (0.0, 0.1, 0.5, 2.0):
        found = VarianceMatch(window).decide(state(far, 0.75, 0.9)).deviation
        assert found.tolist() == pytest.approx([min(window, 0.25 / 0.15)] * 3, abs=1e-6)
        assert window or not bool(found.any())
        found = VarianceMatch(window).decide(state(latents(9.0), 0.75, 0.9)).deviation
        assert found.tolist() == pytest.approx([-window] * 3)


def test_where_it_says_nothing():
    x = latents(0.9)
    quiet = [
        state(x, 0.5, 0.6),  # at the cutoff: the paper shifts above it
        state(x, 0.9, None),  # the first grid point
        state(x, 0.9, 0.9),  # no interval has passed
    ]
    for one in quiet:
        assert not VarianceMatch().decide(one).deviation.any()
    assert not VarianceMatch(cutoff=0.8).decide(state(x, 0.75, 0.9)).deviation.any()
    assert VarianceMatch(cutoff=0.7).decide(state(x, 0.75, 0.9)).deviation.any()
    assert not VarianceMatch(data=4.0).decide(state(x, 0.75, 0.9)).deviation.any()  # turn at 0.8
    assert not VarianceMatch().decide(state(x, 0.9, 2.0, mixes=False)).deviation.any()  # share .47
    without = State(2, 4, 0.9, False, 3, torch.device("cpu"), "tiny", float, previous=1.0)
    assert VarianceMatch().decide(without).deviation.tolist() == [0, 0, 0]


def test_the_shift_is_counted_in_the_models_own_time():
    """A model whose time is the logarithm of sigma, told the same noise level."""
    x, log = latents(4.0), lambda sigma: sigma.log()
    found = VarianceMatch(5.0).decide(state(x, 1.5, 3.0, mixes=False, timestep=log)).deviation
    u, u_previous = np.log(1.5), np.log(3.0)
    told = np.exp(u + found.double().numpy() * (u - u_previous))
    assert told == pytest.approx(np.full(3, np.sqrt(4.0 - 1.0)), rel=1e-5)


def test_it_composes_and_says_what_it_is():
    x = latents(0.81)
    own = VarianceMatch().decide(state(x, 0.9, 1.0)).deviation
    twice = Scaled(VarianceMatch(), 2.0).decide(state(x, 0.9, 1.0)).deviation
    assert torch.equal(twice, 2 * own) and own.all()
    assert not Window(VarianceMatch(), 0.5, 1.0).decide(state(x, 0.9, 1.0)).deviation.any()
    follow = VarianceMatch(mode="follow_time")
    assert follow.decide(state(x, 0.9, 1.0)).follow
    assert follow.label == "variance match, |D| <= 0.5, omega = t*/t"
    assert not VarianceMatch().learned and not VarianceMatch().needs_schedule


@pytest.mark.parametrize("window", [-0.1, float("nan"), float("inf"), 1e9])
def test_a_window_that_is_none(window):
    with pytest.raises(ValueError, match="window of variance match is .*, expected a number from"):
        VarianceMatch(window)
