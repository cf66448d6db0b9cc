"""A session of choices: what was shown, and what was chosen. Its file is in session_file.py.

    session = next_round(begin("mine", steps=8), prompts, pictures=4)
    session = answered(session, 1, B)           # the sheet of round 1: its second column
    taste.belief(session.answers(), session.numbers)

A session is never changed; each of these returns another one. Whatever is wrong ends as a
SessionError of one sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import shapes, taste
from .fields import ROWS_MOST, SEED_MOST, SessionError

CHOOSE, COMPARE = "choose", "compare"
A, B, C, D, NONE_BETTER, ALL_ALIKE = 1, 2, 3, 4, 5, 6  # an answer by number; 0: not yet
ENOUGH = 12  # choices before the last sheets
SHEETS = 3  # last sheets
FOUND, OFF, MORE = 0, 1, 2  # what a last sheet shows, before it is shuffled


@dataclass(frozen=True)
class Entry:
    """One picture of a sheet: its schedule, its steps, its row's seed and prompt."""

    numbers: tuple[float, ...]
    steps: int
    seed: int
    prompt: str


@dataclass(frozen=True)
class Round:
    """A sheet. shown: the schedules as they were proposed, the present best first (of a last sheet
    FOUND, OFF and MORE). steps: of each. order: column -> place in `shown`. seeds, prompts: of each
    row. answer: as it was given, 0 to 6."""

    kind: str
    shown: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...]
    order: tuple[int, ...]
    seeds: tuple[int, ...]
    prompts: tuple[str, ...]
    answer: int = 0

    @property
    def columns(self) -> int:
        return len(self.order)

    @property
    def rows(self) -> int:
        return len(self.seeds)

    def entries(self) -> list[Entry]:
        """Row by row, in each the columns as they are seen."""
        return [
            Entry(self.shown[place], self.steps[place], seed, prompt)
            for seed, prompt in zip(self.seeds, self.prompts, strict=True)
            for place in self.order
        ]

    @property
    def chosen(self) -> int | str | None:
        """The place in `shown`, None for none better, or "alike"."""
        if self.answer == ALL_ALIKE:
            return taste.ALIKE
        return None if self.answer == NONE_BETTER else self.order[self.answer - 1]


@dataclass(frozen=True)
class Made:
    """How the pictures of the first finished sheet were made, for the file that is saved; "" and 0
    where it is not known. resolution: pixels of the longer side."""

    sampler: str = ""
    scheduler: str = ""
    guidance: float = 1.0
    resolution: int = 0
    base_model: str = ""
    latent_channels: int = 0


@dataclass(frozen=True)
class Session:
    """model_family, weights_sha256: of the model, "" where none was connected. steps: K. mode: of
    the deviation. seed: of everything that is drawn. times: (K'+1,) falling flow times of the
    schedules, which the first finished sheet's run had, () before; K' is K but where the scheduler
    makes more of it."""

    name: str
    steps: int
    mode: str = "conditioning"
    seed: int = 0
    model_family: str = ""
    weights_sha256: str = ""
    times: tuple[float, ...] = ()
    made: Made = Made()
    rounds: tuple[Round, ...] = ()

    @property
    def numbers(self) -> int:
        return shapes.count(self.steps)

    @property
    def open(self) -> Round | None:
        """The sheet that waits for its answer."""
        return self.rounds[-1] if self.rounds and not self.rounds[-1].answer else None

    def answers(self) -> list[taste.Answer]:
        """Of the sheets that the taste is learned from."""
        own = [r for r in self.rounds if r.kind == CHOOSE and r.answer]
        return [taste.Answer(r.shown, r.chosen) for r in own]

    def belief(self) -> taste.Belief:
        return taste.belief(self.answers(), self.numbers)


def begin(
    name: str, steps: int, mode: str = "conditioning", seed: int = 0, family: str = "",
    weights: str = "",
) -> Session:  # fmt: skip
    return Session(name, steps, mode, seed % SEED_MOST, family, weights)


def same(session: Session, steps: int, mode: str, family: str = "", weights: str = "") -> Session:
    """The session, with the model where it knew none. Raises SessionError where it was begun with
    other steps, another mode or another model: its choices say nothing about those."""
    cure = "give another session name, or set it back"
    for what, own, now in (("steps", session.steps, steps), ("mode", session.mode, mode)):
        if own != now:
            raise SessionError(
                f"The session {session.name!r} was begun with {what} {own}, and {what} is {now} "
                f"now; {cure}."
            )
    family_now, weights_now = family or session.model_family, weights or session.weights_sha256
    if session.model_family not in ("", family_now):
        raise SessionError(
            f"The session {session.name!r} was made on {session.model_family}, and the model is "
            f"{family_now} now, of which its choices say nothing; give another session name, or "
            "load that model."
        )
    if session.weights_sha256 not in ("", weights_now):
        raise SessionError(
            f"The session {session.name!r} was made on other weights of {family_now} than the "
            "model has now; give another session name, or load that model."
        )
    return replace(session, model_family=family_now, weights_sha256=weights_now)


