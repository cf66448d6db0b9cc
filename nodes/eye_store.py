"""The sessions of Tune by Eye in ComfyUI's user folder: where they lie, and what comes next in one.

A graph that is queued and a click in the editor come to the same session; `change` of
eye/session_file.py does one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import folder_paths

from ..eye import session as sessions
from ..eye import session_file, shapes
from ..eye.on_run import Watched
from ..eye.session import (
    ALL_ALIKE,
    COMPARE,
    FOUND,
    MORE,
    SHEETS,
    Made,
    Round,
    Session,
    SessionError,
)
from .run.checks import short

FOLDER = "async_timestep"
NEAR_OFF = 0.05  # D below which nobody sees a difference
NAME = re.compile(r"[^\W_][\w .()+-]{0,79}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
generations: dict[Path, int] = {}  # how often a session that was there has gone, in this process


def file_name(name: object, what: str, ending: str) -> str:
    """The name with its ending. Raises ValueError on what is no plain name of a file."""
    plain = name.strip().removesuffix(ending) if isinstance(name, str) else ""
    if not NAME.fullmatch(plain) or plain.endswith((".", " ")) or RESERVED.fullmatch(plain):
        raise ValueError(
            f"{what} is {short(name)}, expected a name of letters, digits, spaces, - and _, at "
            "most 80 of them; give it a plain name."
        )
    return plain + ending


def path_of(name: object) -> Path:
    """The file of a session. Raises ValueError on a name that is none."""
    folder = Path(folder_paths.get_user_directory(), "default", FOLDER)
    return folder / file_name(name, "session", ".json")


def load(name: object) -> Session:
    return session_file.load(path_of(name))


def sheet_of(name: object, number: int) -> tuple[Session, Round]:
    """The session and its sheet of that number, from 1. Raises SessionError where it is not there
    any more."""
    session = load(name)
    if number > len(session.rounds):
        raise SessionError(
            f"The session {session.name!r} has {len(session.rounds)} sheets and not {number} any "
            "more: it was started over; run the graph again."
        )
    return session, session.rounds[number - 1]


def generation(path: Path) -> int:
    """Grows when a session that was there is gone, so that nothing of it is taken from the host's
    cache for the one that begins anew."""
    if path.exists():
        generations.setdefault(path, 0)
    elif path in generations:
        generations[path] += 1
    return generations.get(path, 0)


def require_whole(**numbers: object) -> None:
    """Raises ValueError on what is no whole number from 0: a wire may bring anything."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(
                f"{name} is {short(value)}, expected a whole number from 0; type one, or take off "
                "the node that computes it."
            )


def lines_of(prompts: object) -> list[str]:
    """The prompts, one a line. None at all is one empty prompt."""
    lines = [line.strip() for line in str(prompts).splitlines()]
    return [line for line in lines if line] or [""]


def compared_last(session: Session) -> int:
    """How many of the newest sheets are last sheets with an answer."""
    kinds = [own.kind == COMPARE and own.answer > 0 for own in reversed(session.rounds)]
    return kinds.index(False) if False in kinds else len(kinds)


def wants_to_compare(session: Session, compare: bool) -> bool:
    """Whether the next sheet is a last one: it is asked for, or SHEETS of them have begun."""
    now = session.open
    begun = 0 < compared_last(session) < SHEETS
    return compare or begun or (now is not None and now.kind == COMPARE)


def with_answer(session: Session, choice: int, number: int) -> Session:
    """The answer by number, for graphs: only for a sheet that it names, so that the same graph
    queued again changes nothing. Raises SessionError."""
    if choice == 0:
        return session
    if number == 0:
        raise SessionError(
            f"choice is {choice} and round is 0, expected the number of the sheet that it answers, "
            f"which is {max(len(session.rounds), 1)} now; set round to it, or click in the node."
        )
    return sessions.answered(session, number, choice)


