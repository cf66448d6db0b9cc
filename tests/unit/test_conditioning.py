"""The equations of tpm/conditioning.py once more, in float64 and without torch."""

import math

import numpy as np
import pytest
import torch

from async_timestep.tpm.conditioning import (
    FLOW_TIME_MIN,
    conditioning_time,
    deviation_of_action,
    grid_index,
)


def flux_grid(steps: int, mu: float) -> np.ndarray:
    """diffusers' FlowMatch grid: linspace(1, 1/K) shifted by exp(mu), then 0."""
    t = np.linspace(1.0, 1.0 / steps, steps)
    return np.append(math.exp(mu) / (math.exp(mu) + 1 / t - 1), 0.0)


def paper(t, t_previous, deviation, gamma=1.0, low=1e-3, high=1.0):
    """Eq. 12 from t_{k-1} on, as printed, then the clamp of Algorithm 2, line 10."""
    delta = t - t_previous
    return np.clip(t_previous + delta + gamma * deviation * delta, low, high)


def as64(*values):
    return [torch.as_tensor(np.asarray(value), dtype=torch.float64) for value in values]


def test_conditioning_time_is_equation_12():
    rng = np.random.default_rng(0)
    t_previous = rng.uniform(0.2, 1.0, 500)
    t = t_previous * rng.uniform(0.1, 0.99, 500)
    deviation = rng.uniform(-1, 1, 500)
    for gamma in (0.5, 1.0, 2.0):
        u, before, d = as64(t, t_previous, gamma * deviation)
        found = conditioning_time(u, before, d, 0.0, 1e-3, 1.0)
        np.testing.assert_allclose(
            found.numpy(), paper(t, t_previous, deviation, gamma), rtol=1e-12
        )


def test_positive_deviation_is_cleaner_and_stays_inside_the_next_interval():
    grid = flux_grid(10, 0.63)
    for k in range(1, 10):
        u, before, d = as64([grid[k]] * 2, grid[k - 1], [0.5, -0.5])
        cleaner, noisier = conditioning_time(u, before, d, 0.0, 1e-3, 1.0).tolist()
        assert cleaner < grid[k] < noisier < grid[k - 1]


def test_flux_multipliers_are_those_of_the_specification():
    grid = flux_grid(10, 0.63)
    u, before = as64(grid[1:10], grid[:9])
    found = conditioning_time(u, before, torch.full_like(u, 0.5), 0.0, 1e-3, 1.0) / u
    known = [0.97, 0.965, 0.958, 0.948, 0.934, 0.913, 0.877, 0.802, 0.574]
    np.testing.assert_allclose(found.numpy(), known, atol=1e-3)


def test_the_last_step_of_the_sd35_grid_hits_the_clamp():
    u, before, d = as64([0.0089] * 4, 0.1939, [0.0, 0.02, 0.05, 1.0])
    found = conditioning_time(u, before, d, 0.0, FLOW_TIME_MIN, 1.0).tolist()
    assert found == pytest.approx([0.0089, 0.0089 - 0.02 * 0.185, 1e-3, 1e-3], rel=1e-9)


def test_upper_clamp():
    u, before, d = as64([0.9, 0.9], 1.0, [-3.0, -0.5])
    found = conditioning_time(u, before, d, 0.0, 1e-3, 1.0).tolist()
    assert found == pytest.approx([1.0, 0.95])


def test_zero_deviation_keeps_the_time_bit_for_bit():
    u = torch.tensor([0.3333333, 5e-4, 1.5], dtype=torch.float32)  # two of them outside the clamp
    zero = torch.zeros_like(u)
    assert torch.equal(conditioning_time(u, 1.0, zero, zero, 1e-3, 1.0), u)
    assert torch.equal(conditioning_time(u, 1.0, zero, 0.0, 1e-3, 1.0), u)


def test_each_sample_has_its_own_deviation():
    u = torch.tensor([0.6, 0.6, 0.6])
    found = conditioning_time(u, 0.8, torch.tensor([0.0, 0.5, -0.5]))
    assert found[0] == u[0] and found.tolist() == pytest.approx([0.6, 0.5, 0.7])


def test_cut_is_taken_off_the_time():
    u, zero, cut = as64([0.8, 0.8, 0.4], [0.0] * 3, [0.1, -0.1, 0.1])
    found = conditioning_time(u, 1.0, zero, cut * u, 1e-3, 1.0).tolist()
    assert found == pytest.approx([0.72, 0.88, 0.36])


@pytest.mark.parametrize(
    "bound,known", [(0.5, [-0.5, 0.0, 0.25, 0.5]), (1.0, [-1.0, 0.0, 0.5, 1.0])]
)
def test_deviation_of_action(bound, known):
    r = torch.tensor([0.0, 0.5, 0.75, 1.0])
    assert deviation_of_action(r, bound).tolist() == known


def test_grid_index_at_and_between_nodes():
    grid = torch.tensor(flux_grid(10, 1.15), dtype=torch.float32)
    for k in range(10):
        node, following = float(grid[k]), float(grid[k + 1])
        assert grid_index(grid, node) == k
        assert grid_index(grid, math.exp(math.log(node)) * (1 - 5e-5)) == k
        assert grid_index(grid, node * (1 + 5e-5)) == k
        assert grid_index(grid, (node + following) / 2) == k + 1
    assert grid_index(grid, 0.0) == 10
    assert grid_index(grid, 2.0) == 0


def test_a_time_below_the_clamp_never_becomes_noisier():
    """karras grids end near 3e-4: D > 0 there must not lift the time to 1e-3."""
    u, before, d = as64([3.16e-4, 3.16e-4], 2e-3, [0.5, -0.5])
    cleaner, noisier = conditioning_time(u, before, d, 0.0, 1e-3, 1.0).tolist()
    assert cleaner == pytest.approx(3.16e-4)
    assert noisier == pytest.approx(3.16e-4 + 0.5 * (2e-3 - 3.16e-4))
