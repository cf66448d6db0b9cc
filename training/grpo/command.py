"""What train_tpm.py does between its arguments and its exit code."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from pathlib import Path

from ..run.choice import TINY, names_a_model, with_preset
from ..run.config import Config
from ..run.console import Report
from ..run.installed import require_for
from ..run.settings import parse, to_yaml
from ..run.stopping import Stopped, stop


def options(parser) -> None:
    parser.add_argument("--out", type=str, default="", help="run folder; default: runs/<preset>")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out; after its end with more --iterations, where "
        "grpo.lr_schedule is constant",
    )
    parser.add_argument(
        "--init", type=str, default="", help="a TPM file that a new run begins from"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="load everything, one small rollout, print memory, seconds and hours; write nothing",
    )
    parser.add_argument("--price_per_hour", type=float, default=0.0, help="for --dry_run")


def main(arguments: list[str] | None = None, about: str = "") -> int:
    """The exit code; about: the text above --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    report = Report()
    try:
        base = settings_of_run(arguments)
        if "--resume" not in arguments:
            arguments = with_preset(arguments, report.say)
        config, rest = parse(arguments, "train_tpm.py", about, options, base)
        require_for("train_tpm.py", config)
    except Stopped as stopped:
        if "-u" in sys.orig_argv:  # as torchrun starts its ranks; torch takes seconds to import
            from ..run.distributed import tell_torchrun

            tell_torchrun(stopped.text)
        raise
    out = Path(rest.out or f"runs/{rest.preset or config.backbone.name}")
    with report:
        return run(config, rest, out, report)


def run(config: Config, rest: argparse.Namespace, out: Path, report: Report) -> int:
    """The run; returns the exit code."""
    if not report.live:  # a terminal has one bar: that of the first rank
        report.begin("starting")
    # not before the options are understood: torch takes seconds
    from ..run import distributed
    from ..run.folder import RunFolder, command
    from ..run.memory import advice, out_of_memory
    from .result import announcement, nothing_left
    from .setup import begun_from, load_training
    from .train_log import TrainLog
    from .trainer import EXPECTED, train

    go_on = command(out, "--resume")
    world = distributed.join()
    if not world.main:
        report.silence()
    elif report.live:
        report.begin("starting")
    try:
        if rest.init and rest.resume:
            raise ValueError(
                "--init and --resume were both given, expected one: a run that goes on has its "
                "TPM; leave --init out, or choose a new --out without --resume."
            )
        if rest.dry_run:
            from .cost import finite_price
            from .dry_run import dry_run

            price = finite_price(rest.price_per_hour)
            dry_run(load_training(config, world, init=rest.init), price)
            return 0
        shown = TrainLog(report, config, out)
        folder = RunFolder(out, config.log.keep) if world.main else None
        if folder is not None:
            folder.check(rest.resume)  # nothing is made before all that is asked for is there
        finished = folder is not None and rest.resume and folder.is_finished(config.iterations)
        if distributed.share(world, finished):
            if world.main:
                report.say(nothing_left(config, out, command))
            return 0
        training = load_training(config, world, init=rest.init)
        with contextlib.ExitStack() as stack:
            if folder is not None:
                stack.enter_context(folder.only_here())
                if said := folder.create(rest.resume):
                    report.say(said)
                if not rest.resume:
                    begun = begun_from(rest.init) if rest.init else ""
                    folder.text("config.yaml", begun + to_yaml(training.config))
                    folder.text("prompts.txt", "\n".join(training.prompts.texts) + "\n")
            stack.enter_context(shown)
            reason = train(training, folder, rest.resume, shown.log)
        if world.main:
            # the hours of a run are counted in all: with the same limit it would end at once
            own = command(out, "--resume --max_hours 0") if "max_hours" in reason else go_on
            stopped = f"Stopped by {reason}; go on with: {own}"
            report.say(stopped if reason else announcement(out))
        return 0
    except Exception as error:
        if out_of_memory(error):
            error = MemoryError(advice(error, config))
        elif not isinstance(error, EXPECTED):
            if world.size > 1:
                distributed.give_up(world, f"{type(error).__name__}: {error}")
            raise  # a fault of ours keeps its traceback
        if world.size > 1:
            distributed.give_up(world, str(error))
        else:
            print(f"train_tpm.py: {error}", file=sys.stderr)
            distributed.tell_torchrun(str(error))
        return 1
    except KeyboardInterrupt:
        print(f"train_tpm.py: interrupted; from a checkpoint on: {go_on}", file=sys.stderr)
        return 130
    finally:
        distributed.leave(world)


def settings_of_run(arguments: list[str]) -> Path | None:
    """A resumed run brings its own settings: config.yaml of --out."""
    if "--resume" not in arguments:
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--out", nargs="?", default=f"runs/{TINY}")
    out = Path(parser.parse_known_args(arguments)[0].out or "")
    config = out / "config.yaml"
    checkpoints = list(out.glob("checkpoints/*.pt"))
    if checkpoints and not config.is_file() and not names_a_model(arguments):
        stop(
            "train_tpm.py",
            f"--resume finds no {config}, expected the settings of the run; put it back, or give "
            "them as they were (--preset, --config, ...).",
        )
    return config if config.is_file() else None
