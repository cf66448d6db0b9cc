"""Sets the host up, checks the style and runs all tests. Arguments go to pytest.

python scripts/test.py [--lint] [-k expression] [tests/unit]
"""

from __future__ import annotations

import os
import subprocess
import sys

from host import ROOT, TEST, ensure_host, say


def main(arguments: list[str]) -> int:
    _, python = ensure_host(TEST)
    for check in (["check", "."], ["format", "--check", "."]):
        code = subprocess.run([str(python), "-m", "ruff", *check], cwd=ROOT).returncode
        if code:
            say("Style: run `ruff check --fix .` and `ruff format .`")
            return code
    if "--lint" in arguments:
        return 0
    # one thread a worker: the models are tiny, and more threads only wait for each other
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = ["-n", "auto", "--dist", "worksteal", *arguments]
    return subprocess.run([str(python), "-m", "pytest", *workers], cwd=ROOT, env=quiet).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
