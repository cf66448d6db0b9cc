"""The file of a session of choices: one small JSON file, written whole or not at all.

    change(path, lambda s: next_round(s, prompts, pictures=4), begin("mine", steps=8))
    answer(path, 1, B)                          # the sheet of round 1: its second column
    session = load(path)

Every change is written beside the file, flushed to the disk, and moved onto it, so a reader (and
whoever comes back after a crash) has the old session or the new one. Nothing is removed:
`start_over` gives the file another name. Whatever is wrong ends as a SessionError of one sentence.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from .fields import CURE, FORMAT, VERSION, SessionError, checked
from .session import Made, Round, Session, answered

LOCK = threading.RLock()  # a click arrives in another thread than a queued graph


def load(path: str | Path) -> Session:
    """Raises SessionError where there is none, or none that can be read."""
    path = Path(path)
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SessionError(
            f"{path.name} is not there, expected the file of a session; run the graph once to "
            "begin one."
        ) from None
    except OSError as error:
        raise SessionError(
            f"{path.name} could not be read ({error.strerror or error}), expected the file of a "
            "session; see to that, or give another session name."
        ) from None
    except (ValueError, RecursionError):
        raise SessionError(
            f"{path.name} is damaged (no JSON), expected what this pack wrote; {CURE}."
        ) from None
    values = checked(path.name, data)
    values |= {"rounds": tuple(Round(**own) for own in values["rounds"])}
    return Session(**values | {"made": Made(**values["made"])})


def store(path: str | Path, session: Session) -> None:
    """Writes the file in one move. Raises SessionError where `load` would refuse it, or where the
    disk does."""
    path = Path(path)
    data = {"format": FORMAT, "version": VERSION, **asdict(session)}
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    checked(path.name, json.loads(text))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SessionError(
            f"{path.name} could not be written ({error.strerror or error}), so the session stays "
            "as it was; make room, or allow writing there, and do it again."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def change(
    path: str | Path, edit: Callable[[Session], Session], fresh: Session | None = None
) -> Session:
    """Loads, edits and stores, one at a time. fresh: what a session that is not there begins as."""
    path = Path(path)
    with LOCK:
        before = fresh if fresh is not None and not path.exists() else load(path)
        after = edit(before)
        if after != before or not path.exists():
            store(path, after)
        return after


def answer(path: str | Path, number: int, choice: int) -> Session:
    """`answered`, in the file."""
    return change(path, lambda session: answered(session, number, choice))


def start_over(path: str | Path) -> Path | None:
    """Gives the file of a session another name, which is returned; None where there is none."""
    path, number = Path(path), 1
    with LOCK:
        if not path.exists():
            return None
        while (aside := path.with_name(f"{path.stem}.before_{number}{path.suffix}")).exists():
            number += 1
        path.rename(aside)
        return aside
