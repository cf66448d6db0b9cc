"""Sends hostile inputs and names those that get through: files, run folders, inputs of nodes.

    python scripts/fuzz.py                             300 of each group, another draw each time
    python scripts/fuzz.py --seed 7 --count 300        the same draw again
    python scripts/fuzz.py --group nodes --count 5000  each alone, then two and three at once

The generators and what counts as a fault are in harness/hostile_files.py, hostile_folders.py and
hostile_inputs.py; the suite tries a small fixed draw of each. The exit code is 1 where something
got through.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from async_timestep.harness.host import ROOT, TEST, ensure_host, environment
from async_timestep.harness.venvs import say

# what was sent, in words, and the fault; "" where there is none
Results = Iterator[tuple[str, str]]


def chosen(cases: list, count: int, draw: random.Random) -> list:
    return draw.sample(cases, min(count, len(cases)))


def files(count: int, draw: random.Random, folder: Path) -> Results:
    """TPM and schedule files, loaded and asked as the TPM Loader does it."""
    from async_timestep.harness import hostile_files as hostile

    for case in chosen(hostile.cases(folder), count, draw):
        yield str(case), hostile.fault_of(hostile.written(folder, case, draw))


def folders(count: int, draw: random.Random, folder: Path) -> Results:
    """Run folders that train_tpm.py is to go on with, and the settings in them."""
    from async_timestep.harness import hostile_folders as hostile
    from async_timestep.training.grpo import command

    finished, run = folder / "finished", folder / "run"
    if code := command.main([*hostile.RUN, "--out", str(finished)]):
        yield "the run that is to be damaged", f"code {code}"
        return
    for case in chosen(hostile.cases(), count, draw):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(finished, run)
        hostile.damage(run, case, draw)
        go_on = [*hostile.GO_ON, "--out", str(run)]
        yield case, hostile.fault_of(run, lambda go_on=go_on: command.main(go_on))


def nodes(count: int, draw: random.Random, folder: Path) -> Results:
    """Inputs of our nodes, through the API of a real server."""
    from async_timestep.harness import hostile_inputs as hostile
    from async_timestep.harness.comfy_server import ComfyServer

    with ComfyServer(folder) as server:
        for some in hostile.drawn(count, draw):
            words = ", ".join(f"{c.graph}: {c.place}.{c.name} is {c.value}" for c in some)
            yield words, hostile.fault_of(server, some)


GROUPS: dict[str, Callable[[int, random.Random, Path], Results]] = {
    "files": files,
    "folders": folders,
    "nodes": nodes,
}


def inside_host(groups: list[str], seed: int, count: int) -> int:
    """All of it; runs under the host's interpreter."""
    through = 0
    for group in groups:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            os.chdir(name)  # where a file that runs code would leave its mark
            sent = faults = 0
            for words, fault in GROUPS[group](count, random.Random(seed), Path(name)):
                sent += 1
                faults += bool(fault)
                if fault:
                    print(f"{group}: {words}: {fault}", flush=True)
                if sent % 100 == 0:
                    say(f"{group}: {sent} sent, {faults} got through")
            os.chdir(ROOT)
        print(f"{group}: {sent} sent, {faults} got through (--seed {seed})", flush=True)
        through += faults
    return 1 if through else 0


def main() -> int:
    """Sets the host up, then starts again under its interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--group", choices=GROUPS, action="append", default=[])
    parser.add_argument("--seed", type=int, default=None, help="of the draw; default: another")
    parser.add_argument("--count", type=int, default=300, help="of each group")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    if args.inside:
        return inside_host(args.group or list(GROUPS), seed, args.count)
    tree, python = ensure_host(TEST)
    here = [str(python), str(Path(__file__)), "--inside", f"--seed={seed}", f"--count={args.count}"]
    here += [f"--group={name}" for name in args.group]
    return subprocess.run(here, cwd=ROOT, env=environment(tree, python)).returncode


if __name__ == "__main__":
    sys.exit(main())
