"""Evaluates TPMs against D = 0 and the plain alternatives, on prompts held out of training.

    python training/evaluate.py                             # lists the presets, and takes tiny
    python training/evaluate.py --preset tiny --tpm runs/tiny/tpm.safetensors --out runs/evaluation
    python training/evaluate.py --preset tiny --k 4 6 10 --n 256 --fixed -0.5 0.25 0.5 1 \
        --gammas 0.5 1 2 --omegas 0.75 1.25 --lying 0.25 0.5 --more_steps 1 2 \
        --solvers dpmpp_2m unipc --mean_schedule --tpm a.safetensors b.safetensors

Every method starts from the same noises, so differences are paired. Every setting of config.py is
an option too (--backbone.guidance 5). --out gets per_prompt.csv, table.md, table.csv,
categories.md, paper_table.md, gamma.png, deviation.png, grid_*.png (at the first K) and
_summary.json. Interrupted, the same command goes on; with more methods it measures only these, and
the tables show the methods asked for.

The best fixed D and a TPM's mean schedule are found on the validation prompts, never on the
evaluation prompts; D = 0 takes part, so "best fixed D" is never worse than nothing there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from training.installed import require, require_for  # noqa: E402

require("evaluate.py")

from training.choice import with_preset  # noqa: E402
from training.config import Config  # noqa: E402
from training.console import Report  # noqa: E402
from training.settings import parse  # noqa: E402


def options(parser) -> None:
    add = parser.add_argument
    add("--tpm", type=str, nargs="*", default=[], help="TPM files, lifted ones too")
    add("--gammas", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="of every TPM (Eq. 12)")
    add("--fixed", type=float, nargs="*", default=[-0.5, 0.25, 0.5, 1.0], help="constant D")
    add("--omegas", type=float, nargs="*", default=[], help="constant omega (Eq. 19)")
    add("--lying", type=float, nargs="*", default=[], help="D of lying sigma, omega = t*/t")
    add("--more_steps", type=int, nargs="*", default=[1], help="D = 0 with so many steps more")
    add("--solvers", type=str, nargs="*", default=[], help="dpmpp_2m, unipc: alone and with D, TPM")
    add("--mean_schedule", action="store_true", help="also every TPM's mean schedule for all")
    add("--n", type=int, default=0, help="only the first N evaluation prompts")
    add("--k", type=int, nargs="*", default=[], help="numbers of steps; default: those of `steps`")
    add("--out", type=str, default="", help="folder; default: runs/evaluation_<preset>")


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    report = Report()
    arguments = with_preset(arguments, report.say)
    config, rest = parse(arguments, "evaluate.py", __doc__ or "", options)
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
        if not rest.tpm:
            report.say(
                "No --tpm was given: D = 0 is compared with the plain alternatives alone; "
                "--tpm runs/NAME/tpm.safetensors adds a policy."
            )
        # not before the options are understood: torch takes seconds
        from training.evaluation import EXPECTED, run
        from training.memory import advice, out_of_memory

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


if __name__ == "__main__":
    sys.exit(main())
