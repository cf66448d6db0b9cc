"""A search's folder: every finished generation is a line, from which --resume goes on to the bit.

    study = Study(folder)
    study.begin(key, resume=False)
    study.add(generation)
    study.generations()

study.json says what is searched, on what; generations.jsonl has a line per generation.
"""

from __future__ import annotations

import json

import torch

from ..run.folder import RunFolder, RunFolderError, check_place, command, write_atomic
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
                f"{path} holds a search; choose another --out, or go on with that one: "
                f"{command(path, '--resume')}"
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
        try:
            return json.loads((self.folder.path / ABOUT).read_text("utf-8"))
        except ValueError:
            raise RunFolderError(
                f"{self.folder.path / ABOUT} is no JSON, expected what this program wrote; begin "
                "again in another --out."
            ) from None

    def add(self, one: Generation, scale: dict[str, float]) -> None:
        """Appends a finished generation; scale: the unit of its differences, by metric."""
        self.folder.append(LINES, as_record(one, scale))

    def generations(self) -> tuple[list[Generation], dict[str, float]]:
        """All that are whole, and their scale. What is behind a line that is none is made again:
        the file then has the whole ones alone."""
        lines, found, scale = self.folder.lines(LINES), [], {}
        for record in lines:
            if record.get("generation") != len(found):
                break
            points = torch.tensor(record["points"], dtype=torch.float64)
            found.append(Generation(len(found), points, record["differences"]))
            scale = record["scale"]
        text = "".join(json.dumps(as_record(one, scale)) + "\n" for one in found)
        if found or lines:
            write_atomic(self.folder.path / LINES, text.encode())
        return found, scale


def as_record(one: Generation, scale: dict[str, float]) -> dict:
    return {
        "generation": one.index,
        "images": one.images,
        "scale": scale,
        "points": one.points.tolist(),
        "differences": one.differences,
    }
