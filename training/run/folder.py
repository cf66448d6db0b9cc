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
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from .atomic import copied_aside, whole_file
from .content import CONTENT, content_sha256
from .lock import LOCK, holder, locked
from .records import KINDS, records_of
from .saved import LATEST, Check, RunFolderError, newest_state, saved_in, unchecked

WRITTEN_LAST = ("tpm_last.safetensors", "README.md")
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
    r"|tpm(_last)?\.safetensors)(\.(damaged|before)_\d+)?\.\d+\.tmp"
)
RESUME = "the last checkpoint is whole: make room and go on with --resume."
AGAIN = "make room and give the same command again."


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
        """The checkpoints, oldest first."""
        return saved_in(self.checkpoints)

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

    def load(self, check: Check = unchecked) -> dict:
        """The newest checkpoint. Raises RunFolderError as `newest_state` does."""
        return newest_state(self.checkpoints, check)

    def is_finished(self, iterations: int) -> bool:
        """Whether nothing is left to do for so many iterations: the newest checkpoint is theirs,
        and what the end of a run writes is there. Raises RunFolderError as `load` does."""
        written = all((self.path / name).exists() for name in WRITTEN_LAST)
        return written and self.load()["iteration"] >= iterations

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
        """A record per line, an empty one where the line is none (records.py)."""
        path = self.path / name
        try:
            text = path.read_text("utf-8", "replace") if path.exists() else ""
        except OSError as error:
            raise RunFolderError(
                f"{path} could not be read ({error.strerror or error}), expected a file that a run "
                "wrote; move it away, and a new one is begun."
            ) from None
        return records_of(text, KINDS[name])

    def truncate(
        self, name: str, iteration: int, again: Callable[[int], bool] = lambda done: True
    ) -> str:
        """Keeps what was recorded up to an iteration: what comes after is made again, or so `again`
        says of its iteration. Where a line is no record, or one that is not made again, the file as
        it was stays beside it; returns a sentence that says so, or ""."""
        found = self.lines(name)
        said = self.kept_aside(name, found)
        kept = [r for r in found if r and r["iteration"] <= iteration]
        gone = [r for r in found if r and r["iteration"] > iteration and not again(r["iteration"])]
        if gone and not said:
            aside = self.set_aside(name, "before")
            said = (
                f"{len(gone)} of {len(found)} lines of {self.path / name} are of iterations that "
                f"the run goes back behind; the file as it was is {aside}."
            )
        if len(kept) < len(found) or not self.ends_whole(name):
            self.text(name, "".join(json.dumps(record) + "\n" for record in kept))
        return said

    def ends_whole(self, name: str) -> bool:
        """Whether a line can be added to the file as it is."""
        path = self.path / name
        return path.exists() and path.read_bytes()[-1:] in (b"", b"\n")

    def kept_aside(self, name: str, found: list[dict]) -> str:
        """Where some of the lines found are no records, the file as it is gets a copy beside it;
        returns a sentence that says so, or ""."""
        if not (lost := found.count({})):
            return ""
        return (
            f"{lost} of {len(found)} lines of {self.path / name} cannot be read and are left out; "
            f"the file as it was is {self.set_aside(name)}."
        )

    def set_aside(self, name: str, why: str = "damaged") -> Path:
        """A copy of a file under a name that is free."""
        with self.writing(f"{name}.{why}"):
            return copied_aside(self.path / name, why)


def command(out: Path, how: str) -> str:
    return f"python training/train_tpm.py {how} --out {shlex.quote(str(out))}"
