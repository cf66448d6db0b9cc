"""What is believed of a taste, against autograd, scipy's optimizers and integration on a grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.special import expit, log_softmax, logsumexp

from async_timestep.eye import shapes, taste
from async_timestep.eye.taste import ALIKE, Answer

TOPS = [(0.5, 0.1, 0.0), (0.2, -0.3, 0.4), (0.9, 0.1, 0.0)]


def sheets(count: int, numbers: int, seed: int, columns=(4,)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [shapes.anywhere(columns[i % len(columns)], numbers, rng) for i in range(count)]


def as_answer(shown: np.ndarray, chosen) -> Answer:
    return Answer(tuple(map(tuple, shown)), chosen)


def answered(count: int, numbers: int, seed: int, columns=(4,)) -> list[Answer]:
    """At random, with every kind of answer."""
    rng = np.random.default_rng(seed)
    kinds = [int(rng.integers(2)) for _ in range(count)]
    kinds[1::5] = [None] * len(kinds[1::5])
    kinds[2::5] = [ALIKE] * len(kinds[2::5])
    return [
        as_answer(s, c) for s, c in zip(sheets(count, numbers, seed, columns), kinds, strict=True)
    ]


def log_posterior(w, answers: list[Answer], mean, variance, lapse: float):
    """The same in torch, one answer after the other, and without a thought for speed."""
    value = -0.5 * ((w - mean) ** 2 / variance).sum()
    for answer in answers:
        terms = torch.from_numpy(taste.features(np.array(answer.shown)))
        p = torch.softmax(terms @ w, dim=0)
        q = torch.log((1 - lapse) * p + lapse / len(p))
        value = value + (q.mean() if answer.chosen == ALIKE else q[answer.chosen or 0])
    return value


def test_features_have_the_kernel_of_a_quadratic():
    rng = np.random.default_rng(0)
    for m in (1, 2, 3):
        a, b = shapes.anywhere(5, m, rng), shapes.anywhere(6, m, rng)
        strong = {1: [1.0], 2: [1.0, 2.5], 3: [1.0, 1.0, 2.5]}[m]
        product = (shapes.knots(a) * strong) @ (shapes.knots(b) * strong).T
        means, variances = taste.priors(m)
        for variance, (width, bend) in zip(
            variances, itertools.product(taste.WIDTHS, taste.BENDS), strict=True
        ):
            found = (taste.features(a) * variance) @ taste.features(b).T
            assert np.allclose(found, width**2 * (product + bend**2 * product**2))
        liked = np.array({1: [0.5], 2: [0.5, 0.0], 3: [0.5, 0.5, 0.0]}[m])
        height = (liked**2).sum() - (((shapes.knots(a) - liked) * strong) ** 2).sum(1)
        assert np.allclose(taste.features(a) @ means[0], taste.WIDTHS[0] * height)
        assert not taste.features(np.zeros((1, m))).any()  # off is 0


@pytest.mark.parametrize("columns", [(4,), (2,), (3, 4, 2)])
@pytest.mark.parametrize("lapse", [0.0, 0.1])
def test_gradient_and_hessian_are_autograd_s(columns, lapse):
    answers = answered(7, 3, 3, columns)
    mean, variance = np.zeros(9), np.ones(9)
    w = np.random.default_rng(5).normal(size=(2, 9))
    value, gradient, down, up = taste.arrays(answers, 3).parts(w, lapse)
    for s in range(2):
        point = torch.tensor(w[s], requires_grad=True)

        def likelihood(x):
            own = log_posterior(
                x, answers, torch.from_numpy(mean), torch.from_numpy(variance), lapse
            )
            return own + 0.5 * (x**2).sum()

        assert value[s] == pytest.approx(float(likelihood(point.detach())), rel=1e-9)
        own = torch.autograd.grad(likelihood(point), point)[0].numpy()
        assert np.allclose(gradient[s], own, atol=1e-9)
        hessian = torch.autograd.functional.hessian(likelihood, point.detach()).numpy()
        assert np.allclose(up[s] - down[s], hessian, atol=1e-8)
        for part in (down[s], up[s]):
            assert np.linalg.eigvalsh(part).min() > -1e-9


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_the_mode_is_where_scipy_finds_it(numbers):
    answers = answered(12, numbers, 11)
    means, variances = taste.priors(numbers)
    modes, covariances, _ = taste.posterior(taste.arrays(answers, numbers), means, variances)
    for mode, covariance, mean, variance in zip(modes, covariances, means, variances, strict=True):
        at = (torch.from_numpy(mean), torch.from_numpy(variance), taste.LAPSE)

        def loss(w, at=at):
            w = torch.tensor(w, requires_grad=True)
            value = -log_posterior(w, answers, *at)
            return float(value.detach()), torch.autograd.grad(value, w)[0].numpy()

        found = scipy.optimize.minimize(loss, mode + 0.05, jac=True, options={"gtol": 1e-8})
        assert loss(mode)[0] <= found.fun + 1e-6
        assert np.allclose(mode, found.x, atol=1e-3)
        own = torch.autograd.functional.hessian(
            lambda w, at=at: -log_posterior(w, answers, *at), torch.from_numpy(mode)
        ).numpy()
        if np.linalg.eigvalsh(own).min() > 0:
            assert np.allclose(covariance, np.linalg.inv(own), rtol=1e-5, atol=1e-8)


def test_two_columns_are_logistic_regression():
    """P(the second) = 1 / (1 + exp(-(terms of the second - terms of the first) w)), L2 penalty."""
    shown = sheets(40, 2, 2, columns=(2,))
    difference = np.array([np.diff(taste.features(own), axis=0)[0] for own in shown])
    chosen = np.random.default_rng(4).integers(0, 2, 40)
    answers = [as_answer(own, int(c)) for own, c in zip(shown, chosen, strict=True)]
    mean, variance = np.zeros((1, 5)), np.full((1, 5), 2.0)
    modes, covariances, _ = taste.posterior(taste.arrays(answers, 2), mean, variance, lapse=0.0)
    sign = 2 * chosen - 1

    def loss(w):
        return np.logaddexp(0, -sign * (difference @ w)).sum() + w @ w / 4

    found = scipy.optimize.minimize(loss, np.zeros(5), options={"gtol": 1e-8})
    assert np.allclose(modes[0], found.x, atol=1e-4)
    p = expit(difference @ found.x)
    fisher = difference.T @ (difference * (p * (1 - p))[:, None]) + np.eye(5) / 2
    assert np.allclose(covariances[0], np.linalg.inv(fisher), rtol=1e-3)


def integrated(answers: list[Answer], mean, variance, places, centre, reach):
    """On a grid of two coefficients: the log evidence, and the mean and the probability to be above
    0 of the utility at some places."""
    axes = [np.linspace(c - r, c + r, 121) for c, r in zip(centre, reach, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    density = -0.5 * ((grid - mean) ** 2 / variance).sum(1) - np.log(2 * np.pi * variance).sum() / 2
    for answer in answers:
        utility = grid @ taste.features(np.array(answer.shown)).T
        share = np.exp(log_softmax(utility, axis=1))
        q = np.log((1 - taste.LAPSE) * share + taste.LAPSE / len(answer.shown))
        density += q.mean(1) if answer.chosen == ALIKE else q[:, answer.chosen or 0]
    square = density.reshape(121, 121)
    rim = [square[0], square[-1], square[:, 0], square[:, -1]]
    assert max(map(np.max, rim)) < density.max() - 6  # all of it is inside
    cell = np.prod([axis[1] - axis[0] for axis in axes])
    evidence = logsumexp(density) + np.log(cell)
    weight = np.exp(density - logsumexp(density))
    utility = grid @ taste.features(places).T
    return evidence, weight @ utility, weight @ (utility > 0)


@pytest.mark.parametrize("top", [0.3, 0.9, -0.4])
def test_the_posterior_is_that_of_integration(top):
    """One number has two coefficients. A Laplace approximation is not exact: what it is used for is
    compared, at what it has to be good for."""
    rng = np.random.default_rng(8)
    answers = []
    for shown in sheets(16, 1, 9):
        utility = -3 * (shown[:, 0] - top) ** 2 + rng.gumbel(size=4)
        answers.append(as_answer(shown, int(utility.argmax())))
    answers[3] = as_answer(np.array(answers[3].shown), ALIKE)
    places = np.linspace(-0.6, 1.2, 7)[:, None]
    means, variances = taste.priors(1)
    modes, covariances, told = taste.posterior(taste.arrays(answers, 1), means, variances)
    reach = 8 * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    found = [
        integrated(answers, mean, variance, places, *around)
        for mean, variance, *around in zip(means, variances, modes, reach, strict=True)
    ]
    evidence, mean, above = (np.array(part) for part in zip(*found, strict=True))
    assert np.abs(told - evidence).max() < 0.4  # of odds: a factor of 1.5
    weights = np.exp(evidence - logsumexp(evidence))
    now = taste.belief(answers, 1)
    assert np.abs(now.weights - weights).max() < 0.1
    odds = logsumexp(evidence) - np.log(len(evidence)) + len(answers) * np.log(4)
    assert now.taste == pytest.approx(expit(odds), abs=0.1)
    spread = now.utility(places)[1]
    assert (np.abs(now.utility(places)[0] - weights @ mean) <= 0.35 * spread + 0.05).all()
    drawn = taste.features(places) @ now.drawn(20_000, rng).T
    assert np.abs((drawn > 0).mean(1) - weights @ above)[places[:, 0] != 0].max() < 0.1


def person(top, seed: int, choices: int, wrong: float = 0.1, steep: float = 12.0):
    """Someone who wants these numbers, with Luce's noise and some slips."""
    rng, answers = np.random.default_rng(seed), []
    for index in range(choices):
        now = taste.belief(answers, len(top))
        shown = taste.propose(now, answers, np.random.default_rng([seed, index]))
        utility = -steep * ((shown - np.array(top)) ** 2).sum(1) + rng.gumbel(size=len(shown))
        chosen = int(utility.argmax())
        if rng.random() < wrong:
            chosen = int((chosen + rng.integers(1, len(shown))) % len(shown))
        answers.append(as_answer(shown, chosen))
    return answers


