"""A search's folder: every finished generation is a line, from which --resume goes on to the bit.

    study = Study(folder)
    study.begin(key, resume=False)
    study.add(generation)
    study.generations(numbers)

study.json says what is searched, on what; generations.jsonl has a line per generation.
"""

from __future__ import annotations

import contextlib
import json

import torch

from ..run.folder import RunFolder, RunFolderError, check_place, write_atomic
from ..run.lock import LOCK
from .generations import Generation

ABOUT, LINES = "study.json", "generations.jsonl"


class Study:
    """Only rank 0 writes."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def check(self, resume: bool) -> None:
        """Raises RunFolderError where a search would be overwritten, or where there is none to go
        on with. Makes nothing."""
        path, there = self.folder.path, (self.folder.path / ABOUT).exists()
        check_place(path)
        if resume and not there:
            raise RunFolderError(
                f"--resume finds no search in {path}; name its folder by --out, or start one "
                "without --resume."
            )
        if not resume and there:
            raise RunFolderError(
                f"{path} holds a search; choose another --out, or go on with that one: the same "
                "command and --resume."
            )
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if not resume and names - {LOCK}:
            raise RunFolderError(
                f"{path} is not empty: {min(names - {LOCK})} is there, expected a new folder; "
                "choose another --out."
            )

    def begin(self, key: dict, resume: bool) -> None:
        """Writes what is searched; a resumed search must be the same, but may take more images.
        Raises RunFolderError."""
        self.check(resume)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        if resume:
            known = self.about()["key"]
            for name in sorted(known.keys() | key.keys()):
                if known.get(name) != key.get(name):
                    raise RunFolderError(
                        f"{self.folder.path} holds a search with {name} {known.get(name)!r}, and "
                        f"this one has {key.get(name)!r}; give the same setting, or another --out."
                    )
            return
        write_atomic(self.folder.path / ABOUT, (json.dumps({"key": key}) + "\n").encode())

    def about(self) -> dict:
        path, found = self.folder.path / ABOUT, None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text("utf-8"))
        if not (isinstance(found, dict) and isinstance(found.get("key"), dict)):
            raise RunFolderError(
                f"{path} is not what this program wrote, expected JSON with the key of the search; "
                "begin again in another --out."
            )
        return found

    def add(self, one: Generation, scale: dict[str, float]) -> None:
        """Appends a finished generation; scale: the unit of its differences, by metric."""
        self.folder.append(LINES, as_record(one, scale))

    def generations(self, numbers: int) -> tuple[list[Generation], dict[str, float], str]:
        """All that are whole, of points of so many numbers; their scale; and a sentence, or "",
        where lines were none: what is behind the first of them is made again, and the file as it
        was stays beside it."""
        lines, found, scale = self.folder.lines(LINES), [], {}
        for record in lines:
            fits = record and record["generation"] == len(found)
            if not fits or len(record["points"][0]) != numbers:
                break
            points = torch.tensor(record["points"], dtype=torch.float64)
            found.append(Generation(len(found), points, record["differences"]))
            scale = record["scale"]
        said = ""
        if len(found) < len(lines):
            path, line, aside = (
                self.folder.path / LINES,
                len(found) + 1,
                self.folder.set_aside(LINES),
            )
            said = (
                f"{path} cannot be read from line {line} on, and what is there is made again; the "
                f"file as it was is {aside}."
            )
        text = "".join(json.dumps(as_record(one, scale)) + "\n" for one in found)
        if found or lines:
            write_atomic(self.folder.path / LINES, text.encode())
        return found, scale, said


def as_record(one: Generation, scale: dict[str, float]) -> dict:
    return {
        "generation": one.index,
        "images": one.images,
        "scale": scale,
        "points": one.points.tolist(),
        "differences": one.differences,
    }
