"""The step times of bench/knobs.py: what is searched, and that it is sampled on its own grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_model import small_model

from async_timestep.bench.knobs import TIMES, OnItsOwnTimes, StepTimes, ThenSpace, TimesSpace
from async_timestep.tpm.policies import Constant
from async_timestep.tpm.schedule import Schedule
from async_timestep.training.backbones import load_backbone
from async_timestep.training.run.config import BackboneConfig
from async_timestep.training.run.rng import generator

CHOSEN = torch.tensor([1.0, 0.8, 0.3, 0.0])


@pytest.mark.parametrize("steps", [2, 3, 4, 6, 10])
def test_step_times_are_the_grid_with_other_widths(steps):
    grid = np.linspace(1, 0, steps + 1) ** 1.5
    space = TimesSpace(TIMES, tuple(grid.tolist()))
    nothing = space.schedule(torch.zeros(space.numbers, dtype=torch.float64)).sigmas
    assert np.allclose(nothing, grid, atol=1e-6)
    places = torch.cat([space.random(20, generator(0)), space.guesses()])
    for point in places:
        sigmas = space.schedule(point).sigmas.double().numpy()
        assert sigmas[0] == 1 and sigmas[-1] == 0 and (np.diff(sigmas) < 0).all()
        knots = np.linspace(0, steps - 1, space.numbers)
        wider = np.interp(np.arange(steps), knots, point.numpy())
        wanted = -np.diff(grid) * np.exp(wider)
        assert np.allclose(-np.diff(sigmas), wanted / wanted.sum(), atol=1e-6)


def test_what_follows_the_times_is_sampled_on_them():
    """Beside the backbone itself, given these sigmas and this schedule."""
    backbone = load_backbone(BackboneConfig(path=small_model()), torch.device("cpu"))
    conditioning = backbone.encode(["a red circle", "a blue square"])
    noise, grid = backbone.noise([generator(i) for i in range(2)]), backbone.sigmas(3)
    space = ThenSpace("deviation", tuple(CHOSEN.tolist()), CHOSEN)
    point = torch.tensor([0.4, 0.8], dtype=torch.float64)
    found, schedule = space.schedule(point), Schedule(space.times, (0.0, 0.5, 1.0), (1.0,) * 3)

    def of_times(policy, plain: StepTimes | None = None) -> torch.Tensor:
        return OnItsOwnTimes(backbone, plain).sample(conditioning, noise, grid, policy)

    def directly(sigmas, policy=None) -> torch.Tensor:
        return backbone.sample(conditioning, noise, sigmas, policy)

    assert torch.allclose(of_times(found), directly(CHOSEN, schedule), atol=1e-5)
    assert torch.equal(of_times(StepTimes(CHOSEN)), directly(CHOSEN))
    assert torch.equal(of_times(None), directly(grid))
    assert torch.equal(of_times(None, StepTimes(CHOSEN)), directly(CHOSEN))  # what it gains over
    nothing = space.schedule(torch.zeros(2, dtype=torch.float64))
    assert torch.equal(of_times(nothing), directly(CHOSEN, Constant(0.0)))
    four = [directly(s, p) for s in (grid, CHOSEN) for p in (None, schedule)]
    assert all(not torch.allclose(four[i], four[j]) for i in range(4) for j in range(i))