@pytest.mark.parametrize("top", TOPS)
def test_a_taste_is_found_in_twenty_choices(top):
    answers = person(top, 1, 20)
    now = taste.belief(answers, 3)
    found, wanted = taste.best(now), np.array(top)
    assert ((found - wanted) ** 2).sum() < 0.4 * (wanted**2).sum()
    assert taste.better_than_off(now) > taste.better_than_off(taste.belief(answers[:2], 3))


def test_who_wants_it_smoother_is_not_given_more_detail():
    """The prior is of the other opinion, and twenty choices do not always turn it round."""
    now = taste.belief(person((-0.4, 0.0, 0.0), 1, 16), 3)
    assert taste.best(now)[0] < 0.3
    assert taste.better_than_off(now) < taste.SURE


def test_who_wants_off_gets_off():
    answers = [as_answer(own, 0) for own in sheets(12, 3, 21)]
    answers = [Answer(((0.0,) * 3, *own.shown[1:]), 0) for own in answers]
    now = taste.belief(answers, 3)
    assert np.abs(taste.best(now)).max() < 0.15
    assert now.taste > 0.8  # a preference, for off
    assert taste.better_than_off(now) < taste.SURE


def test_who_chooses_at_random_is_not_told_that_it_is_better():
    """Ville's inequality, on sheets that do not depend on the choices, and on proposed ones."""
    rng, high = np.random.default_rng(31), []
    for seed in range(100):
        own = [as_answer(s, int(rng.integers(4))) for s in sheets(20, 3, 1000 + seed)]
        high.append(taste.belief(own, 3).taste)
    assert np.mean(np.array(high) >= taste.SURE) <= 0.1
    told = []
    for seed in range(5):
        answers = []
        for index in range(10):
            now = taste.belief(answers, 3)
            shown = taste.propose(now, answers, np.random.default_rng([seed, index]))
            answers.append(as_answer(shown, int(rng.integers(4))))
        told.append(taste.better_than_off(taste.belief(answers, 3)))
    assert max(sorted(told)[:-1]) < taste.SURE


