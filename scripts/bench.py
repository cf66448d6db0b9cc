"""Runs benches one after the other in the host's environment; what they measure is in bench/out.

    python scripts/bench.py                       those below, with the arguments below
    python scripts/bench.py overhead --size tiny  any one of `python -m bench`, with your own

The host is set up first where there is none. The first bench that fails ends the run.
"""

from __future__ import annotations

import subprocess
import sys

from async_timestep.harness.host import ROOT, TEST, ensure_host, environment

BENCHES = {
    "overhead": ["--size", "all", "--out", "bench/out/overhead.md"],
    "laboratory": ["--n", "128", "--out", "bench/out/laboratory"],
    "kill_and_resume": ["--kills", "10"],
    "planted": ["--seeds", "0"],
    "peers": ["--rounds", "3", "--out", "bench/out/peers.md"],
    "beside": ["--out", "bench/out/beside.md"],
    "rollout_cost": ["--layers", "2", "--latent", "16", "--group", "4"],
}


def main(arguments: list[str]) -> int:
    chosen = BENCHES
    if arguments:
        name, *own = arguments
        chosen = {name: own or BENCHES.get(name, [])}
    tree, python = ensure_host(TEST)
    for name, given in chosen.items():
        command = [str(python), "-m", "bench", name, *given]
        code = subprocess.run(command, cwd=ROOT, env=environment(tree, python)).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
