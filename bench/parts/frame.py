"""What every bench has: its options, its page, the rows that a rerun goes on from, its pictures.

parser = frame.parser(__doc__)
frame.page_option(parser)
rows = frame.Rows(out / "rows.csv", setting)  # what is in it is not measured again
command = frame.command("peers", frame.chosen(args, detail_daemon="CHECKOUT", rounds=""))
frame.write_page(args.out, ["# Peers", frame.made_by(command), table])
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from async_timestep.harness.in_process import import_comfy
from async_timestep.report.tables import line, markdown, ruled
from async_timestep.training.run.folder import RunFolderError, write_atomic
from async_timestep.training.run.rows import read_rows, write_rows


def parser(doc: str) -> argparse.ArgumentParser:
    """Its help begins with the bench's docstring, which keeps its line breaks."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def page_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="write the page to this .md file too")


def folder_option(parser: argparse.ArgumentParser, what: str) -> None:
    """The folder that `what` is written into; without it the bench does not start."""
    parser.add_argument("--out", type=Path, required=True, help=f"folder for {what}")


def threads_option(parser: argparse.ArgumentParser, threads: int = 0) -> None:
    parser.add_argument("--threads", type=int, default=threads, help="CPU threads; 0 = all")


def command(bench: str, options: Sequence[str] | None = None) -> str:
    """The command line of a bench: as it was typed, or with these options."""
    typed = sys.argv[1:] if options is None else options
    return shlex.join(["python", f"bench/{bench}.py", *typed])


def chosen(args: argparse.Namespace, **words: str) -> list[str]:
    """`--name value` of the options named here that have a value. Where a word is given it stands
    for the value: a folder of one machine says nothing on another."""
    found = []
    for name, word in words.items():
        if (value := getattr(args, name)) is not None:
            found += [f"--{name.replace('_', '-')}", word or str(value)]
    return found


def made_by(command: str) -> str:
    return f"Made by `{command}`."


def machine(*told: str, packs: Sequence[str] = ()) -> str:
    """A line that says what is told of the machine, then the versions of torch and of the ComfyUI
    in this process, then those of other packs."""
    import comfyui_version

    versions = f"torch {torch.__version__}, ComfyUI {comfyui_version.__version__}"
    return "; ".join([*told, versions, *packs]) + "."


def comfyui(threads: int = 1) -> None:
    """Loads ComfyUI on the CPU into this process, without gradients; threads: 0 = all."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    import_comfy("cpu")


def page(parts: Iterable[str]) -> str:
    """Joins the parts with an empty line between two; an empty part is left out."""
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def write_page(path: Path | None, parts: Iterable[str]) -> str:
    """Writes the page whole or not at all, where there is a path; returns its text."""
    text = page(parts)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    return text


class Table:
    """A markdown table whose rows are printed as they come; `head`: its first row at once."""

    def __init__(self, header: Sequence[str], head: bool = False):
        self.header, self.rows = header, []
        if head:
            print(ruled(header), flush=True)

    def add(self, *cells: str) -> None:
        self.rows.append(cells)
        print(line(cells), flush=True)

    def __str__(self) -> str:
        return markdown(self.header, self.rows)


def number(text: str) -> int | float | str:
    """A cell as the number that was written there, or the text that it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Rows(list):
    """The rows of a CSV file that an interrupted bench goes on from, numbers as numbers. Raises
    SystemExit where they are of another setting, or a line is none."""

    def __init__(self, path: Path, setting: str):
        try:
            rows = read_rows(path)
        except RunFolderError as error:
            raise SystemExit(str(error)) from None
        super().__init__({n: number(v) for n, v in row.items()} for row in rows)
        self.path, self.setting = path, setting
        if other := {row["setting"] for row in self} - {setting}:
            raise SystemExit(
                f"{path} was measured with {other.pop()!r}, this run has {setting!r}; move it away "
                "or change --out."
            )

    def done(self) -> set[tuple[int, str]]:
        """Which (steps, method) are measured."""
        return {(row["steps"], row["method"]) for row in self}

    def counts(self) -> list[int]:
        return sorted({row["steps"] for row in self})

    def add(self, steps: int, method: str, *rows: dict) -> None:
        """Keeps what was measured of a method, all of it at once."""
        head = {"setting": self.setting, "steps": steps, "method": method}
        self += [head | row for row in rows]
        write_rows(self.path, self)


def drawing(columns: int, size: tuple[float, float], rows: int = 1, layout=None, **shared):
    """Makes a figure of so many inches that needs no display, and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def save(figure, path: Path, dpi: int = 110) -> None:
    """Writes the picture whole or not at all; its margins are as narrow as its texts allow."""
    from async_timestep.training.evaluation import figures

    if figure.get_layout_engine() is None:
        figure.tight_layout()
    figures.save(figure, path, dpi=dpi)
