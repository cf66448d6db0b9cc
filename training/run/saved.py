"""Reading the checkpoints of a run folder: the newest one, and what is whole where it is not.

    state = newest_state(checkpoints, check)

check: what is wrong with a state that torch can read, in words that follow the file's name, or "".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

from .content import is_whole
from .ranges import shown
from .records import is_count

LATEST = "latest"
Check = Callable[[dict], str]


class RunFolderError(RuntimeError):
    """The folder cannot be used; the message is one sentence for the user."""


def unchecked(state: dict) -> str:
    return ""


def saved_in(checkpoints: Path) -> list[Path]:
    """The checkpoints, oldest first; whole even where a full disk left no pointer to one."""
    return sorted(p for p in checkpoints.glob("*.pt") if re.fullmatch(r"\d{6,}", p.stem))


def newest_state(checkpoints: Path, check: Check = unchecked) -> dict:
    """The newest checkpoint. Raises RunFolderError where it cannot be read, is damaged or fails the
    check, and names the newest one that is whole."""
    path, wrong = newest(checkpoints)
    if not wrong:
        state, wrong = read_checkpoint(path, check)
    if not wrong:
        return state
    instead = offered(checkpoints, path, check)
    raise RunFolderError(f"{path} {wrong}, expected a checkpoint of this trainer; {instead}")


def newest(checkpoints: Path) -> tuple[Path, str]:
    """The checkpoint that `latest` names, and "", or that file and what is wrong with it."""
    pointer = checkpoints / LATEST
    if not pointer.exists():
        return saved_in(checkpoints)[-1], ""
    try:
        name = pointer.read_text("utf-8", "replace").strip()
    except OSError as error:
        return pointer, f"cannot be read ({error.strerror or error})"
    if not re.fullmatch(r"\d{6,20}\.pt", name):
        return pointer, f"says {shown(name)}"
    return checkpoints / name, ""


def offered(checkpoints: Path, path: Path, check: Check) -> str:
    """What to do in the place of a checkpoint that cannot be used."""
    for other in reversed(saved_in(checkpoints)):
        if other != path and not read_checkpoint(other, check)[1]:
            return (
                f"{other.name} is whole: write that name into {checkpoints / LATEST} and go on "
                "from there."
            )
    return "no other one is whole: start again in another --out."


def read_checkpoint(path: Path, check: Check = unchecked) -> tuple[dict, str]:
    """A checkpoint's content, and what is wrong with it, or ""."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        return {}, f"cannot be read ({type(error).__name__})"
    if not isinstance(state, dict) or not is_count(state.get("iteration")):
        return {}, "holds something else"
    if state["iteration"] != int(path.stem):
        return {}, f"holds iteration {state['iteration']}"
    if not is_whole(state):
        return {}, "is damaged: its content is not what was written"
    return state, check(state)
