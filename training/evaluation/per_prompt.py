"""per_prompt.csv: one row an image, appended batch by batch, so that a killed evaluation goes on.

Its first line holds hashes of the settings and of the prompts, which guard against a mixture.
"""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..run.folder import RunFolderError, write_atomic
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

    def open(self) -> None:
        """Reads what was measured before and cuts off a half-written row. Raises RunFolderError
        where it was measured with other settings or prompts."""
        first = f"# {self.key}"
        if self.path.exists():
            lines = self.path.read_bytes().decode().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n")]
            known = (first, f"# {self.older or self.key}")
            if lines and (not whole or whole[0].rstrip("\r\n") not in known):
                raise RunFolderError(
                    f"{self.path} was measured with other settings or prompts ({lines[0].strip()}; "
                    f"now {first}); take the settings of its _summary.json, or another --out."
                )
            for row in csv.DictReader(whole[1:]):
                own = self.rows.setdefault((int(row["K"]), row["method"]), [])
                if int(row["prompt"]) == len(own):  # else written twice, by two runs at once
                    own.append(row)
        self.rewrite()

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
