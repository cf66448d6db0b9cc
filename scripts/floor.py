"""Runs the floor suite: the tests that the oldest supported ComfyUI has to pass too.

    python scripts/floor.py [arguments for pytest]

The release that harness/host.py calls FLOOR, in the Python environment of the newest one. LEFT_OUT
names the tests of these files that cannot pass there, and why.
"""

from __future__ import annotations

import subprocess
import sys

from async_timestep.harness.host import FLOOR, ROOT, TEST, ensure_host, environment, own_tree
from async_timestep.harness.venvs import say

TESTS = (
    "tests/floor",
    "tests/host/test_nodes.py",
    "tests/host/test_region_nodes.py",
    "tests/host/test_hook.py",
    "tests/host/test_exact.py",
)
LEFT_OUT = {  # pytest ids, or their beginnings
    "tests/host/test_nodes.py::test_ids_names_and_tooltips": "its search has no aliases; "
    "tests/floor looks at ids, names and tooltips",
    "tests/host/test_exact.py::test_there_are_44_samplers": "it has 42",
    **{
        f"tests/host/test_exact.py::test_zero_is_stock_and_not_zero_is_active[{family}-1.0]": "a "
        "minute of the SD1.5 net; guidance 3 makes the same calls and more"
        for family in ("sd15", "vpred")
    },
}


def command(python, arguments: list[str]) -> list[str]:
    """pytest on both cores, one server a worker."""
    left_out = [part for test in LEFT_OUT for part in ("--deselect", test)]
    workers = ["-n", "2", "--dist", "worksteal"]
    return [str(python), "-m", "pytest", *TESTS, *workers, *left_out, *arguments]


def main(arguments: list[str]) -> int:
    """pytest's exit code on the oldest host."""
    _, python = ensure_host(TEST)
    tree = own_tree(FLOOR)
    say(f"The floor: ComfyUI {FLOOR.tag}")
    quiet = environment(tree, python, OMP_NUM_THREADS="1")
    return subprocess.run(command(python, arguments), cwd=ROOT, env=quiet).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
