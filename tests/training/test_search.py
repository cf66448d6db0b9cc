"""The schedule search on objectives whose optimum is known; the surrogate against a plain Bayesian
regression and against simulated noise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from async_timestep.training.run.rng import generator
from async_timestep.training.search import surrogate as gp
from async_timestep.training.search.generations import (
    Generation,
    Plan,
    conclusion,
    next_points,
    run_generation,
    search,
)
from async_timestep.training.search.space import LARGEST, SPACES, Space

TIMES = (1.0, 0.9, 0.75, 0.5, 0.0)
BEST = torch.tensor([0.6, 0.75, 0.0], dtype=torch.float64)  # in the box
SPREAD = 0.35  # of a paired difference, in standard deviations of the objective


def gain(points: torch.Tensor) -> torch.Tensor:
    """A quadratic that is 0 at the origin and .15 at BEST."""
    weights = torch.tensor([0.6, 0.6, 1.2], dtype=torch.float64)
    return (weights * (BEST**2 - (points - BEST) ** 2)).sum(-1) * 0.27


class Landscape:
    """measure() of a known gain: each prompt likes its own direction, and has noise of its own."""

    def __init__(self, space: Space, seed: int):
        self.space, self.seed, self.images = space, seed, 0

    def __call__(self, index: int, schedules: list, rows: range) -> torch.Tensor:
        deviations = [schedule.deviation[1:] for schedule in schedules]
        points = torch.tensor(deviations, dtype=torch.float64) / LARGEST
        self.images += len(rows) * (len(points) + 1)
        columns = []
        for row in rows:
            draw = generator(self.seed, index, row)
            liked = torch.randn(points.shape[1], generator=draw, dtype=torch.float64)
            own = torch.randn(64, generator=draw, dtype=torch.float64)
            # the same schedule has the same luck on the same prompt
            luck = own[(points.abs().sum(1) * 1e6).long() % 64]
            columns.append(gain(points) + SPREAD * (0.8 * points @ liked + 0.3 * luck))
        return torch.stack(columns, dim=1)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("steps", [2, 3, 4, 6, 10, 15])
def test_a_space_has_nothing_at_its_origin_and_stays_in_its_bounds(name, steps):
    space = Space(name, tuple(np.linspace(1, 0, steps + 1).tolist()))
    nothing = space.schedule(torch.zeros(space.numbers))
    assert set(nothing.deviation) == {0.0} and set(nothing.omega) == {1.0}
    assert nothing.mode == ("follow_time" if name == "follow_time" else "conditioning")
    places = torch.cat([space.random(50, generator(0)), space.guesses()])
    near = space.around(torch.ones(space.numbers, dtype=torch.float64), 50, generator(1))
    for point in torch.cat([places, near]):
        assert bool((point >= space.low).all()) and float(point.max()) <= 1
        schedule = space.schedule(point)
        assert len(schedule.deviation) == steps and schedule.omega[-1] == 1
        assert schedule.deviation[1] == pytest.approx(LARGEST * float(point[0]))
        assert schedule.deviation[-1] == pytest.approx(LARGEST * float(point[space.knots - 1]))
        if name == "deviation_omega":
            assert schedule.omega[0] == pytest.approx(np.exp(0.5 * float(point[space.knots])))


def test_the_covariance_of_means_is_that_of_simulated_ones():
    """Many prompts: nothing is drawn towards anything, and dropped ones have half of them."""
    draw = generator(3)
    mix = torch.randn(3, 3, generator=draw, dtype=torch.float64) + torch.eye(3) * 2
    counts, means, told = (400, 200, 400), [], []
    for _ in range(300):
        values = mix @ torch.randn(3, 400, generator=draw, dtype=torch.float64)
        own = [values[i, :n].tolist() for i, n in enumerate(counts)]
        means.append([np.mean(row) for row in own])
        told.append(gp.covariance_of_means(own))
    found, wanted = torch.stack(told).mean(0).numpy(), np.cov(np.array(means).T)
    assert np.abs(found - wanted).max() < 0.25 * np.abs(wanted).max()
    assert np.linalg.eigvalsh(found).min() > 0


def test_few_prompts_still_give_a_covariance():
    draw = generator(4)
    for n in (2, 3, 5):
        rows = torch.randn(7, n, generator=draw, dtype=torch.float64).tolist()
        rows[2] = rows[3]  # two candidates that are the same
        found = gp.covariance_of_means(rows)
        assert np.linalg.eigvalsh(found.numpy()).min() > 0
    alike = gp.covariance_of_means([[0.0, 0.0], [0.0, 0.0]])
    assert bool(alike.isfinite().all())


def features(points: np.ndarray) -> np.ndarray:
    """All linear and quadratic terms, scaled as the kernel has them."""
    m = points.shape[1]
    columns = [points[:, i] / np.sqrt(m) for i in range(m)]
    for i, j in itertools.combinations_with_replacement(range(m), 2):
        columns.append(points[:, i] * points[:, j] * (1 if i == j else np.sqrt(2)) / m)
    return np.stack(columns, axis=1) / np.sqrt(2)


def test_without_a_rest_it_is_bayesian_regression(monkeypatch):
    """With bend 0: the posterior of a linear model in the quadratic's terms, by its own formula."""
    monkeypatch.setattr(gp, "BENDS", (0.0,))
    monkeypatch.setattr(gp, "GAINS", (0.4,))
    monkeypatch.setattr(gp, "LENGTHS", (1.0,))
    monkeypatch.setattr(gp, "through_zero", gp.kernel)  # it goes through 0 already
    draw = generator(5)
    points = 2 * torch.rand(12, 3, generator=draw, dtype=torch.float64) - 1
    errors = torch.randn(12, 12, generator=draw, dtype=torch.float64) * 0.02
    errors = errors @ errors.T + 1e-4 * torch.eye(12)
    means = gain(points) + 0.01 * torch.randn(12, generator=draw, dtype=torch.float64)
    ours = gp.Surrogate(
        [points[:5], points[5:]], [means[:5], means[5:]], [errors[:5, :5], errors[5:, 5:]]
    )
    noise = torch.block_diag(errors[:5, :5], errors[5:, 5:]).numpy()
    at = 2 * torch.rand(6, 3, generator=draw, dtype=torch.float64) - 1
    x, z = features(points.numpy()), features(at.numpy())
    precision = np.eye(x.shape[1]) / 0.4**2 + x.T @ np.linalg.solve(noise, x)
    weights = np.linalg.solve(precision, x.T @ np.linalg.solve(noise, means.numpy()))
    mean, error = ours.mean_and_error(at)
    assert mean.numpy() == pytest.approx(z @ weights, abs=1e-6)
    wanted = np.sqrt(np.einsum("ij,jk,ik->i", z, np.linalg.inv(precision), z))
    assert error.numpy() == pytest.approx(wanted, rel=1e-3)


