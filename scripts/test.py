"""Sets the hosts up, checks the style and runs all tests, then the floor suite on the oldest host,
and beside it whether the trainer learns with the newest packages (scripts/newest.py).

    python scripts/test.py                               everything
    python scripts/test.py [-k expression] [tests/unit]  arguments go to pytest; newest host only
    python scripts/test.py --lint                        the style
    python scripts/test.py --floor [-k expression]       the floor suite (scripts/floor.py)

Its exit code is that of the first that failed.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from async_timestep.harness.host import HOST, ROOT, TEST, ensure_host, environment
from async_timestep.harness.venvs import say
from async_timestep.scripts import floor, newest


def main(arguments: list[str]) -> int:
    tree, python = ensure_host(TEST)
    for check in (["check", "."], ["format", "--check", "."]):
        code = subprocess.run([str(python), "-m", "ruff", *check], cwd=ROOT).returncode
        if code:
            say("Style: run `ruff check --fix .` and `ruff format .`")
            return code
    if "--lint" in arguments:
        return 0
    if "--floor" in arguments:
        return floor.main([a for a in arguments if a != "--floor"])
    # one thread a worker: the models are tiny, and more threads only wait for each other
    quiet = environment(tree, python, OMP_NUM_THREADS="1")
    workers = ["-n", "auto", "--dist", "worksteal", *arguments]
    suite = [str(python), "-m", "pytest", *workers]
    if arguments:
        return subprocess.run(suite, cwd=ROOT, env=quiet).returncode
    with ThreadPoolExecutor() as beside:  # its set-up waits for the network more than for a core
        ready = beside.submit(newest.ensure_newest)
        code = subprocess.run(suite, cwd=ROOT, env=quiet).returncode
        ready.result()
        if code:
            return code
        learns = beside.submit(newest.main, ["--learns"], HOST / "learns.log")
        return floor.main([]) or learns.result()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
