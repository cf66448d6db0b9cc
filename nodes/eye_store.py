"""The sessions of Tune by Eye in ComfyUI's user folder: where they lie, what comes next in one, what
the editor is told of it, and the schedule file that is made of it.

A graph that is queued and a click in the editor come to the same session; `eye.session.change` does
one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import folder_paths

from ..eye import session as sessions
from ..eye import shapes, taste, verdict
from ..eye.on_run import Watched
from ..eye.session import (
    ALL_ALIKE,
    COMPARE,
    ENOUGH,
    FOUND,
    MORE,
    SHEETS,
    Made,
    Round,
    Session,
    SessionError,
)
from ..tpm.schedule import Schedule, ScheduleMeta
from ..tpm.schedule_file import save_schedule
from .run.checks import short

FOLDER = "async_timestep"
NAME = re.compile(r"[^\W_][\w .()+-]{0,79}")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
generations: dict[Path, int] = {}  # how often a session that was there has gone, in this process


def file_name(name: object, what: str, ending: str) -> str:
    """The name with its ending. Raises ValueError on what is no plain name of a file."""
    plain = name.strip().removesuffix(ending) if isinstance(name, str) else ""
    if not NAME.fullmatch(plain) or plain.endswith(".") or RESERVED.fullmatch(plain):
        raise ValueError(
            f"{what} is {short(name)}, expected a name of letters, digits, spaces, - and _, at "
            "most 80 of them; give it a plain name."
        )
    return plain + ending


def path_of(name: object) -> Path:
    """The file of a session. Raises ValueError on a name that is none."""
    folder = Path(folder_paths.get_user_directory(), "default", FOLDER)
    return folder / file_name(name, "session", ".json")


def generation(path: Path) -> int:
    """Grows when a session that was there is gone, so that nothing of it is taken from the host's
    cache for the one that begins anew."""
    if path.exists():
        generations.setdefault(path, 0)
    elif path in generations:
        generations[path] += 1
    return generations.get(path, 0)


def lines_of(prompts: object) -> list[str]:
    """The prompts, one a line. None at all is one empty prompt."""
    lines = [line.strip() for line in str(prompts).splitlines()]
    return [line for line in lines if line] or [""]


def tail_of_compared(session: Session) -> int:
    """How many of the newest sheets are last sheets with an answer."""
    count = 0
    for own in reversed(session.rounds):
        if own.kind != COMPARE or not own.answer:
            break
        count += 1
    return count


def wants_to_compare(session: Session, compare: bool) -> bool:
    """Whether the next sheet is a last one: it is asked for, or SHEETS of them have begun."""
    now = session.open
    begun = 0 < tail_of_compared(session) < SHEETS
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


def with_sheet(session: Session, prompts: Sequence[str], pictures: int, compare: bool) -> Session:
    """With the sheet open that is to be shown. Raises SessionError."""
    make = sessions.compare_round if wants_to_compare(session, compare) else sessions.next_round
    return make(session, prompts, pictures)


def sheet_mark(name: object, choice: object, number: object, compare: object) -> str:
    """The same for as long as the same sheet is shown. None, as the host gives it for an input that
    a node is connected to, counts as nothing."""
    try:
        path = path_of(name)
        times_gone = generation(path)
        if not path.exists():
            return f"{times_gone} ()"
        session = with_answer(sessions.load(path), choice or 0, number or 0)
        answers = tuple(own.answer for own in session.rounds if own.answer)
        return f"{times_gone} {answers} {wants_to_compare(session, bool(compare))}"
    except ValueError as wrong:
        return str(wrong)


def next_sheet(
    name: str, prompts: Sequence[str], steps: int, mode: str, pictures: int, seed: int, choice: int,
    number: int, compare: bool, family: str, weights: str,
) -> Session:  # fmt: skip
    """The session with the sheet open that is to be made now, as it is in its file. Raises
    SessionError."""

    def edit(session: Session) -> Session:
        session = sessions.same(session, steps, mode, family, weights)
        session = with_answer(session, choice, number)
        return with_sheet(session, prompts, pictures, compare)

    path = path_of(name)
    fresh = sessions.begin(path.stem, steps, mode, seed, family, weights)
    now = sessions.change(path, edit, fresh)
    generation(path)
    return now


def load(name: str) -> Session:
    return sessions.load(path_of(name))


def remembered(session: Session, watched: Watched, made: Made) -> Session:
    """In its file too: what the runs of its first finished sheet have told."""

    def edit(own: Session) -> Session:
        return replace(
            own,
            times=own.times or watched.times,
            model_family=own.model_family or watched.family,
            made=made if own.made == Made() else own.made,
        )

    return sessions.change(path_of(session.name), edit)


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


def judged(session: Session, number: int, scores: Sequence[float]) -> Session:
    """The column with the highest score is the answer; where they are all the same, all alike."""
    best = max(range(len(scores)), key=scores.__getitem__)
    choice = ALL_ALIKE if min(scores) == max(scores) else best + 1
    return sessions.answer(path_of(session.name), number, choice)


def prompts_seen(session: Session) -> list[str]:
    return list(dict.fromkeys(text for own in session.rounds for text in own.prompts))


def to_compare(name: str) -> Session:
    """Opens the first of the last sheets. Raises SessionError where it is too early."""

    def edit(session: Session) -> Session:
        rows = session.rounds[-1].rows if session.rounds else 1
        return sessions.compare_round(session, prompts_seen(session) or [""], rows)

    return sessions.change(path_of(name), edit)


def round_of(session: Session, number: int) -> Round | None:
    return session.rounds[number - 1] if 1 <= number <= len(session.rounds) else None


def status(session: Session, number: int, said: str = "") -> dict:
    """What the editor shows beside the sheet of a round. said: a sentence on what was just done."""
    own, newest = round_of(session, number), number == len(session.rounds)
    choices = len(session.answers())
    enough = choices >= ENOUGH
    compared = verdict.compared(session)
    place = sum(r.kind == COMPARE for r in session.rounds[:number]) - 1
    return {
        "session": session.name,
        "answer": (own.answer or None) if own else None,
        "open": bool(own and newest and not own.answer),
        "changeable": bool(own and newest),
        "count": choices,
        "choices_in_words": f"{choices} choice{'' if choices == 1 else 's'}",
        "line": line(session),
        "compared": compared,
        "place": f"{place % SHEETS + 1} of {SHEETS}",
        "can_compare": enough and not (own and own.kind == COMPARE and newest and not own.answer),
        "compare_tip": "Shows what was found beside off and beside one more step, on new seeds."
        if enough
        else f"After {ENOUGH} choices: shows what was found beside off and one more step.",
        "plot": f"/async_timestep/eye/plot?session={session.name}&count={choices}",
        "proposed_name": session.name,
        "said": said,
    }


def line(session: Session) -> str:
    """What is believed, and what the last sheets said."""
    words = [verdict.line(session), few_numbers(session), verdict.compared(session)]
    return "; ".join(word for word in words if word)


def few_numbers(session: Session) -> str:
    """What a search over so few steps can find."""
    count = session.numbers
    if count == len(shapes.NAMES):
        return ""
    what = "one number" if count == 1 else "two numbers"
    return f"{session.steps} steps leave {what} to tune"


def best_schedule(session: Session) -> Schedule | None:
    """What the search would pick now; None until a sheet was finished."""
    if not session.times:
        return None
    numbers = taste.best(session.belief())
    return shapes.schedule(numbers, session.times, session.mode)


def save(session: Session, name: object) -> Path:
    """Writes what was found into models/tpm. Raises ValueError where there is nothing yet, and
    where a file of this name is there: nothing is overwritten."""
    found = best_schedule(session)
    if found is None or not session.answers():
        raise SessionError(
            f"The session {session.name!r} has no choice yet, so there is no schedule to save; "
            "choose on a sheet first."
        )
    plain = file_name(name, "The name of the file", ".safetensors")
    path = Path(folder_paths.get_folder_paths("tpm")[0], plain)
    if path.exists():
        raise SessionError(
            f"models/tpm has a file {plain} already, which is never overwritten; give another name."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_schedule(path, found, meta_of(session))
    return path


def saved_once(session: Session, name: object) -> str:
    """For a graph that names a file: a sentence of what was done, "" where it names none."""
    if not name:
        return ""
    try:
        path = save(session, name)
    except SessionError as not_saved:
        return str(not_saved)
    return f"Saved as {path.name} in models/tpm."


def meta_of(session: Session) -> ScheduleMeta:
    """What the file says about itself: no gain, since nobody has measured one."""
    sure = taste.better_than_off(session.belief())
    note = ""
    if sure < taste.SURE:
        note = (
            f"The schedule was chosen by eye in {len(session.answers())} choices, which do not tell "
            "it from off; compare its images with deviation_scale 0."
        )
    made = session.made
    seen = sum(own.rows * own.columns for own in session.rounds if own.answer)
    return ScheduleMeta(
        model_family=session.model_family,
        source="eye",
        reward="chosen by eye",
        images=seen,
        note=note,
        weights_sha256=session.weights_sha256,
        sampler=made.sampler,
        scheduler=made.scheduler,
        guidance=made.guidance,
        resolution=max(made.resolution, 1),
        base_model=made.base_model,
        latent_channels=max(made.latent_channels, 1),
    )
