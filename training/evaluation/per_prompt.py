"""per_prompt.csv: one row an image, appended batch by batch, so that a killed evaluation goes on.

Its first line holds hashes of the settings and of the prompts, which guard against a mixture.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..run.atomic import copied_aside
from ..run.folder import RunFolderError, write_atomic
from ..run.ranges import shown
from .methods import Method

HEAD = ("method", "K", "prompt", "category")
TAIL = ("mean_deviation", "deviation_by_step", "omega_by_step", "seconds", "file")


@dataclass
class Scores:
    """What one method did at one K; float64, one row per prompt.

    metrics: name -> (n,); deviation, omega: (n, steps - 1) at grid points 1...; seconds: (n,) of
    sampling, a batch's share. file: sha256 of the TPM, or empty.
    """

    metrics: dict[str, Tensor]
    mean_deviation: Tensor
    deviation: Tensor
    omega: Tensor
    seconds: Tensor
    file: str = ""


@dataclass
class PerPrompt:
    """The file and its rows. key: hashes for its first line, or older: those of an older trainer;
    count: prompts of a method."""

    path: Path
    metrics: tuple[str, ...]
    key: str
    count: int
    rows: dict[tuple[int, str], list[dict[str, str]]] = field(default_factory=dict)
    older: str = ""

    @property
    def columns(self) -> list[str]:
        return [*HEAD, *self.metrics, *TAIL]

    def open(self) -> str:
        """Reads what was measured before and cuts off a half-written row. Returns a sentence, or
        "", where rows were none: they are measured again, and the file as it was stays beside the
        new one. Raises RunFolderError where it was measured with other settings or prompts."""
        first, said = f"# {self.key}", ""
        if self.path.exists():
            lines = self.bytes().decode("utf-8", "replace").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            known = (first, f"# {self.older or self.key}")
            if lines and (not whole or whole[0].rstrip("\r\n") not in known):
                raise RunFolderError(
                    f"{self.path} was measured with other settings or prompts "
                    f"({shown(lines[0].strip())}; now {first}); take the settings of its "
                    "_summary.json, or another --out."
                )
            if self.take(whole[1:]):
                said = (
                    f"Some rows of {self.path} cannot be read and are measured again; the file as "
                    f"it was is {copied_aside(self.path)}."
                )
        self.rewrite()
        return said

    def bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"{self.path} could not be read ({error.strerror or error}), expected what an "
                "evaluation wrote; move it away, or choose another --out."
            ) from None

    def take(self, lines: list[str]) -> bool:
        """Keeps the rows of the file; True where some are none, or come behind one that is
        missing."""
        lost = False
        try:
            for row in csv.DictReader(lines):
                own = (
                    self.rows.get((int(row["K"]), row["method"]), []) if self.is_row(row) else None
                )
                if own is None or int(row["prompt"]) > len(own) or self.is_longer(row, own):
                    lost = True
                elif int(row["prompt"]) == len(own):  # else written twice, by two runs at once
                    self.rows.setdefault((int(row["K"]), row["method"]), own).append(row)
        except csv.Error:  # a field of 131,072 characters
            return True
        return lost

    def is_row(self, row: dict) -> bool:
        """Whether all that is read of a row is there, and a number where it has to be one."""
        if set(row) != set(self.columns) or not all(isinstance(v, str) for v in row.values()):
            return False
        numbers = [row[name] for name in (*self.metrics, "mean_deviation", "seconds")]
        numbers += [*row["deviation_by_step"].split(), *row["omega_by_step"].split()]
        try:
            good = int(row["K"]) > 0 and int(row["prompt"]) >= 0
            return good and all(math.isfinite(float(number)) for number in numbers)
        except ValueError:
            return False

    @staticmethod
    def is_longer(row: dict, own: list[dict]) -> bool:
        """Whether it has another number of steps than the first row of its method."""
        names = ("deviation_by_step", "omega_by_step")
        return bool(own) and any(len(row[n].split()) != len(own[0][n].split()) for n in names)

    def done(self, steps: int, method: Method, batch: int) -> int:
        """Prompts that need not be measured again, in whole batches so that the rest is measured
        in the same company. Raises RunFolderError where they are of another TPM file."""
        rows = self.rows.get((steps, method.name), [])
        if rows and rows[0]["file"] != method.file:
            raise RunFolderError(
                f"{self.path} holds {method.name} of another file (sha256 {rows[0]['file'][:12]}, "
                f"now {method.file[:12]}); rename the TPM file, or choose another --out."
            )
        whole = len(rows) if len(rows) >= self.count else len(rows) // batch * batch
        if whole < len(rows):
            del rows[whole:]
            self.rewrite()
        return whole

    def rewrite(self) -> None:
        """The file as the rows in memory are."""
        buffer = io.StringIO(newline="")
        buffer.write(f"# {self.key}\r\n")
        writer = csv.DictWriter(buffer, self.columns)
        writer.writeheader()
        for rows in self.rows.values():
            writer.writerows(rows)
        write_atomic(self.path, buffer.getvalue().encode())

    def append(self, steps: int, method: Method, rows: list[dict[str, str]]) -> None:
        """Rows of one method, on the disk when this returns. Raises RunFolderError."""
        rows = [{"method": method.name, "K": str(steps), "file": method.file, **r} for r in rows]
        try:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerows(rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunFolderError(
                f"{self.path} could not be written ({error.strerror or error}); make room and give "
                "the same command again: what is finished stays."
            ) from None
        self.rows.setdefault((steps, method.name), []).extend(rows)

    def copy(self, steps: int, method: Method, source: tuple[int, str]) -> None:
        """Takes the rows of a run that was the same."""
        own = ("method", "K", "file")
        rows = [{k: v for k, v in r.items() if k not in own} for r in self.rows[source]]
        self.append(steps, method, rows)

    def scores(self, steps: int, method: Method) -> Scores:
        rows = self.rows[steps, method.name]

        def column(name: str) -> Tensor:
            return torch.tensor([float(r[name]) for r in rows], dtype=torch.float64)

        def table(name: str) -> Tensor:
            return torch.tensor(
                [[float(v) for v in r[name].split()] for r in rows], dtype=torch.float64
            )

        return Scores(
            {name: column(name) for name in self.metrics},
            column("mean_deviation"),
            table("deviation_by_step"),
            table("omega_by_step"),
            column("seconds"),
            method.file,
        )


def text(value: float) -> str:
    """A float32 without loss; -0 is 0."""
    return f"{value + 0.0:.9g}"


def texts(values: Tensor) -> str:
    return " ".join(text(value) for value in values.tolist())


def without_others(path: Path, method: str, file: str) -> str:
    """Takes rows of a method that are of another file (its sha256) out of a per_prompt.csv, which
    as it was stays beside it. Returns a sentence, or ""."""
    if not path.is_file():
        return ""
    lines = path.read_text("utf-8", "replace").splitlines(keepends=True)
    others = [
        line.startswith(f"{method},") and not line.rstrip("\r\n").endswith(f",{file}")
        for line in lines
    ]
    if not any(others):
        return ""
    aside = copied_aside(path, "before")
    kept = [line for line, other in zip(lines, others, strict=True) if not other]
    write_atomic(path, "".join(kept).encode())
    return f"{method} is another than in {path}, and is measured anew; as it was it is {aside}."
