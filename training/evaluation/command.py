"""What evaluate.py does between its arguments and its exit code."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..run.choice import with_preset
from ..run.config import Config
from ..run.console import Report
from ..run.installed import require_for
from ..run.settings import parse


def options(parser) -> None:
    add = parser.add_argument
    add("--tpm", type=str, nargs="*", default=[], help="TPM files, lifted ones too")
    add(
        "--schedule", type=str, nargs="*", default=[], help="schedule files, of any number of steps"
    )
    add("--gammas", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="of every TPM (Eq. 12)")
    add("--fixed", type=float, nargs="*", default=[-0.5, 0.25, 0.5, 1.0], help="constant D")
    add("--omegas", type=float, nargs="*", default=[], help="constant omega (Eq. 19)")
    add("--lying", type=float, nargs="*", default=[], help="D of lying sigma, omega = t*/t")
    add("--more_steps", type=int, nargs="*", default=[1], help="D = 0 with so many steps more")
    add("--solvers", type=str, nargs="*", default=[], help="dpmpp_2m, unipc: alone and with D, TPM")
    add(
        "--variance_match",
        type=float,
        nargs="*",
        default=[],
        help="largest |D| of the time shift by variance (TS-DPM, training free), such as 0.5",
    )
    add("--mean_schedule", action="store_true", help="also every TPM's mean schedule for all")
    add("--n", type=int, default=0, help="only the first N evaluation prompts")
    add("--k", type=int, nargs="*", default=[], help="numbers of steps; default: those of `steps`")
    add("--out", type=str, default="", help="folder; default: runs/evaluation_<preset>")


def main(arguments: list[str] | None = None, about: str = "") -> int:
    """The exit code; about: the text above --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report = Report()
    arguments = with_preset(arguments, report.say)
    config, rest = parse(arguments, "evaluate.py", about, options)
    require_for("evaluate.py", config)
    try:
        return measured(config, rest, arguments, report)
    except KeyboardInterrupt:
        print("evaluate.py: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


def measured(config: Config, rest: argparse.Namespace, arguments: list[str], report: Report) -> int:
    """The evaluation; returns the exit code."""
    folder = Path(rest.out or f"runs/evaluation_{rest.preset or config.backbone.name}")
    with report:
        report.begin("starting")
        if not rest.tpm and not rest.schedule:
            report.say(
                "No --tpm or --schedule was given: D = 0 is compared with the plain alternatives "
                "alone; --tpm runs/NAME/tpm.safetensors adds a policy."
            )
        # not before the options are understood: torch takes seconds
        from ..run.memory import advice, out_of_memory
        from .study import EXPECTED, run

        try:
            shown = run(config, rest, arguments, folder, report)
        except Exception as error:
            if not (out_of_memory(error) or isinstance(error, EXPECTED)):
                raise  # a fault of ours keeps its traceback
            said = advice(error, config) if out_of_memory(error) else error
            report.say(f"evaluate.py: {said}")
            return 1
    print(shown)
    return 0
