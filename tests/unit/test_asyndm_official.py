"""Golden tables of AsynDM: the official rules, written in timesteps, against lags behind the grid.

The rules are those of the released code: states in training timesteps from a virtual start at
1001, all pixels at 1 one evaluation before the end. On the grid 1001, 981, ..., 21, 1 (50 steps)
they are ours.
"""

import math

import numpy as np
import pytest
import torch

from async_timestep.asyndm.lag import meeting_node, next_lag
from async_timestep.asyndm.sigmas import sigma_at, table_space
from async_timestep.asyndm.steps import ancestral_step, euler_step

T, END, START = 1000.0, 1.0, 1001.0
CURVES = ("quadratic", "linear", "exponential")
STRENGTHS = (0.3, 0.5, 0.7)
# the first five states, the middle and the three before 1, inside the mask all the way
GOLDEN = {
    ("quadratic", 0.3): (986.88, 972.52, 957.92, 943.08, 928.0, 576.0, 77.92, 52.52, 26.88),
    ("quadratic", 0.5): (990.8, 980.2, 969.2, 957.8, 946.0, 626.0, 89.2, 60.2, 30.8),
    ("quadratic", 0.7): (994.72, 987.88, 980.48, 972.52, 964.0, 676.0, 100.48, 67.88, 34.72),
}


def inside(t, r: int, k: float, steps: int, curve: str):
    """The state after one transition with r left, inside the mask."""
    if curve == "quadratic":  # a parabola through (0, t) and (r, END), read at 1
        bend = -k * T / steps**2
        vertex = (bend * r**2 - (END - t)) / (2 * bend * r)
        return bend * (1 - vertex) ** 2 + t - bend * vertex**2
    if curve == "linear":
        slow, fast = (1 - k) * T / steps, (1 + k) * T / steps
        return np.minimum(t - slow, END + fast * r - fast)
    rate, high, straight = 1 / steps, -k * T / (math.e - 1), -(1 - k) * T / steps
    shifted = (t - END + straight * r) / (high * (1 - math.exp(rate * r)))
    return high * (math.exp(rate) - 1) * shifted + straight + t


def official(masks: np.ndarray, k: float, steps: int, curve: str) -> np.ndarray:
    """(steps + 1, ...) states in float64 from masks (steps, ...)."""
    states = [np.full(masks.shape[1:], START)]
    for i, mask in enumerate(masks):
        r, t = steps - i, states[-1]
        outside = t * (1 - 1 / r) + END / r
        states.append(np.where(mask, inside(t, r, k, steps, curve), outside))
    return np.stack(states)


def ours(masks: np.ndarray, k: float, steps: int, curve: str) -> torch.Tensor:
    """The lags at the same nodes, in float32 as the sampler has them."""
    weights = k * torch.from_numpy(masks).float()
    lags = [torch.zeros(masks.shape[1:])]
    for i, weight in enumerate(weights):
        lags.append(next_lag(lags[-1], weight, i, steps, curve))
    return torch.stack(lags)


def timesteps(lags: torch.Tensor, steps: int) -> np.ndarray:
    nodes = torch.arange(steps + 1).view(-1, *[1] * (lags.ndim - 1))
    return (START - T / steps * (nodes - lags.double())).numpy()


def toggling(steps: int, share: float = 0.5) -> np.ndarray:
    """Pixels that enter and leave at random; the first is always inside, the second never."""
    masks = np.random.default_rng(0).random((steps, 400)) < share
    masks[:, 0], masks[:, 1] = True, False
    return masks


@pytest.fixture(scope="module")
def alphas() -> torch.Tensor:
    """SD's cumulative alphas, float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("k", STRENGTHS)
@pytest.mark.parametrize("curve", CURVES)
def test_a_trajectory_under_a_toggling_mask_is_the_official_one(curve, k, steps):
    masks = toggling(steps)
    theirs, mine = official(masks, k, steps, curve), timesteps(ours(masks, k, steps, curve), steps)
    assert np.abs(theirs - mine).max() < 1e-3
    differ = theirs.round() != mine.round()
    assert (np.abs(theirs % 1 - 0.5)[differ] < 1e-3).all()  # ties: 990.5 may round to either


@pytest.mark.parametrize(("case", "golden"), GOLDEN.items())
def test_inside_all_the_way_the_states_are_these(case, golden):
    curve, k = case
    masks, nodes = toggling(50), [1, 2, 3, 4, 5, 25, 47, 48, 49]
    states = timesteps(ours(masks, k, 50, curve), 50)[:, 0]
    assert states[nodes] == pytest.approx(golden, abs=1e-3)
    assert official(masks, k, 50, curve)[nodes, 0] == pytest.approx(golden, abs=1e-9)
    assert states[50] == END


@pytest.mark.parametrize(
    ("k", "first", "late"), [(0.3, 987, 27), (0.5, 991, 31), (0.7, 995, 35), (1.0, 1001, 41)]
)
def test_the_first_state_and_the_last_before_all_pixels_meet(k, first, late):
    states = timesteps(ours(toggling(50), k, 50, "quadratic"), 50)[:, 0].round()
    assert (states[1], states[49]) == (first, late)


def test_outside_the_states_are_the_plain_grid():
    states = timesteps(ours(toggling(50), 0.7, 50, "quadratic"), 50)[:, 1]
    assert np.array_equal(states, np.linspace(START, END, 51))


@pytest.mark.parametrize("curve", CURVES)
def test_noise_levels_are_those_of_the_states(alphas, curve):
    """Through a grid of sigmas and back to the model's timesteps, as the sampler goes."""
    space = table_space(((1 - alphas) / alphas).sqrt().log())
    nodes = torch.linspace(START - 20, END, 50, dtype=torch.float64)
    grid = torch.cat([space.inverse(nodes).float(), torch.zeros(1)])
    assert meeting_node(grid) == 49
    masks = toggling(49)
    lags = ours(masks, 0.5, 49, curve)
    for i in range(50):
        s = sigma_at(grid, i - lags[i], space)
        states = START - 20 - 20 * (i - lags[i].double())
        assert (space.forward(s) - states).abs().max() < 2e-2  # a float32 sigma near 0.04


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_an_element_wise_step_is_ddim_in_variance_preserving_form(alphas, eta):
    """x' = sqrt(a') x0 + sqrt(1 - a' - s^2) eps + s n of the official step, per-pixel (t, t')."""
    random = torch.Generator().manual_seed(1)
    t = torch.randint(1, 1000, (2, 1, 16, 16), generator=random)
    after = (t * torch.rand(t.shape, generator=random)).long()
    after[:, :, :2] = t[:, :, :2]
    x, eps, noise = (torch.randn(2, 4, 16, 16, generator=random).double() for _ in range(3))
    a, b = alphas[t], alphas[after]
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    std = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    theirs = b.sqrt() * x0 + (1 - b - std**2).sqrt() * eps + std * noise

    s, s_next = ((1 - a) / a).sqrt(), ((1 - b) / b).sqrt()
    ve = x / a.sqrt()
    mine = ancestral_step(ve, ve - s * eps, s, s_next, noise, eta) * b.sqrt()
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    torch.testing.assert_close(mine[:, :, :2], x[:, :, :2], rtol=0, atol=1e-13)
    if eta == 0:
        euler = euler_step(ve, ve - s * eps, s, s_next) * b.sqrt()
        torch.testing.assert_close(euler, theirs, rtol=0, atol=1e-12)
