"""Runs a script of scripts/ with every command that it would start written down instead of started.

    python recorded_setup.py LOG SCRIPT [arguments]

LOG gets a JSON line a command: its words, and where it would find a host. What an install leaves
behind is made, as far as the scripts look at it; asking an interpreter for its packages is real.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

LOG, SCRIPT = map(Path, sys.argv[1:3])
run, popen = subprocess.run, subprocess.Popen


def make_tree(tree: Path, requirements: str = "numpy>=1\n") -> None:
    """A ComfyUI, as far as the set-up looks at one."""
    (tree / "comfy").mkdir(parents=True)
    (tree / "main.py").touch()
    (tree / "requirements.txt").write_text(requirements)


def leave_behind(command: list[str]) -> int:
    """What the command would have made; the exit status."""
    if "import pip.__main__" in command:
        return 0 if Path(command[0]).stat().st_size else 1
    if command[1:3] == ["-m", "venv"]:
        python = Path(command[-1]) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text("whole")
    elif command[0] == "git":
        make_tree(Path(command[-1]))
    if "--cache-dir" in command:
        Path(command[command.index("--cache-dir") + 1], "archive").mkdir(parents=True)
    if "hpsv2==1.2.0" in command:
        site = Path(command[0]).parents[1] / "lib" / "site-packages"
        (site / "hpsv2" / "src" / "open_clip").mkdir(parents=True)
        (site / "clip").mkdir()
        (site / "clip" / "bpe_simple_vocab_16e6.txt.gz").touch()
    return 1 if os.environ.get("FAILS") in command else 0


def recorded(command, env=None, **more) -> subprocess.CompletedProcess:
    command = [str(word) for word in command]
    if "-c" in command and "importlib.metadata" in command[2]:
        subprocess.Popen = popen  # which run() uses
        try:
            return run(command, env=env, **more)
        finally:
            subprocess.Popen = Listening
    host = {name: (env or os.environ).get(name) for name in ("COMFYUI_PATH", "COMFYUI_PYTHON")}
    with open(LOG, "a") as log:
        log.write(json.dumps({"command": command, **host}) + "\n")
    return subprocess.CompletedProcess(command, leave_behind(command), stdout="False", stderr="")


class Listening:
    """A started process that writes what the scripts wait for, and runs until it is ended."""

    def __init__(self, command, stdout=None, **more):
        recorded(command, **more)
        stdout.write(b"listens")

    def poll(self):
        return None

    def kill(self):
        pass

    terminate = wait = kill


if __name__ == "__main__":
    subprocess.run, subprocess.Popen = recorded, Listening
    if "FREE" in os.environ:  # bytes on the disk
        usage = shutil.disk_usage(".")._replace(free=int(os.environ["FREE"]))
        shutil.disk_usage = lambda path: usage
    sys.path[0] = str(SCRIPT.parent)
    sys.argv = [str(SCRIPT), *sys.argv[3:]]
    runpy.run_path(str(SCRIPT), run_name="__main__")
