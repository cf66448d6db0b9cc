"""The numbers of a schedule by eye, against numpy's own line and the schedule file's policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from async_timestep.eye import shapes
from async_timestep.tpm.policies import State

TRIED = [(0.5, 0.1, 0.0), (-0.3, 0.2, 0.9), (0.0, 0.0, 0.0)]


def state(k: int, times: tuple[float, ...]) -> State:
    return State(
        k=k,
        steps=len(times) - 1,
        sigma=times[k],
        last=k == len(times) - 2,
        batch=2,
        device=torch.device("cpu"),
        family="tiny",
        percent_to_sigma=lambda percent: 1 - percent,
        previous=times[k - 1] if k else None,
    )


@pytest.mark.parametrize("numbers", TRIED)
@pytest.mark.parametrize("steps", [4, 5, 8, 20, 31])
def test_a_broken_line_through_three_knots(numbers, steps):
    level, slope, end = numbers
    found = shapes.deviations(numbers, steps)
    at = np.arange(1, steps)
    line = np.interp(at, [1, steps / 2, steps - 1], [level + slope, level - slope, end])
    assert found == pytest.approx(line)
    assert len(found) == steps - 1


def test_few_steps_have_fewer_numbers():
    assert [shapes.count(steps) for steps in (2, 3, 4, 50)] == [1, 2, 3, 3]
    assert shapes.deviations((0.4,), 2) == (0.4,)
    assert shapes.deviations((0.4, -0.1), 3) == (0.4, -0.1)
    for steps in (1, 0, -3):
        with pytest.raises(ValueError, match=f"steps is {steps}, expected 2 or more"):
            shapes.count(steps)


@pytest.mark.parametrize("numbers", TRIED)
@pytest.mark.parametrize("mode", ["conditioning", "follow_time"])
def test_by_place_and_by_time_it_is_the_same_policy(numbers, mode):
    times = (1.0, 0.93, 0.8, 0.55, 0.2, 0.0)
    by_place, by_time = shapes.Shaped(numbers, mode), shapes.schedule(numbers, times, mode)
    for k in range(5):
        own, other = by_place.decide(state(k, times)), by_time.decide(state(k, times))
        assert torch.allclose(own.deviation, other.deviation)
        assert torch.equal(own.omega, other.omega) and own.follow == other.follow
        assert own.follow == (mode == "follow_time")
        assert bool((own.cut == 0).all()) and own.deviation.shape == (2,)
        if k == 0 or not any(numbers):
            assert bool((own.deviation == 0).all())


def test_knots_and_numbers_are_inverses_and_stay_within_the_limits():
    rng = np.random.default_rng(1)
    for m in (1, 2, 3):
        wild = rng.normal(0, 2, (50, m))
        assert np.allclose(shapes.of_knots(shapes.knots(wild)), wild)
        tame = shapes.knots(shapes.inside(wild))
        assert np.allclose(tame, np.clip(shapes.knots(wild), shapes.LOWEST, shapes.HIGHEST))
        places = shapes.knots(shapes.anywhere(200, m, rng))
        assert places.shape == (200, m)
        assert places.min() >= shapes.LOWEST and places.max() <= shapes.HIGHEST
        assert np.ptp(places, axis=0).min() > 1.5  # all over


def test_words():
    assert shapes.in_words((0.5, 0.1, 0.0)) == "D +.6, +.4, 0"
    assert shapes.in_words((1.2, 0.0, -0.15)) == "D +1.2, +1.2, -.15"
    assert shapes.in_words((-0.004,)) == "D 0"
    assert shapes.in_words((1.0, -0.1)) == "D +1, -.1"
