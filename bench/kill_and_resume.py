"""Is a training run that was killed and resumed the run that was left alone, bit for bit?

    python bench/kill_and_resume.py --kills 50

Kills it with SIGKILL at random moments, as often as --kills says. Prints one line per kill and a
verdict; exits with 1 when anything differs.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from async_timestep.bench.parts import frame

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--preset=tiny", "--grpo.lr=1e-3", "--grpo.num_generations=4", "--grpo.minibatch_size=2",
    "--grpo.prompts_per_iteration=1",
    "--steps=[2,3]", "--data.validation_prompts=4", "--log.validate_every=5",
    "--log.checkpoint_every=1", "--log.samples_every=7", "--log.samples=1", "--threads=1",
]  # fmt: skip
Start = Callable[[list[str]], subprocess.Popen]  # of the trainer, with these arguments


def arguments(out: Path, iterations: int, resume: bool) -> list[str]:
    more = [f"--iterations={iterations}", "--out", str(out)]
    return [*SMALL, *more, *(["--resume"] if resume else [])]


def new_process(arguments: list[str]) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "training" / "train_tpm.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def begun(start: Start, out: Path, iterations: int) -> subprocess.Popen:
    """A run, resumed where there is something to resume from, else begun anew in the same folder,
    whatever a run that was killed before its first checkpoint left there."""
    resume = any((out / "checkpoints").glob("*.pt"))
    return start(arguments(out, iterations, resume))


def finish(process: subprocess.Popen) -> None:
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"A run failed ({process.returncode}):\n{text.decode()[-2000:]}")


def result(out: Path) -> dict[str, object]:
    """What must be the same: both TPM files, all recorded numbers but the seconds, the pictures."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return {
        "tpm.safetensors": (out / "tpm.safetensors").read_bytes(),
        "tpm_last.safetensors": (out / "tpm_last.safetensors").read_bytes(),
        "metrics.jsonl": records,
        "validation.jsonl": (out / "validation.jsonl").read_bytes(),
        "samples": {p.name: p.read_bytes() for p in sorted((out / "samples").glob("*.png"))},
    }


def killed_run(
    start: Start, out: Path, iterations: int, kills: int, rng: random.Random, longest: float
) -> int:
    """Runs to the end with at most `kills` kills; returns how many there were."""
    done = 0
    while True:
        process = begun(start, out, iterations)
        if done < kills:
            if waited(process, out, rng, longest):
                process.send_signal(signal.SIGKILL)
                process.communicate()
                done += 1
                latest = out / "checkpoints" / "latest"
                where = latest.read_text() if latest.exists() else "no checkpoint yet"
                print(f"kill {done}: {where}", flush=True)
                check_whole(out)
                continue
        finish(process)
        return done


def waited(process: subprocess.Popen, out: Path, rng: random.Random, longest: float) -> bool:
    """Waits for a random moment; False where the run ended before. Every fourth moment is drawn
    over the whole life of a process, loading included, the others from its first new checkpoint on:
    most of what can go wrong is there."""
    first, latest, between = time.monotonic(), out / "checkpoints" / "latest", rng.random() > 0.25
    before = latest.read_text() if latest.exists() else ""
    while between and process.poll() is None:
        if latest.exists() and latest.read_text() != before:
            break
        time.sleep(0.02)
    span = longest - (time.monotonic() - first) if between else longest
    try:
        process.wait(rng.uniform(0.0, max(span, 1.0)))
    except subprocess.TimeoutExpired:
        return True
    return False


def check_whole(out: Path) -> None:
    """Every checkpoint that has a name can be read."""
    for path in (out / "checkpoints").glob("[0-9]*.pt"):
        torch.load(path, weights_only=True)


def compare(
    kills: int, iterations: int, seed: int, folder: Path, start: Start = new_process
) -> bool:
    """True where every killed run ended as the one that was left alone."""
    first = time.monotonic()
    finish(begun(start, folder / "alone", iterations))
    longest = time.monotonic() - first
    expected, rng, total, run = result(folder / "alone"), random.Random(seed), 0, 0
    while total < kills:
        run += 1
        out = folder / f"killed{run}"
        total += killed_run(start, out, iterations, kills - total, rng, longest)
        found = result(out)
        wrong = [name for name in expected if found[name] != expected[name]]
        print(f"run {run}, {total} kills so far: {'differs in ' + str(wrong) if wrong else 'same'}")
        if wrong:
            return False
    return True


def main() -> int:
    parser = frame.parser(__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        same = compare(args.kills, args.iterations, args.seed, Path(folder))
    print(f"{args.kills} kills: " + ("bit-identical" if same else "DIFFERENT"))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