def next_sheet(
    name: object, prompts: Sequence[str], steps: int, mode: str, pictures: int, seed: int,
    choice: int, number: int, compare: bool, family: str, weights: str,
) -> Session:  # fmt: skip
    """The session with the sheet open that is to be made now, as it is in its file. Raises
    ValueError."""

    def edit(session: Session) -> Session:
        session = sessions.same(session, steps, mode, family, weights)
        session = with_answer(session, choice, number)
        if not wants_to_compare(session, compare):
            return sessions.next_round(session, prompts, pictures)
        return compared(session, prompts, pictures)

    path = path_of(name)
    fresh = sessions.begin(path.stem, steps, mode, seed, family, weights)
    now = session_file.change(path, edit, fresh)
    generation(path)
    return now


def sheet_mark(name: object, choice: object, number: object, compare: object) -> str:
    """The same for as long as the same sheet is shown. None, as the host gives it for an input that
    a node is connected to, counts as nothing."""
    try:
        path = path_of(name)
        gone, answers, wanted = generation(path), (), bool(compare)
        if path.exists():
            session = with_answer(session_file.load(path), choice or 0, number or 0)
            answers = tuple(own.answer for own in session.rounds if own.answer)
            wanted = wants_to_compare(session, wanted)
        return f"{gone} {answers} {wanted}"
    except ValueError as wrong:
        return str(wrong)


def compared(session: Session, prompts: Sequence[str], pictures: int) -> Session:
    """With a last sheet open. Raises SessionError where it is too early, and where there is nothing
    to compare."""
    after = sessions.compare_round(session, prompts, pictures)
    if max(abs(d) for d in shapes.knots(after.rounds[-1].shown[FOUND])) < NEAR_OFF:
        raise SessionError(
            f"The session {session.name!r} would pick off now, or next to it, so there is "
            "nothing to compare with off; choose on, or be content with off."
        )
    return after


def to_compare(name: object) -> Session:
    """Opens the first of the last sheets. Raises SessionError where it is too early."""

    def edit(session: Session) -> Session:
        prompts = list(dict.fromkeys(text for own in session.rounds for text in own.prompts))
        rows = session.rounds[-1].rows if session.rounds else 1
        return compared(session, prompts or [""], rows)

    return session_file.change(path_of(name), edit)


def require_watched(session: Session, sheet: Round, watched: Watched) -> None:
    """Raises SessionError where the pictures were not made with the schedules of the sheet."""
    if not watched.steps and not session.times:
        raise SessionError(
            "Tune by Eye: Choose got pictures in which no schedule was used; connect the output "
            "deviation of Try to an Async Timestep node before your sampler, whose scale is not 0."
        )
    if watched.ran and session.times and len(watched.ran) != len(session.times):
        raise SessionError(
            f"The session {session.name!r} was begun with {len(session.times) - 1} steps, and the "
            f"sampler ran {len(watched.ran) - 1}; connect the output steps of Try to it, or give "
            "another session name."
        )
    found, more = (watched.steps.get(place) for place in (FOUND, MORE))
    if sheet.kind == COMPARE and found and more and more <= found:
        raise SessionError(
            f"The last sheet needs pictures with {found + 1} steps too, and all have {found}; "
            "connect the output steps of Tune by Eye: Try to the sampler, and run again."
        )


def remembered(session: Session, watched: Watched, made: Made) -> Session:
    """In its file too: what the runs of its first finished sheet have told."""

    def edit(own: Session) -> Session:
        return replace(
            own,
            times=own.times or watched.times,
            model_family=own.model_family or watched.family,
            made=made if own.made == Made() else own.made,
        )

    return session_file.change(path_of(session.name), edit)


def judged(session: Session, number: int, scores: Sequence[float]) -> Session:
    """The column with the highest score is the answer; where they are all the same, all alike."""
    best = max(range(len(scores)), key=scores.__getitem__)
    choice = ALL_ALIKE if min(scores) == max(scores) else best + 1
    return session_file.answer(path_of(session.name), number, choice)
