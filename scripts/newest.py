"""Tests the trainer with the newest packages that its ranges admit, as `pip install -e '.[train]'`
takes them; the host of the other tests has its own, older ones.

    python scripts/newest.py [arguments for pytest]     all tests of the trainer and of tpm
    python scripts/newest.py --learns                   only what decides whether it learns

The environment is .host/newest-venv; delete it to have the versions looked up again.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from async_timestep.harness.host import HOST, ROOT, TEST, compiled
from async_timestep.harness.venvs import install, interpreter, make_venv, say

NOT_OURS = ("playwright", "ruff", "diffusers", "jsonargparse", "rich")
LEARNS = [
    "tests/unit/test_tpm_network.py",
    "tests/training/test_grpo.py",
    "tests/training/test_grpo_torchrl.py",
    "tests/training/test_trainer.py::test_a_run_learns_something_and_its_file_loads",
]
SUITE = ["tests/unit", "tests/training"]
LEFT_OUT = ["--deselect", "tests/unit/test_publish.py::test_the_publishers_own_style_check"]


def ensure_newest() -> Path:
    """The interpreter of .host/newest-venv with what the extra `train` asks for, and pytest."""
    venv = HOST / "newest-venv"
    python = interpreter(venv)
    tools = [t for t in TEST if not t.startswith(NOT_OURS)]  # the rest is in the extra, or style
    asked = (ROOT / "pyproject.toml").read_text() + "\n".join(tools)
    marker = venv / f".complete-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    if marker.exists() and python.exists():
        return python
    say("Installing the newest packages of the extra 'train' into .host/newest-venv ...")
    make_venv(venv, HOST / "newest.log")
    wanted = ["--upgrade", "-r", ROOT / "pyproject.toml", "--extra", "train", *tools]
    install(python, wanted, HOST / "newest.log")
    marker.touch()
    return python


def main(arguments: list[str], log: Path | None = None) -> int:
    """pytest's exit code. log: takes its output, which is shown at the end in one piece."""
    python = ensure_newest()
    version = "import torch; print(torch.__version__)"
    torch = subprocess.run([python, "-c", version], capture_output=True, text=True).stdout.strip()
    say(f"The newest packages: torch {torch}")
    tests = LEARNS if "--learns" in arguments else [*SUITE, *LEFT_OUT]
    own = [a for a in arguments if a != "--learns"]
    quiet = {**compiled(), "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-q", "-n", "2", *tests, *own]
    if log is None:
        return subprocess.run(command, cwd=ROOT, env=quiet).returncode
    with open(log, "wb") as out:
        code = subprocess.run(command, cwd=ROOT, env=quiet, stdout=out, stderr=out).returncode
    say(f"With torch {torch}:\n{log.read_text('utf-8', 'replace')}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
