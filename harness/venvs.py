"""Virtual environments under .host/: made, filled, and made again where one was left half made.

python = make_venv(HOST / "venv", HOST / "venv.log")
install(python, ["torch==2.11.0"], HOST / "host.log")
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)  # of the torch in host.py
ROOM = 8e9  # bytes: torch with its CUDA libraries and the rest, which is the larger kind, and 15 %


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: list[str | Path], log: Path) -> None:
    """Runs a command with its output in a log file; raises SystemExit with the log's end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        code = subprocess.run([str(c) for c in command], stdout=out, stderr=out).returncode
    if code:
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(
            f"{tail}\nCommand failed ({code}): {' '.join(map(str, command))}\nLog: {log}"
        )


def interpreter(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_venv(venv: Path, log: Path) -> Path:
    """The interpreter of a virtual environment with uv in it; one that was left half made, or whose
    Python is gone, is made again.
    """
    if sys.version_info < OLDEST_PYTHON:
        found, oldest = (".".join(map(str, v[:2])) for v in (sys.version_info, OLDEST_PYTHON))
        raise SystemExit(
            f"This is Python {found}, and {oldest} or newer is needed; name one: "
            "make demo PYTHON=python3.11."
        )
    venv.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(venv.parent).free
    if free < ROOM:  # no refusal: torch for a processor alone takes a fifth of it
        say(
            f"{venv.parent} has {free / 1e9:.1f} GB free, and an environment with torch takes up "
            f"to {ROOM / 1e9:.0f} GB; what fails now may have no room."
        )
    python = interpreter(venv)
    pip = [str(python), "-c", "import pip.__main__"]
    if not python.exists() or subprocess.run(pip, capture_output=True).returncode:
        run([sys.executable, "-m", "venv", "--clear", venv], log)
    run([python, "-m", "pip", "install", "--quiet", "uv"], log)
    return python


def install(python: Path, arguments: list[str | Path], log: Path) -> None:
    """uv installs into the environment of this interpreter. Its cache lies beside it, so that files
    are linked and not copied, and goes at the end: nothing grows outside .host.
    """
    cache = log.with_suffix(".cache")
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--cache-dir", cache]
    try:
        run([*uv, "--python", python, *arguments], log)
    finally:
        shutil.rmtree(cache, ignore_errors=True)
