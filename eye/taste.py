"""What is believed of a person's taste after some choices, and what to show next.

    answers = [Answer(((0, 0, 0), (.5, .2, 0), (.8, 0, 0), (.4, .4, .4)), chosen=1)]
    now = belief(answers, numbers=3)
    shown = propose(now, answers, np.random.default_rng(0))      # the present best, three others
    better_than_off(now)                                         # a probability

The utility of a schedule is a quadratic through 0 at "off", u(x) = a.x + x.B.x, with a normal prior
that bends down, since too much of anything is worse, around LIKED: what was found to be good
elsewhere (the paper's mean on Flux.1-dev is D = +.5). Who sees n schedules takes the i-th with
the probability

    q_i = (1 - lapse) softmax(u)_i + lapse / n        (Luce's choice; a slip goes to any of them)

and "all alike" counts as an n-th of every choice. The posterior is normal around its mode
(Laplace), once for every prior of WIDTHS x BENDS, weighted by the evidence of each. A person who
prefers nothing is the width 0: every choice has the probability 1/n. Against that one all others
together have to win: at even odds beforehand, a person who chooses at random gets a probability of
p or more in at most a share (1 - p) / p of all sessions, whenever one looks (Ville's inequality).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import shapes

ALIKE = "alike"
COLUMNS = 4
LAPSE = 0.1  # of the choices say nothing: a slip, or pictures in which other things were better
STRENGTHS = (1.0, 1.0, 2.5)  # of a D of 1 at the knots: the last step's tells most
WIDTHS = (0.5, 1.0, 2.0, 4.0)  # of the prior: of the utility at a strength of 1
BENDS = (0.3, 1.0)  # how far the curvature may be from -width, in widths
LIKED = (0.5, 0.5, 0.0)  # D at the knots where the prior's mean is highest, a width uncertain
NO_TASTE = 0.5  # that a person prefers nothing, before the first choice
CAUTION = 0.5  # standard deviations that are taken off for what is not known
SURE = 0.9  # from here on it is called better than off
OFF_EVERY = 2  # sheets: off is among them, so that it stays known what it is worth
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
    """numbers: m. weights: (S,) of the priors; means (S, F) and covariances (S, F, F) of the
    coefficients under each; taste: the probability that there is a preference at all. choices: how
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
        own = rng.choice(len(self.weights), count, p=self.weights)
        factors = np.linalg.cholesky(self.covariances)
        noise = rng.standard_normal((count, self.means.shape[1]))
        return self.means[own] + np.einsum("cfg,cg->cf", factors[own], noise)


def features(places: np.ndarray) -> np.ndarray:
    """(N, m) -> (N, m + m (m + 1) / 2): the knots by their strengths, and their products."""
    values = shapes.knots(np.atleast_2d(places))
    values = values * of_many(STRENGTHS, values.shape[1])
    rows, columns = np.triu_indices(values.shape[1])
    twice = np.where(rows == columns, 1.0, math.sqrt(2.0))  # turning the axes changes nothing
    return np.concatenate([values, twice * values[:, rows] * values[:, columns]], axis=1)


def of_many(three: Sequence[float], numbers: int) -> np.ndarray:
    """What belongs to the knots of so many numbers (`shapes`), of that of all three."""
    return np.array(three)[{1: [0], 2: [0, 2], 3: [0, 1, 2]}[numbers]]


