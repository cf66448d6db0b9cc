"""The run folder: nothing half-written, nothing overwritten.

    config.yaml  metrics.jsonl  validation.jsonl  samples/  checkpoints/  tpm.safetensors  README.md

A checkpoint is written beside its name, flushed to the disk, and moved; `checkpoints/latest` names
the newest. Interrupted at any moment, the folder holds a whole checkpoint or none. Without one the
run can be started again: what an aborted start left is moved into aborted_1/.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch

from .atomic import whole_file
from .content import CONTENT, content_sha256, is_whole
from .lock import LOCK, holder, locked

LATEST = "latest"
# what a run writes before its first checkpoint, and nothing else: a pattern for each place
STARTED = {
    "": r"config\.yaml|prompts\.txt|(metrics|validation)\.jsonl|samples|checkpoints|tensorboard"
    r"|aborted_\d+",
    "samples": r"\d{6}\.png",
    "checkpoints": r"",
    "tensorboard": r"events\.out\.tfevents\..*",
}
# what `whole_file` leaves beside a file of ours when the process is killed
TEMPORARY = (
    r"\.(config\.yaml|prompts\.txt|(metrics|validation)\.jsonl|README\.md|latest|\d{6}\.(pt|png)"
    r"|tpm(_last)?\.safetensors)\.\d+\.tmp"
)
RESUME = "the last checkpoint is whole: make room and go on with --resume."
AGAIN = "make room and give the same command again."


class RunFolderError(RuntimeError):
    """The folder cannot be used; the message is one sentence for the user."""


def write_atomic(path: Path, data: bytes, advice: str = AGAIN) -> None:
    """All of it or nothing, on the disk when this returns. Raises RunFolderError on a full disk."""
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be written ({error.strerror or error}, {len(data)} bytes were "
            f"needed); {advice}"
        ) from None


def check_place(path: Path) -> None:
    """Raises RunFolderError where a folder is not and cannot be made. Makes nothing."""
    above = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not above.is_dir():
        raise RunFolderError(f"--out is {path}, but {above} is a file; choose another --out.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"--out is {path}, but nothing may be written into {above}; choose another --out, or "
            "change its permissions."
        )


class RunFolder:
    """`RunFolder(path).save(state)`, `.load()`; only rank 0 holds one."""

    def __init__(self, path: Path, keep: int = 2):
        self.path, self.keep = path, keep
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"

    def check(self, resume: bool) -> None:
        """Raises RunFolderError where a run would be overwritten, or where there is none to go on
        with. Makes nothing: it comes before the models are loaded, `create` after that."""
        check_place(self.path)
        if resume and not self.saved():
            raise RunFolderError(self.nothing_to_resume())
        if not resume and self.saved():
            raise RunFolderError(
                f"{self.path} holds a run; choose another --out, or go on with that run: "
                f"{command(self.path, '--resume')}"
            )
        if not resume and (foreign := self.foreign()):
            raise RunFolderError(
                f"{self.path} is not empty: {foreign} is there, expected a new folder; choose "
                "another --out."
            )

    def create(self, resume: bool) -> str:
        """Makes the folder; returns a sentence where an aborted start was put aside. Raises
        RunFolderError as `check` does."""
        self.check(resume)
        try:
            for folder in (self.path, self.checkpoints, self.samples):
                for left in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
                    if re.fullmatch(TEMPORARY, left.name):
                        left.unlink(missing_ok=True)
            said = "" if resume else self.put_aside()
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"{error.filename or self.path} could not be made ({error.strerror or error}); "
                "choose another --out, or see to that."
            ) from None
        return said

    @contextlib.contextmanager
    def only_here(self) -> Iterator[None]:
        """As long as this lasts no other process trains in the folder. Raises RunFolderError where
        one does."""
        new, lock = not self.path.exists(), self.path / LOCK
        try:
            with contextlib.ExitStack() as stack:
                with self.writing(LOCK):
                    self.path.mkdir(parents=True, exist_ok=True)
                    free = stack.enter_context(locked(lock))
                if not free:
                    raise RunFolderError(
                        f"{self.path} is in use: {holder(lock)} trains there; wait for it, or "
                        "choose another --out."
                    )
                yield
        finally:
            with contextlib.suppress(OSError):
                if new:
                    self.path.rmdir()  # where nothing was made in it

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first; whole even where a full disk left no pointer to one."""
        return sorted(self.checkpoints.glob("[0-9]*.pt"))

    def foreign(self) -> str:
        """A file or folder that no start of a run leaves, or ""."""
        for place, pattern in STARTED.items():
            folder = self.path / place
            for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not re.fullmatch(f"{pattern}|{TEMPORARY}|{re.escape(LOCK)}", entry.name):
                    return entry.relative_to(self.path).as_posix()
        return ""

    def put_aside(self) -> str:
        """Moves what an aborted start left into a folder of its own: it may have been looked at, or
        changed by hand."""
        there = self.path.iterdir() if self.path.is_dir() else ()
        left = [e for e in there if not e.name.startswith("aborted_") and e.name != LOCK]
        if not any(p.is_file() or any(p.iterdir()) for p in left):
            return ""
        numbers = [int(p.name.removeprefix("aborted_")) for p in self.path.glob("aborted_*")]
        aside = self.path / f"aborted_{max(numbers, default=0) + 1}"
        aside.mkdir()
        for entry in left:
            entry.rename(aside / entry.name)
        return f"An earlier start left no checkpoint; its files were moved into {aside}."

    def nothing_to_resume(self) -> str:
        config = self.path / "config.yaml"
        if not self.path.exists():
            return (
                f"--resume finds no run: {self.path} does not exist; name the run's folder by "
                "--out, or start one without --resume."
            )
        if config.is_file() and not self.foreign():
            again = command(self.path, f"--config {shlex.quote(str(config))}")
            return f"{self.path} ended before its first checkpoint; start it again: {again}"
        return (
            f"{self.path} holds no checkpoint to resume from; name the run's folder by --out, or "
            "start one without --resume in a new folder."
        )

    def save(self, state: dict) -> Path:
        """Writes checkpoints/<iteration>.pt, then the pointer to it, then drops the oldest."""
        buffer = io.BytesIO()
        torch.save({**state, CONTENT: content_sha256(state)}, buffer)
        path = self.checkpoints / f"{state['iteration']:06d}.pt"
        write_atomic(path, buffer.getvalue(), self.advice())
        write_atomic(self.checkpoints / LATEST, path.name.encode(), self.advice())
        for stale in self.saved()[: -self.keep]:
            if stale != path:
                stale.unlink(missing_ok=True)
        return path

    def load(self) -> dict:
        """The newest checkpoint. Raises RunFolderError where it cannot be read or is damaged, and
        names the newest one that is whole."""
        pointer = self.checkpoints / LATEST
        path = self.saved()[-1]
        if pointer.exists():
            path = self.checkpoints / pointer.read_text("utf-8", "replace").strip()
        state, wrong = read_checkpoint(path)
        if not wrong:
            return state
        others = (p.name for p in reversed(self.saved()) if p != path and not read_checkpoint(p)[1])
        whole = next(others, "")
        raise RunFolderError(
            f"{path} {wrong}, expected a checkpoint of this trainer; "
            + (
                f"{whole} is whole: write that name into {pointer} and go on from there."
                if whole
                else "no other one is whole: start again in another --out."
            )
        )

    def text(self, name: str, text: str) -> None:
        write_atomic(self.path / name, text.encode(), self.advice())

    def append(self, name: str, record: dict) -> None:
        """One line of a .jsonl file, flushed."""
        with self.writing(name), open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Around what writes a file of the run. Raises RunFolderError on a full disk."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"{self.path / name} could not be written ({error.strerror or error}); "
                f"{self.advice()}"
            ) from None

    def advice(self) -> str:
        """What to do when the disk is full."""
        return RESUME if self.saved() else AGAIN

    def records(self, name: str) -> list[dict]:
        """The records of a .jsonl file; a line that is none is left out."""
        return [record for record in self.lines(name) if record]

    def lines(self, name: str) -> list[dict]:
        """A record per line, an empty one where the line is none. Half a line at the end, which a
        killed run leaves, is no line."""
        path = self.path / name
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        *whole, last = map(record_of, text.split("\n"))
        return [*whole, last] if last else whole

    def truncate(self, name: str, iteration: int) -> str:
        """Keeps what was recorded up to an iteration: what comes after is made again. Where a line
        is no record, the file as it was stays beside it; returns a sentence that says so, or ""."""
        found, said = self.lines(name), ""
        if lost := found.count({}):
            said = (
                f"{lost} of {len(found)} lines of {self.path / name} cannot be read and are left "
                f"out; the file as it was is {self.set_aside(name)}."
            )
        kept = [r for r in found if r and r["iteration"] <= iteration]
        self.text(name, "".join(json.dumps(record) + "\n" for record in kept))
        return said

    def set_aside(self, name: str) -> Path:
        """A copy of a damaged file under a name that is free."""
        number = 1
        while (aside := self.path / f"{name}.damaged_{number}").exists():
            number += 1
        with self.writing(aside.name), whole_file(aside) as temporary:
            temporary.write_bytes((self.path / name).read_bytes())
        return aside


def record_of(line: str) -> dict:
    """A line's record: an object with the iteration that it is of. Empty where it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
            return record
    return {}


def read_checkpoint(path: Path) -> tuple[dict, str]:
    """A checkpoint's content, and what is wrong with it, or ""."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        return {}, f"cannot be read ({type(error).__name__})"
    if not isinstance(state, dict) or not isinstance(state.get("iteration"), int):
        return {}, "holds something else"
    if not is_whole(state):
        return {}, "is damaged: its content is not what was written"
    return state, ""


def command(out: Path, how: str) -> str:
    return f"python training/train_tpm.py {how} --out {shlex.quote(str(out))}"
