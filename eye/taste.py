"""What is believed of a person's taste after some choices, and what to show next.

    answers = [Answer(((0, 0, 0), (.5, .2, 0), (.8, 0, 0), (.4, .4, .4)), chosen=1)]
    now = belief(answers, numbers=3)
    shown = propose(now, answers, np.random.default_rng(0))      # the present best, three others
    better_than_off(now)                                         # a probability

The utility of a schedule is a quadratic through 0 at "off": u(x) = a.x + x.B.x, with a normal prior
of its coefficients. Who sees n schedules takes the i-th with probability

    q_i = (1 - lapse) softmax(u)_i + lapse / n        (Luce's choice; a slip goes to any of them)

and "all alike" counts as an n-th of every choice. The posterior is normal around its mode
(Laplace), once for each width of the prior in WIDTHS; what the choices say of the widths is their
evidence. A person who prefers nothing is the width 0: every choice has the probability 1/n. Against
that one everything else has to win: at even odds beforehand, a person who chooses at random gets a
probability of p or more in at most a share (1 - p) / p of all sessions, whenever one looks (Ville).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import shapes

ALIKE = "alike"
COLUMNS = 4
LAPSE = 0.1  # of the choices say nothing: a slip, or pictures in which other things were better
WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the prior: of the utility where all numbers are 1
NO_TASTE = 0.5  # that a person prefers nothing, before the first choice
CAUTION = 0.5  # standard deviations that are taken off for what is not known
SURE = 0.9  # from here on it is called better than off
PLACES = 512  # of which a posterior sample takes its maximum
NEWTON, HALVINGS, FLAT = 60, 30, 1e-9


@dataclass(frozen=True)
class Answer:
    """shown: n tuples of numbers, the present best first. chosen: index of one; None: none is
    better than the present best; "alike": they cannot be told apart."""

    shown: tuple[tuple[float, ...], ...]
    chosen: int | str | None

    @property
    def index(self) -> int | None:
        """The chosen one; None where all are alike."""
        if self.chosen == ALIKE:
            return None
        return 0 if self.chosen is None else int(self.chosen)


@dataclass(frozen=True)
class Belief:
    """numbers: m. weights: (S,) of the widths; means (S, F) and covariances (S, F, F) of the
    coefficients at each; taste: the probability that there is a preference at all. choices: how
    many answers it is of."""

    numbers: int
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    taste: float
    choices: int

    def utility(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (N,) each, at (N, m)."""
        terms = features(places)
        means = terms @ self.means.T  # (N, S)
        spreads = np.einsum("nf,sfg,ng->ns", terms, self.covariances, terms)
        mean = means @ self.weights
        second = (spreads + means**2) @ self.weights
        return mean, np.sqrt(np.maximum(second - mean**2, 0.0))

    def drawn(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, F) coefficients of the posterior, given that there is a preference."""
        width = rng.choice(len(self.weights), count, p=self.weights)
        factors = np.linalg.cholesky(self.covariances)
        noise = rng.standard_normal((count, self.means.shape[1]))
        return self.means[width] + np.einsum("cfg,cg->cf", factors[width], noise)


def features(places: np.ndarray) -> np.ndarray:
    """(N, m) -> (N, m + m (m + 1) / 2): the numbers and their products, none a constant."""
    places = np.atleast_2d(np.asarray(places, dtype=np.float64))
    rows, columns = np.triu_indices(places.shape[1])
    twice = np.where(
        rows == columns, 1.0, math.sqrt(2.0)
    )  # so that turning the axes changes nothing
    return np.concatenate([places, twice * places[:, rows] * places[:, columns]], axis=1)


def prior_variances(numbers: int, width: float) -> np.ndarray:
    """(F,) of the coefficients: half of the utility's variance at (1, ..., 1) is of the linear
    terms, half of the products."""
    products = numbers * (numbers + 1) // 2
    linear, quadratic = 0.5 / numbers, 0.5 / numbers**2
    return width**2 * np.array([linear] * numbers + [quadratic] * products)


def log_likelihood(
    weights: np.ndarray, terms: np.ndarray, index: int | None, lapse: float = LAPSE
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Of one answer: log q, its gradient (F,), and its Hessian as minus one positive semidefinite
    matrix plus another, (F, F) each. terms: (n, F) of what was shown."""
    n = len(terms)
    utility = terms @ weights
    share = np.exp(utility - utility.max())
    share /= share.sum()
    centred = terms - share @ terms
    spread = (centred * share[:, None]).T @ centred
    own = list(range(n)) if index is None else [index]
    q = (1 - lapse) * share[own] + lapse / n
    r = (1 - lapse) * share[own] / q  # how much of it was meant
    away = centred[own]
    gradient = (r[:, None] * away).mean(0)
    down = r.mean() * spread
    up = (away * (r * (1 - r))[:, None]).T @ away / len(q)
    return float(np.log(q).mean()), gradient, down, up


