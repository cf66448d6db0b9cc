"""Runs the benches of bench/ one after the other; what they measure is left in bench/out.

python scripts/bench.py                       all of them, with the arguments below
python scripts/bench.py overhead --size tiny  one of them, with your own
"""

from __future__ import annotations

import subprocess
import sys

from async_timestep.harness.host import ROOT, TEST, ensure_host, environment, say

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
        if name not in BENCHES:
            say(f"There is no bench {name!r}; choose one of {', '.join(BENCHES)}.")
            return 2
        chosen = {name: own or BENCHES[name]}
    tree, python = ensure_host(TEST)
    for name, given in chosen.items():
        command = [str(python), str(ROOT / "bench" / f"{name}.py"), *given]
        code = subprocess.run(command, cwd=ROOT, env=environment(tree, python)).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
