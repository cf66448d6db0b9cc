"""Trains a timestep prediction module (TPM) with GRPO on image rewards.

    python training/train_tpm.py --preset tiny              # the embedded model, minutes on a CPU
    python training/train_tpm.py --preset sd35_medium --data.set coco --data.folder data
    python training/train_tpm.py --resume --out runs/tiny       # go on after a kill
    torchrun --nproc_per_node 4 training/train_tpm.py --preset flux1_dev
    python training/train_tpm.py --preset sd35_medium --dry_run --price_per_hour 3.5

Every setting of config.py is an option (--grpo.lr 3e-4); --print_config shows all of them. A run
folder holds config.yaml, metrics.jsonl, validation.jsonl, samples/, checkpoints/ and, at the end,
tpm.safetensors for the TPM Loader (models/tpm in ComfyUI).
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training import distributed  # noqa: E402
from training.console import Console  # noqa: E402
from training.grpo import TrainingStopped  # noqa: E402
from training.memory import advice, out_of_memory  # noqa: E402
from training.parts import build  # noqa: E402
from training.result import announcement  # noqa: E402
from training.rewards import RewardError  # noqa: E402
from training.run_folder import RunFolder, RunFolderError  # noqa: E402
from training.settings import parse, to_yaml  # noqa: E402
from training.trainer import train  # noqa: E402

EXPECTED = (ValueError, OSError, RewardError, TrainingStopped, RunFolderError)


def options(parser) -> None:
    parser.add_argument("--out", type=str, default="", help="run folder; default: runs/<preset>")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="load everything, one small rollout, print memory, seconds and hours; write nothing",
    )
    parser.add_argument("--price_per_hour", type=float, default=0.0, help="for --dry_run")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config, rest = parse(
        arguments, "train_tpm.py", __doc__ or "", options, base=settings_of_run(arguments)
    )
    out = Path(rest.out or f"runs/{rest.preset or config.backbone.name}")
    world = distributed.join()
    try:
        if rest.dry_run:
            from training.cost import finite_price
            from training.dry_run import dry_run

            price = finite_price(rest.price_per_hour)
            dry_run(build(config, world), price)
            return 0
        folder = RunFolder(out, config.log.keep) if world.main else None
        if folder is not None:
            folder.create(rest.resume)
        parts = build(config, world)
        if folder is not None and not rest.resume:
            folder.text("config.yaml", to_yaml(parts.config))
            folder.text("prompts.txt", "\n".join(parts.prompts.texts) + "\n")
        with Console(config, out, world.main) as console:
            reason = train(parts, folder, rest.resume, console.log)
        if world.main:
            go_on = f"python training/train_tpm.py --resume --out {out}"
            stopped = f"Stopped by {reason}; go on with: {go_on}"
            console.say(stopped if reason else announcement(out))
        return 0
    except Exception as error:
        if out_of_memory(error):
            error = MemoryError(advice(error, config))
        elif not isinstance(error, EXPECTED):
            raise  # a fault of ours keeps its traceback
        if world.size > 1:
            print(f"rank {world.rank}: {error}", file=sys.stderr, flush=True)
            time.sleep(1.0)  # so that this reason stands before those of the ranks that waited
        else:
            print(f"train_tpm.py: {error}", file=sys.stderr)
        return 1
    finally:
        distributed.leave(world)


def settings_of_run(arguments: list[str]) -> Path | None:
    """A resumed run brings its own settings: config.yaml of --out."""
    if "--resume" not in arguments:
        return None
    for i, word in enumerate(arguments):
        value = word.removeprefix("--out=") if word.startswith("--out=") else None
        if word == "--out" and i + 1 < len(arguments):
            value = arguments[i + 1]
        if value and (Path(value) / "config.yaml").exists():
            return Path(value) / "config.yaml"
    return None


if __name__ == "__main__":
    sys.exit(main())