def test_alike_says_that_nothing_is_to_be_seen():
    shown = sheets(12, 3, 41)
    now = taste.belief([as_answer(own, ALIKE) for own in shown], 3)
    chosen = taste.belief([as_answer(own, int(own[:, 0].argmax())) for own in shown], 3)
    assert now.taste < 0.2 < chosen.taste
    assert as_answer(shown[0], None).index == 0  # none better: the present best


def test_before_the_first_choice_nothing_is_claimed_and_off_is_shown():
    for m in (1, 2, 3):
        now = taste.belief([], m)
        assert now.taste == pytest.approx(1 - taste.NO_TASTE)
        assert taste.better_than_off(now) < 1 - taste.NO_TASTE
        shown = taste.propose(now, [], np.random.default_rng(0))
        assert shown.shape == (4, m) and not shown[0].any()
        assert len({tuple(own) for own in shown}) == 4


@pytest.mark.parametrize("numbers", [1, 2, 3])
def test_every_later_sheet_has_the_best_first_and_off_in_every_second(numbers):
    answers = person((0.6, 0.1, 0.0)[:numbers], 2, 7)
    for count in range(1, 7):
        now, own = taste.belief(answers[:count], numbers), np.array(answers[count].shown)
        assert np.array_equal(own[0], taste.best(now))
        if count % taste.OFF_EVERY == 0:
            assert (own == 0).all(axis=1).any()
        values = shapes.knots(own)
        assert values.min() >= shapes.LOWEST - 1e-9 and values.max() <= shapes.HIGHEST + 1e-9
        assert len(np.unique(own, axis=0)) == 4


def test_other_columns_and_the_same_seed():
    answers = person((0.5, 0.0, 0.0), 3, 3)
    now = taste.belief(answers, 3)
    for n in (2, 3, 4):
        first, again = (taste.propose(now, answers, np.random.default_rng(1), n) for _ in "ab")
        assert first.shape == (n, 3) and np.array_equal(first, again)
    likely = taste.likely(now, 200, np.random.default_rng(0))
    assert likely.shape == (200, 3) and len(np.unique(likely, axis=0)) > 3
