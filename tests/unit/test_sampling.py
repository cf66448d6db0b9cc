"""The laboratory's Euler loop against hand-written steps, with a velocity that shows its time."""

from __future__ import annotations

import pytest
import torch

from async_timestep.training.tiny.backbone import simple_sigmas
from async_timestep.training.tiny.sampling import euler, generate


class Line:
    """A stand-in for the backbone: v = t everywhere, so that the result shows every t* used."""

    def __init__(self):
        self.times = []
        self.vae = self

    def velocity(self, x, t, captions, guidance):
        self.times.append(t.clone())
        return t[:, None, None, None].expand_as(x)

    def noise(self, seeds):
        return torch.tensor(seeds, dtype=torch.float32)[:, None, None, None].expand(-1, 16, 2, 2)

    def decode(self, latents):
        return latents


SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.0])
NOISE = torch.zeros(2, 16, 2, 2)


def run(**method):
    line = Line()
    return euler(line, ["", ""], NOISE, SIGMAS, 3.0, **method), torch.stack(line.times, 1)


def test_synchronous_times_are_the_grid():
    x, times = run()
    assert torch.equal(times, SIGMAS[:-1].expand(2, 3))
    assert torch.allclose(x, torch.tensor(-0.25 - 0.25 * 0.75 - 0.5 * 0.5))


def test_deviation_moves_the_network_time_only():
    x, times = run(deviation=0.5)
    assert torch.allclose(times[0], torch.tensor([1.0, 0.625, 0.375]))
    assert torch.allclose(x, torch.tensor(-0.25 - 0.25 * 0.625 - 0.5 * 0.375))


def test_lying_scales_the_velocity_too():
    x, times = run(deviation=0.5, lying=True)
    assert torch.allclose(times[0], torch.tensor([1.0, 0.625, 0.375]))
    expected = -0.25 - 0.25 * 0.625 * (0.625 / 0.75) - 0.5 * 0.375 * (0.375 / 0.5)
    assert torch.allclose(x, torch.tensor(expected))


def test_omega_is_one_on_the_last_step():
    x, _ = run(omega=0.5)
    assert torch.allclose(x, torch.tensor(0.5 * (-0.25 - 0.25 * 0.75) - 0.5 * 0.5))


def test_values_by_sample_and_by_step():
    _, times = run(deviation=torch.tensor([0.0, 1.0]))
    assert torch.allclose(times, torch.tensor([[1.0, 0.75, 0.5], [1.0, 0.5, 0.25]]))
    _, times = run(deviation=torch.tensor([[9.0, 0.0, 1.0], [9.0, -1.0, 0.0]]))
    assert torch.allclose(times, torch.tensor([[1.0, 0.75, 0.25], [1.0, 1.0, 0.5]]))
    _, times = run(percent=0.5)
    assert torch.allclose(times[0], torch.tensor([1.0, 0.7125, 0.475]))
    with pytest.raises(ValueError, match="one a sample"):
        run(deviation=torch.zeros(3))


def test_time_is_clamped():
    _, times = run(deviation=5.0)
    assert torch.equal(times[:, 1:], torch.full((2, 2), 1e-3))


def test_generate_splits_tensors_with_the_batch():
    deviation = torch.linspace(0, 1, 5)
    sigmas = simple_sigmas(4)
    seeds = list(range(5))
    whole = generate(Line(), [""] * 5, seeds, sigmas, 3.0, batch=5, deviation=deviation)
    parts = generate(Line(), [""] * 5, seeds, sigmas, 3.0, batch=2, deviation=deviation)
    assert torch.equal(whole, parts)
