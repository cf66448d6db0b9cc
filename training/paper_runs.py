"""Prints the commands of the paper's eight training runs and of their evaluations.

    python training/paper_runs.py --out runs
    python training/paper_runs.py --strict | grep sd35_medium | sh -e

{sd35_medium, flux1_dev} x {COCO, T2I-CompBench} x {bound 0.5, lifted}: one TPM each, 4,000
iterations, as in the paper's tables. --strict lays presets/paper_strict.yaml over each preset,
which turns off every default that departs from the paper. Nothing is started.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
from dataclasses import dataclass

MODELS = ("sd35_medium", "flux1_dev")
SETS = {"coco": 2048, "t2i": 0}  # evaluation prompts; 0 is all of them
BOUNDS = ("", "_lifted")
STRICT = "training/presets/paper_strict.yaml"


@dataclass(frozen=True)
class Run:
    """One TPM. train and evaluate are the arguments after `python`."""

    name: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]


def paper_runs(out: str = "runs", folder: str = "data", strict: bool = False) -> list[Run]:
    """All eight, model by model. out: parent of the run folders; folder: of the prompt files."""
    runs = []
    for model, (which, count), bound in itertools.product(MODELS, SETS.items(), BOUNDS):
        name = f"{model}_{which}{bound}{'_strict' if strict else ''}"
        home = f"{out.rstrip('/')}/{name}"
        settings = ("--preset", model + bound, *(("--config", STRICT) if strict else ()))
        settings += ("--data.set", which, "--data.folder", folder)
        evaluate = ("training/evaluate.py", *settings, "--data.evaluation_prompts", str(count))
        runs.append(
            Run(
                name,
                ("training/train_tpm.py", *settings, "--out", home),
                (*evaluate, "--tpm", f"{home}/tpm.safetensors", "--out", f"{home}/evaluation"),
            )
        )
    return runs


def shown(runs: list[Run], python: str = "python") -> str:
    """Text for a shell: two lines a run, each a whole command."""
    lines = []
    for run in runs:
        lines += [shlex.join((python, *run.train)), shlex.join((python, *run.evaluate))]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="runs", help="parent of the run folders")
    parser.add_argument("--folder", default="data", help="of the prompt files")
    parser.add_argument("--strict", action="store_true", help="nothing that departs from the paper")
    args = parser.parse_args(arguments)
    print(shown(paper_runs(args.out, args.folder, args.strict)))


if __name__ == "__main__":
    main()
