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

LATEST = "latest"
# what a run writes before its first checkpoint, and nothing else: a pattern for each place
STARTED = {
    "": r"config\.yaml|prompts\.txt|(metrics|validation)\.jsonl|samples|checkpoints|tensorboard"
    r"|aborted_\d+",
    "samples": r"\d{6}\.png",
    "checkpoints": r"",
    "tensorboard": r"events\.out\.tfevents\..*",
}
TEMPORARY = r"\..+\.(\d+|png)\.tmp"
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

    def saved(self) -> list[Path]:
        """The checkpoints, oldest first; whole even where a full disk left no pointer to one."""
        return sorted(self.checkpoints.glob("[0-9]*.pt"))

    def foreign(self) -> str:
        """A file or folder that no start of a run leaves, or ""."""
        for place, pattern in STARTED.items():
            folder = self.path / place
            for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not re.fullmatch(f"{pattern}|{TEMPORARY}", entry.name):
                    return entry.relative_to(self.path).as_posix()
        return ""

    def put_aside(self) -> str:
        """Moves what an aborted start left into a folder of its own: it may have been looked at, or
        changed by hand."""
        there = self.path.iterdir() if self.path.is_dir() else ()
        left = [entry for entry in there if not entry.name.startswith("aborted_")]
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
        """Writes checkpoints/<iteration>.pt, then the pointer, then drops the oldest."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self.checkpoints / f"{state['iteration']:06d}.pt"
        write_atomic(path, buffer.getvalue(), self.advice())
        write_atomic(self.checkpoints / LATEST, path.name.encode(), self.advice())
        for stale in self.saved()[: -self.keep]:
            if stale != path:
                stale.unlink(missing_ok=True)
        return path

    def load(self) -> dict:
        """The newest checkpoint. Raises RunFolderError where it cannot be read."""
        pointer = self.checkpoints / LATEST
        path = self.saved()[-1]
        if pointer.exists():
            path = self.checkpoints / pointer.read_text("utf-8").strip()
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own
            raise RunFolderError(
                f"{path} cannot be read ({type(error).__name__}), expected a checkpoint of this "
                f"trainer; write the name of an older one into {self.checkpoints / LATEST}."
            ) from None

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
        """The whole lines of a .jsonl file; a half one at the end of a killed run is left out."""
        path = self.path / name
        found = []
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def truncate(self, name: str, iteration: int) -> None:
        """Keeps what was recorded up to an iteration: what comes after is made again."""
        kept = [r for r in self.records(name) if r["iteration"] <= iteration]
        self.text(name, "".join(json.dumps(record) + "\n" for record in kept))


def command(out: Path, how: str) -> str:
    return f"python training/train_tpm.py {how} --out {shlex.quote(str(out))}"