def priors(numbers: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances, (S, F) each, of the coefficients of m numbers."""
    rows, columns = np.triu_indices(numbers)
    liked = of_many(LIKED, numbers) * of_many(STRENGTHS, numbers)
    means, variances = [], []
    for width, bend in itertools.product(WIDTHS, BENDS):
        means.append([*(2 * width * liked), *np.where(rows == columns, -width, 0.0)])
        variances.append([width**2] * numbers + [(width * bend) ** 2] * len(rows))
    return np.array(means), np.array(variances)


@dataclass(frozen=True)
class Choices:
    """R answers on up to n schedules as arrays. terms: (R, n, F); there: (R, n), 0 in the place of
    a schedule that was not; shares: (R, n), 1 for the chosen one, an n-th each for all alike."""

    terms: np.ndarray
    there: np.ndarray
    shares: np.ndarray

    def parts(self, weights: np.ndarray, lapse: float) -> tuple[np.ndarray, ...]:
        """At (S, F) coefficients: the log likelihood (S,), its gradient (S, F), and its Hessian as
        minus one positive semidefinite matrix plus another, (S, F, F) each."""
        utility = np.einsum("rnf,sf->srn", self.terms, weights)
        utility = np.where(self.there > 0, utility, -np.inf)
        p = np.exp(utility - utility.max(axis=2, keepdims=True))
        p /= p.sum(axis=2, keepdims=True)
        q = (1 - lapse) * p + lapse / self.there.sum(axis=1)[:, None]
        q = np.where(self.there > 0, q, 1.0)
        value = (self.shares * np.log(q)).sum(axis=(1, 2))
        meant = (1 - lapse) * p / q
        own = self.shares * meant
        total = own.sum(axis=2, keepdims=True)
        gradient = np.einsum("srn,rnf->sf", own - total * p, self.terms)
        away = self.terms - np.einsum("srn,rnf->srf", p, self.terms)[:, :, None]
        down = squares(total * p, away)
        return value, gradient, down, squares(own * (1 - meant), away)


def squares(weights: np.ndarray, away: np.ndarray) -> np.ndarray:
    """(S, F, F): the sum over answers and schedules of weights (S, R, n) times the outer product of
    (S, R, n, F) with itself."""
    flat = away.reshape(len(away), -1, away.shape[-1])
    return np.swapaxes(flat * weights.reshape(len(weights), -1, 1), 1, 2) @ flat


def arrays(answers: Sequence[Answer], numbers: int) -> Choices:
    """The answers as arrays, one of which has the most schedules."""
    most = max((len(answer.shown) for answer in answers), default=1)
    size = len(priors(numbers)[0][0])
    terms, there, shares = (np.zeros((len(answers), most, k)) for k in (size, 1, 1))
    for row, answer in enumerate(answers):
        n = len(answer.shown)
        terms[row, :n] = features(np.array(answer.shown, dtype=np.float64))
        there[row, :n] = 1.0
        own = slice(0, n) if answer.index is None else answer.index
        shares[row, own] = 1.0 / n if answer.index is None else 1.0
    return Choices(terms, there[:, :, 0], shares[:, :, 0])


def posterior(
    choices: Choices, means: np.ndarray, variances: np.ndarray, lapse: float = LAPSE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Laplace, for S normal priors (S, F) at once: the modes (S, F), the covariances (S, F, F) and
    the log evidences (S,). Newton's method with the part of the Hessian that is surely negative,
    and steps that are halved until they gain."""
    precision = np.eye(means.shape[1]) / variances[:, None]

    def at(w: np.ndarray) -> tuple[np.ndarray, ...]:
        value, gradient, down, up = choices.parts(w, lapse)
        away = w - means
        value = value - 0.5 * (away**2 / variances).sum(axis=1)
        return value, gradient - away / variances, down + precision, up

    weights = means.copy()
    value, gradient, down, up = at(weights)
    for _ in range(NEWTON):
        step = np.linalg.solve(down, gradient[:, :, None])[:, :, 0]
        going = (gradient * step).sum(axis=1) > FLAT
        if not going.any():
            break
        size = going.astype(np.float64)
        for _ in range(HALVINGS):
            further = at(weights + size[:, None] * step)
            worse = further[0] < value
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        size = np.where(worse, 0.0, size)
        if not size.any():
            break
        weights = weights + size[:, None] * step
        value, gradient, down, up = at(weights)
    curvature = down - up
    flat = np.linalg.eigvalsh(curvature)[:, 0] <= 0  # no maximum in every direction: be cautious
    curvature = np.where(flat[:, None, None], down, curvature)
    covariances = np.linalg.inv(curvature)
    evidence = value - 0.5 * (np.linalg.slogdet(curvature)[1] + np.log(variances).sum(axis=1))
    return weights, (covariances + np.swapaxes(covariances, 1, 2)) / 2, evidence


def belief(answers: Sequence[Answer], numbers: int) -> Belief:
    """Of m numbers, after these answers; without one it is the prior."""
    means, covariances, evidence = posterior(arrays(answers, numbers), *priors(numbers))
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
    return shapes.of_knots(np.array([of_many(own, numbers) for own in knots]))


def propose(
    now: Belief, answers: Sequence[Answer], rng: np.random.Generator, n: int = COLUMNS
) -> np.ndarray:
    """(n, m): the present best, and n - 1 that may be better; in every OFF_EVERY-th sheet off in
    the place of the last. The first time guesses, off first."""
    if not answers:
        more = shapes.anywhere(n, now.numbers, rng)
        return np.concatenate([guesses(now.numbers), more])[:n]
    shown = [best(now)]
    for place in likely(now, 16 * n, rng):
        if len(shown) < n and min(np.abs(place - other).max() for other in shown) > 0.05:
            shown.append(place)
    while len(shown) < n:  # all of the belief is in one place
        shown.append(shapes.inside(shown[0] + 0.1 * rng.standard_normal(now.numbers)))
    if len(answers) % OFF_EVERY == 0 and all(place.any() for place in shown):
        shown[-1] = np.zeros(now.numbers)
    return np.array(shown)


def better_than_off(now: Belief, rng: np.random.Generator | None = None) -> float:
    """The probability that there is a taste, and that what is the best in it beats off."""
    rng = np.random.default_rng(0) if rng is None else rng
    place = best(now)
    if not place.any():
        return 0.0
    drawn = features(place[None]) @ now.drawn(4096, rng).T
    return now.taste * float((drawn > 0).mean())