def test_nothing_is_known_better_than_that_d_0_gains_nothing():
    space = Space("deviation", TIMES)
    (first,) = search(Landscape(space, 0), space, Plan(160, 20, 7))
    ours = gp.Surrogate([first.points], [first.means], [gp.covariance_of_means(first.differences)])
    mean, error = ours.mean_and_error(torch.zeros(1, 3, dtype=torch.float64))
    assert abs(float(mean)) < 1e-9 and float(error) < 1e-6
    drawn = ours.samples(torch.zeros(1, 3, dtype=torch.float64), 5, generator(1))
    assert float(drawn.abs().max()) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_is_there_with_few_images(seed):
    space, plan = Space("deviation", TIMES), Plan(1280, 20, 7, seed)
    landscape = Landscape(space, seed)
    generations = list(search(landscape, space, plan))
    assert landscape.images == sum(one.images for one in generations) <= plan.images
    best, told, error = conclusion(space, plan, generations)
    most, found = float(gain(BEST)), float(gain(best))
    assert found > 0.6 * most, (found, most)
    assert abs(told - found) < 4 * error
    later = torch.cat([one.points for one in generations[4:]])
    blind = space.random(1000, generator(0))
    assert float(gain(later).mean()) > float(gain(blind).mean()) + 0.3 * most, "it has learnt"


def test_a_search_goes_on_where_it_stopped():
    """From what is written alone: the same points and numbers, bit for bit."""
    space, plan = Space("deviation_omega", TIMES), Plan(640, 10, 7, 2)

    def measure(index, schedules, rows):
        whole = Landscape(Space("deviation", TIMES), 9)(index, schedules, rows)
        return whole - torch.tensor([[abs(s.omega[0] - 1.2)] for s in schedules]).double()

    whole = list(search(measure, space, plan))
    assert len(whole) >= 8
    again = [*whole[:3], *search(measure, space, plan, whole[:3])]
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(one.points, other.points) and one.differences == other.differences
    assert torch.equal(next_points(space, plan, whole), next_points(space, plan, again))


def test_who_is_clearly_behind_is_dropped():
    space, plan, asked = Space("deviation", TIMES), Plan(10_000, 20, 5, 0), []

    def measure(index, schedules, rows):
        asked.append((len(schedules), rows))
        draw = generator(index, rows.start)
        noise = 0.01 * torch.randn(len(schedules), len(rows), generator=draw)
        return torch.tensor([[sum(s.deviation)] for s in schedules]) + noise

    one = run_generation(measure, space, plan, [], lambda points: points)
    assert asked[0] == (5, range(10)) and asked[1][0] == 1 and asked[1][1] == range(10, 20)
    assert sorted(map(len, one.differences)) == [10, 10, 10, 10, 20] and one.images == 80


def test_nothing_to_be_found_ends_near_nothing():
    """Noise alone: what is believed of the best is no more than its own error allows."""
    space, plan = Space("follow_time", TIMES), Plan(1280, 20, 7, 1)

    def noise(index, schedules, rows):
        return SPREAD * torch.randn(
            len(schedules), len(rows), generator=generator(index, rows.start)
        )

    _, told, error = conclusion(space, plan, list(search(noise, space, plan)))
    assert told < 2.5 * error + 0.02


def test_a_generation_counts_d_0_too():
    one = Generation(0, torch.zeros(2, 3), [[0.0, 1.0], [0.0]])
    assert one.images == 2 + 1 + 2 and one.means.tolist() == [0.5, 0.0]
