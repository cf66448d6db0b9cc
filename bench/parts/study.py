"""A study is a list of named runs of the commands: each is printed, started, and waited for."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from async_timestep.bench.parts import frame

ROOT = Path(__file__).resolve().parents[2]


def run(command: list[str]) -> None:
    print("python", shlex.join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def trainer(script: str, *arguments: str) -> list[str]:
    """The command of a file of training/, for `run`."""
    return [sys.executable, f"training/{script}.py", "--preset", "tiny", *arguments]


def parsed(parser: argparse.ArgumentParser, every: Sequence[str]) -> argparse.Namespace:
    """The arguments, with the names of the runs in `only`: some of `every`, or all. From here on
    the checkout is the working directory, which --out is below."""
    frame.folder_option(parser, "the runs")
    parser.add_argument("--only", nargs="*", default=[*every], metavar="NAME")
    args = parser.parse_args()
    os.chdir(ROOT)
    if unknown := [name for name in args.only if name not in every]:
        parser.error(f"{unknown[0]} is none of {', '.join(every)}")
    return args
