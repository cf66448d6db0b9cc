"""What a session of Tune by Eye says, what it has found, and the schedule file made of it."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ..eye import shapes, taste, verdict
from ..eye.session import COMPARE, ENOUGH, SHEETS, Session, SessionError
from ..tpm.schedule import Schedule, ScheduleMeta
from ..tpm.schedule_file import save_schedule
from .eye_store import file_name

COMPARES = "shows what was found beside off and beside one more step, on new seeds"
NUMBERS = ("", "one number", "two numbers")


def status(session: Session, number: int, said: str = "") -> dict:
    """What the editor shows beside the sheet of a round. said: a sentence on what was just done."""
    rounds, choices = session.rounds, len(session.answers())
    own = rounds[number - 1] if 1 <= number <= len(rounds) else None
    newest = own is not None and number == len(rounds)
    unanswered = newest and not own.answer
    place = sum(r.kind == COMPARE for r in rounds[:number]) - 1
    enough = choices >= ENOUGH
    return {
        "session": session.name,
        "answer": own.answer or None if own else None,
        "open": unanswered,
        "changeable": newest,
        "count": choices,
        "choices_in_words": f"{choices} choice{'' if choices == 1 else 's'}",
        "line": line(session),
        "place": f"{place % SHEETS + 1} of {SHEETS}",
        "can_compare": enough and not (unanswered and own.kind == COMPARE),
        "compare_tip": COMPARES.capitalize() if enough else f"After {ENOUGH} choices: {COMPARES}",
        "plot": f"{len(rounds)}.{choices}.{own.answer if own else 0}",  # changes when the plot does
        "proposed_name": session.name,
        "said": said,
    }


def line(session: Session) -> str:
    """What is believed, and what the last sheets said."""
    words = [verdict.line(session), few_numbers(session), verdict.compared(session)]
    return "; ".join(word for word in words if word)


def few_numbers(session: Session) -> str:
    """What a search over few steps can find at all."""
    if session.numbers == len(shapes.NAMES):
        return ""
    return f"{session.steps} steps leave {NUMBERS[session.numbers]} to tune"


def best_schedule(session: Session) -> Schedule | None:
    """What the search would pick now, off without a choice; None until a sheet was finished."""
    if not session.times:
        return None
    chosen = bool(session.answers())
    numbers = taste.best(session.belief()) if chosen else shapes.off(session.steps)
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
            f"models/tpm has a file {plain} already, and nothing is overwritten; give another name."
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


def is_better(session: Session) -> bool:
    """Whether the choices tell what was found from off."""
    return taste.better_than_off(session.belief()) >= taste.SURE


def meta_of(session: Session) -> ScheduleMeta:
    """What the file says about itself: no gain, since nobody has measured one."""
    note, made = "", session.made
    if not is_better(session):
        note = (
            f"The schedule was chosen by eye in {len(session.answers())} choices, which do not "
            "tell it from off; compare its images with deviation_scale 0."
        )
    return ScheduleMeta(
        model_family=session.model_family,
        latent_channels=max(made.latent_channels, 1),
        source="eye",
        sampler=made.sampler,
        scheduler=made.scheduler,
        guidance=made.guidance,
        resolution=max(made.resolution, 1),
        base_model=made.base_model,
        reward="chosen by eye",
        images=sum(own.rows * own.columns for own in session.rounds if own.answer),
        note=note,
        weights_sha256=session.weights_sha256,
    )