def drawn(seed: int, *address: int | str) -> int:
    """A whole number below SEED_MOST that depends on nothing but the seed and the address."""
    text = "/".join(map(str, (seed, *address))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") % SEED_MOST


def rows_of(
    session: Session, kind: str, prompts: Sequence[str], pictures: int, before: Sequence[Round]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Seeds and prompts of the rows after these rounds: the prompts in turn, every seed new; a last
    sheet has none of a sheet that was shown in its place without an answer."""
    if not prompts:
        raise SessionError(
            "prompts is empty, expected one prompt a line; write what you want pictures of."
        )
    if not 1 <= pictures <= ROWS_MOST:
        raise SessionError(f"pictures is {pictures}, expected 1 to {ROWS_MOST} rows a sheet.")
    first = sum(r.rows for r in before)
    place = "row" if kind == CHOOSE else "last"
    seeds = tuple(drawn(session.seed, place, len(before), row) for row in range(pictures))
    return seeds, tuple(prompts[(first + row) % len(prompts)] for row in range(pictures))


def with_round(
    session: Session, kind: str, prompts: Sequence[str], pictures: int,
    shown: Callable[[np.random.Generator], Sequence], steps: Sequence[int],
) -> Session:  # fmt: skip
    """The session with an open sheet of this kind. One that is open already stays, with other rows
    where others are asked for; one of the other kind had no answer, and goes."""
    before = session.rounds[:-1] if session.open else session.rounds
    seeds, texts = rows_of(session, kind, prompts, pictures, before)
    now = session.open
    if now is not None and now.kind == kind:
        now = replace(now, seeds=seeds, prompts=texts)
    else:
        rng = np.random.default_rng([session.seed, len(before)])
        places = tuple(tuple(round(float(x), 4) for x in own) for own in shown(rng))
        order = tuple(int(place) for place in rng.permutation(len(places)))
        now = Round(kind, places, tuple(steps), order, seeds, texts)
    return replace(session, rounds=(*before, now))


def next_round(
    session: Session, prompts: Sequence[str], pictures: int = 4, columns: int = taste.COLUMNS
) -> Session:
    """With the next sheet of schedules to choose from open. Raises SessionError."""

    def shown(rng: np.random.Generator) -> np.ndarray:
        return taste.propose(session.belief(), session.answers(), rng, columns)

    return with_round(session, CHOOSE, prompts, pictures, shown, [session.steps] * columns)


def compare_round(session: Session, prompts: Sequence[str], pictures: int = 4) -> Session:
    """With the next last sheet open: the found schedule, off, and off with one more step, on seeds
    not seen before. Raises SessionError before there are ENOUGH choices."""
    if (choices := len(session.answers())) < ENOUGH:
        raise SessionError(
            f"The session {session.name!r} has {choices} choices, expected {ENOUGH} or more before "
            "it is compared with off; choose on."
        )
    off, steps = shapes.off(session.steps), session.steps

    def shown(rng: np.random.Generator) -> list:
        return [taste.best(session.belief()), off, off]

    return with_round(session, COMPARE, prompts, pictures, shown, [steps, steps, steps + 1])


def answered(session: Session, number: int, choice: int) -> Session:
    """The session with the answer to its round `number` (from 1; 0 is the last). The same answer
    again changes nothing, and another one takes its place until there is a next sheet. Raises
    SessionError where that round is not there, or was answered otherwise before the next one."""
    number = number or len(session.rounds)
    if not 1 <= number <= len(session.rounds):
        raise SessionError(
            f"round is {number}, and the session {session.name!r} has {len(session.rounds)} sheets;"
            " run the graph for a sheet, and answer that one."
        )
    now = session.rounds[number - 1]
    if choice not in (*range(1, now.columns + 1), NONE_BETTER, ALL_ALIKE):
        raise SessionError(
            f"choice is {choice!r}, expected 1 to {now.columns} for a column, {NONE_BETTER} for "
            f"none better or {ALL_ALIKE} for all alike."
        )
    if now.answer != choice and number < len(session.rounds):
        raise SessionError(
            f"The sheet of round {number} has its answer already ({said(now.answer)}, not "
            f"{said(choice)}), perhaps from another tab; choose on the sheet of round "
            f"{len(session.rounds)}."
        )
    rounds = list(session.rounds)
    rounds[number - 1] = replace(now, answer=choice)
    return replace(session, rounds=tuple(rounds))


def said(choice: int) -> str:
    return {NONE_BETTER: "none better", ALL_ALIKE: "all alike"}.get(choice) or " ABCD"[choice]
