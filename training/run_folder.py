"""The run folder: nothing half-written, nothing overwritten.

    config.yaml  metrics.jsonl  validation.jsonl  samples/  checkpoints/  tpm.safetensors  README.md

A checkpoint is written beside its name, flushed to the disk, and moved; `checkpoints/latest` names
the newest. Interrupted at any moment, the folder holds a whole checkpoint or none.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import torch

LATEST = "latest"


class RunFolderError(RuntimeError):
    """The folder cannot be used; the message is one sentence for the user."""


def write_atomic(path: Path, data: bytes) -> None:
    """All of it or nothing, on the disk when this returns. Raises RunFolderError on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be written ({error.strerror or error}, {len(data)} bytes were "
            "needed); the last checkpoint is whole: make room and go on with --resume."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class RunFolder:
    """`RunFolder(path).save(state)`, `.load()`; only rank 0 holds one."""

    def __init__(self, path: Path, keep: int = 2):
        self.path, self.keep = path, keep
        self.checkpoints, self.samples = path / "checkpoints", path / "samples"

    def create(self, resume: bool) -> None:
        """Makes the folder. Raises RunFolderError where a run would be overwritten, or where there
        is none to go on with."""
        if not resume and self.path.exists() and any(self.path.iterdir()):
            raise RunFolderError(
                f"{self.path} is not empty, expected a new folder; choose another --out, or go on "
                "with that run by --resume."
            )
        if resume and not (self.checkpoints / LATEST).exists():
            raise RunFolderError(
                f"{self.path} holds no checkpoint to resume from; start the run without --resume, "
                "or name its folder by --out."
            )
        for folder in (self.checkpoints, self.samples):
            folder.mkdir(parents=True, exist_ok=True)
        for left in self.path.rglob(".*.tmp"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)

    def save(self, state: dict) -> Path:
        """Writes checkpoints/<iteration>.pt, then the pointer, then drops the oldest."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self.checkpoints / f"{state['iteration']:06d}.pt"
        write_atomic(path, buffer.getvalue())
        write_atomic(self.checkpoints / LATEST, path.name.encode())
        old = sorted(self.checkpoints.glob("[0-9]*.pt"))[: -self.keep]
        for stale in old:
            if stale != path:
                stale.unlink(missing_ok=True)
        return path

    def load(self) -> dict:
        """The newest checkpoint. Raises RunFolderError where it cannot be read."""
        name = (self.checkpoints / LATEST).read_text().strip()
        path = self.checkpoints / name
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch each raise their own
            raise RunFolderError(
                f"{path} cannot be read ({type(error).__name__}), expected a checkpoint of this "
                f"trainer; write the name of an older one into {self.checkpoints / LATEST}."
            ) from None

    def text(self, name: str, text: str) -> None:
        write_atomic(self.path / name, text.encode())

    def append(self, name: str, record: dict) -> None:
        """One line of a .jsonl file, flushed."""
        try:
            with open(self.path / name, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"{self.path / name} could not be written ({error.strerror or error}); the last "
                "checkpoint is whole: make room and go on with --resume."
            ) from None

    def records(self, name: str) -> list[dict]:
        """The whole lines of a .jsonl file; a half one at the end of a killed run is left out."""
        path = self.path / name
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def truncate(self, name: str, iteration: int) -> None:
        """Keeps what was recorded up to an iteration: what comes after is made again."""
        kept = [r for r in self.records(name) if r["iteration"] <= iteration]
        self.text(name, "".join(json.dumps(record) + "\n" for record in kept))