def posterior(
    terms: Sequence[np.ndarray], indices: Sequence[int | None], variances: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Laplace: the mode (F,), the covariance (F, F) and the log evidence. Newton's method with the
    part of the Hessian that is surely negative, and a step that is halved until it gains."""
    weights, precision = np.zeros(len(variances)), np.diag(1 / variances)

    def at(w: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        value, gradient = -0.5 * w @ (w / variances), -w / variances
        down, up = precision.copy(), np.zeros_like(precision)
        for own, index in zip(terms, indices, strict=True):
            parts = log_likelihood(w, own, index)
            value, gradient = value + parts[0], gradient + parts[1]
            down, up = down + parts[2], up + parts[3]
        return float(value), gradient, down, up

    value, gradient, down, up = at(weights)
    for _ in range(NEWTON):
        step = np.linalg.solve(down, gradient)
        if gradient @ step < FLAT:
            break
        for _ in range(HALVINGS):
            further = at(weights + step)
            if further[0] > value:
                break
            step = step / 2
        else:
            break
        weights = weights + step
        value, gradient, down, up = further
    curvature = down - up
    if np.linalg.eigvalsh(curvature)[0] <= 0:  # no maximum in every direction: the cautious one
        curvature = down
    covariance = np.linalg.inv(curvature)
    evidence = value + 0.5 * (np.linalg.slogdet(covariance)[1] - np.log(variances).sum())
    return weights, (covariance + covariance.T) / 2, float(evidence)


def belief(answers: Sequence[Answer], numbers: int) -> Belief:
    """Of m numbers, after these answers; without one it is the prior."""
    terms = [features(np.array(answer.shown)) for answer in answers]
    indices = [answer.index for answer in answers]
    found = [posterior(terms, indices, prior_variances(numbers, width)) for width in WIDTHS]
    means, covariances, evidence = (np.array(part) for part in zip(*found, strict=True))
    most = evidence.max()
    weights = np.exp(evidence - most)
    with_taste = most + math.log(weights.mean())
    without = -sum(math.log(len(answer.shown)) for answer in answers)
    odds = with_taste - without + math.log((1 - NO_TASTE) / NO_TASTE)
    taste = 1 / (1 + math.exp(-max(min(odds, 500.0), -500.0)))
    return Belief(numbers, weights / weights.sum(), means, covariances, taste, len(answers))


def best(now: Belief, rng: np.random.Generator | None = None) -> np.ndarray:
    """(m,) of the highest utility less CAUTION standard deviations; off where nothing is better.
    Without caution a corner where nobody has looked would win."""
    rng = np.random.default_rng(0) if rng is None else rng
    found = np.zeros(now.numbers)
    places = np.concatenate([found[None], shapes.anywhere(2 * PLACES, now.numbers, rng)])
    for width in (0.3, 0.15, 0.08, 0.04, 0.02):
        mean, spread = now.utility(places)
        found = places[(mean - CAUTION * spread).argmax()]
        near = found + width * rng.standard_normal((PLACES, now.numbers))
        places = np.concatenate([found[None], shapes.inside(near)])
    return found


def likely(now: Belief, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, m): the best of as many utilities drawn from the posterior (Thompson sampling)."""
    centre = best(now)
    near = centre + 0.3 * rng.standard_normal((PLACES // 2, now.numbers))
    places = np.concatenate([
        np.zeros((1, now.numbers)), shapes.anywhere(PLACES, now.numbers, rng), shapes.inside(near)
    ])  # fmt: skip
    return places[(features(places) @ now.drawn(count, rng).T).argmax(axis=0)]


def guesses(numbers: int) -> np.ndarray:
    """(4, m) to begin with: off, a constant, one that falls to 0, and a strong beginning."""
    knots = np.array([[0, 0, 0], [0.4, 0.4, 0.4], [0.6, 0.4, 0], [1, 0.8, 0.2]], dtype=float)
    own = {1: [0], 2: [0, 2], 3: [0, 1, 2]}[numbers]
    return shapes.of_knots(knots[:, own])


def propose(
    now: Belief, answers: Sequence[Answer], rng: np.random.Generator, n: int = COLUMNS
) -> np.ndarray:
    """(n, m): the present best, and n - 1 that may be better. The first time, guesses, and off
    among them."""
    if not answers:
        more = shapes.anywhere(n, now.numbers, rng)
        return np.concatenate([guesses(now.numbers), more])[:n]
    shown = [best(now)]
    for place in likely(now, 16 * n, rng):
        if len(shown) < n and min(np.abs(place - other).max() for other in shown) > 0.05:
            shown.append(place)
    while len(shown) < n:  # all of the belief is in one place
        shown.append(shapes.inside(shown[0] + 0.1 * rng.standard_normal(now.numbers)))
    return np.array(shown)


def better_than_off(now: Belief, rng: np.random.Generator | None = None) -> float:
    """The probability that there is a taste, and that what is the best in it beats off."""
    rng = np.random.default_rng(0) if rng is None else rng
    place = best(now)
    if not place.any():
        return 0.0
    drawn = features(place[None]) @ now.drawn(4096, rng).T
    return now.taste * float((drawn > 0).mean())
