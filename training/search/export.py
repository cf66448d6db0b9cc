"""What export_schedule.py does: a TPM's mean schedule as a file, and what it loses."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ..run.choice import with_preset
from ..run.config import Config
from ..run.console import Report
from ..run.installed import require_for
from ..run.settings import parse, preset_names

PROG = "export_schedule.py"


def options(parser) -> None:
    add = parser.add_argument
    add("--tpm", type=str, default="", help="the TPM file")
    add("--n", type=int, default=0, help="held-out prompts of the comparison; 0 is all")
    add("--out", type=str, default="", help="file; default: beside the TPM, <name>_schedule")


def main(arguments: list[str] | None = None, about: str = "") -> int:
    """The exit code; about: the text above --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    report = Report()
    arguments = with_preset(named(arguments), report.say)
    config, rest = parse(arguments, PROG, about, options)
    require_for(PROG, config)
    with report:
        # not before the options are understood: torch takes seconds
        from ..evaluation.study import EXPECTED
        from ..run.memory import advice, out_of_memory

        report.begin("starting")
        try:
            said = export(config, rest.tpm, rest.n, rest.out, report)
        except KeyboardInterrupt:
            print(f"{PROG}: interrupted; nothing was written.", file=sys.stderr)
            return 130
        except Exception as error:
            if not (out_of_memory(error) or isinstance(error, EXPECTED)):
                raise  # a fault of ours keeps its traceback
            report.say(f"{PROG}: {advice(error, config) if out_of_memory(error) else error}")
            return 1
    print(said)
    return 0


def named(arguments: list[str]) -> list[str]:
    """A file in the first place is --tpm, and a preset that is not named is its model family's."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--tpm", *arguments]
    if "--preset" in arguments or "--config" in arguments or "--tpm" not in arguments[:-1]:
        return arguments
    from ...tpm.checkpoint import family_in

    family = family_in(arguments[arguments.index("--tpm") + 1])
    return [*arguments, "--preset", family] if family in preset_names() else arguments


def export(config: Config, tpm: str, count: int, out: str, report: Report) -> str:
    """Writes the file; returns a text for stdout. Raises those of EXPECTED."""
    from ...tpm.schedule_file import save_schedule
    from ..evaluation.methods import check_fit, read_tpms
    from ..evaluation.paired import load_measurement
    from ..evaluation.statistics import difference
    from ..run.folder import RunFolderError, check_place
    from .result import meta_of

    if not tpm:
        raise ValueError("--tpm names no file, expected the TPM whose mean schedule is wanted.")
    (found,) = read_tpms([tpm], config.backbone.name)
    path = Path(out) if out else Path(tpm).with_name(f"{Path(tpm).stem}_schedule.safetensors")
    if path.exists():
        raise RunFolderError(f"{path} exists already; choose another --out, or move it away.")
    check_place(path.parent)
    measurement = load_measurement(config, count, report)
    check_fit([found], [], measurement.backbone)
    steps, mode = found.meta.steps, "conditioning"
    texts = measurement.prompts
    total = steps * (len(texts["validation"]) + 3 * len(texts["evaluation"]))
    measurement.begin("mean schedule, and what it loses", total)
    mean = measurement.mean_schedule(steps, found.policy)
    if found.meta.actions == "follow_time":  # its omega is t*/t, which the mode makes again
        mode, mean = "follow_time", replace(mean, omega=(1.0,) * steps)
    schedule = replace(mean, mode=mode)
    scores = [measurement.whole("evaluation", steps, p) for p in (None, found.policy, schedule)]
    lines, weights = [], measurement.rewards.weights
    for name in scores[0]:
        base, own, flat = (part[name] for part in scores)
        gains = [difference(a, b) for a, b in ((own, base), (flat, base), (flat, own))]
        lines.append(f"| {name} | " + " | ".join(f"{m:+.4f} ± {e:.4f}" for m, e in gains) + " |")
    name = next((name for name, weight in weights.items() if weight), "")
    gain, error = difference(scores[2][name], scores[0][name]) if name else (0.0, 0.0)
    meta = replace(
        meta_of(measurement.backbone, 0),
        source="mean of a TPM",
        reward=name,
        gain=gain,
        gain_se=error,
        gain_n=len(texts["evaluation"]) if name else 0,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_schedule(path, schedule, meta)
    numbers = ", ".join(f"{d:+.3f}" for d in schedule.deviation[1:])
    head = "| | TPM - D=0 | schedule - D=0 | schedule - TPM |\n|---|---|---|---|"
    return (
        f"{len(texts['evaluation']):,} held-out prompts, {steps} steps, paired, ± one standard "
        f"error\n\n" + "\n".join([head, *lines]) + f"\n\nD = {numbers}\nWrote {path}."
    )
