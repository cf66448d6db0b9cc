"""What an evaluation learns on the validation prompts: the best fixed D, and TPMs' mean schedules.

    chosen = Selection(measurement, folder / "selection.json")
    best, schedules = select(chosen, [4], fixed, tpms)[4]

What was measured is kept in that file, from which an interrupted evaluation goes on.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from ...tpm.policies import Constant
from ...tpm.schedule import Schedule
from ..run.atomic import copied_aside
from ..run.folder import write_atomic
from ..run.records import are_numbers, is_number
from .methods import TPMFile
from .paired import PairedMeasurement, keys
from .statistics import objective


def read_selection(path: Path) -> dict:
    """What the file holds, {} where there is none. What cannot be read is found anew, and stays
    beside it."""
    if not path.exists():
        return {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found = json.loads(path.read_text("utf-8"))
        if is_selection(found):
            return found
    if path.is_file():
        copied_aside(path)
    return {}


def is_selection(found: object) -> bool:
    """Steps -> D -> a number, and steps -> a file's hash -> its schedule."""
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        return False
    parts = [found.get(name) for name in ("fixed", "schedules")]
    if not all(isinstance(p, dict) and all(isinstance(v, dict) for v in p.values()) for p in parts):
        return False
    numbers = [value for own in parts[0].values() for value in own.values()]
    schedules = [value for own in parts[1].values() for value in own.values()]
    return all(map(is_number, numbers)) and all(
        isinstance(one, dict)
        and are_numbers(one.get("deviation"))
        and are_numbers(one.get("omega"))
        for one in schedules
    )


class Selection:
    """What is learnt on the validation prompts, kept in selection.json: the objective of every
    fixed D, and the mean schedules. D = 0 is a candidate with objective 0."""

    def __init__(self, measurement: PairedMeasurement, path: Path):
        self.measurement, self.path = measurement, path
        known = keys(measurement)
        self.values = {"key": known[0], "fixed": {}, "schedules": {}}
        before = read_selection(path)
        if before.get("key") in known:
            self.values = {**before, "key": known[0]}

    def keep(self) -> None:
        write_atomic(self.path, (json.dumps(self.values, indent=1) + "\n").encode())

    def missing(self, steps: int, fixed: list[float]) -> list[float]:
        known = self.values["fixed"].get(str(steps), {})
        return [d for d in dict.fromkeys(fixed) if d and f"{d:g}" not in known]

    def rate(self, steps: int, fixed: list[float]) -> float | None:
        """Measures what is not known yet; returns the best fixed D, None without any."""
        todo = self.missing(steps, fixed)
        own = self.values["fixed"].setdefault(str(steps), {})
        if todo:
            base = self.measurement.whole("validation", steps, None)
            for d in todo:
                scores = self.measurement.whole("validation", steps, Constant(d))
                own[f"{d:g}"] = objective(scores, base, self.measurement.rewards.weights)
                self.keep()
        candidates = {0.0: 0.0, **{d: own[f"{d:g}"] for d in fixed if d}}
        return max(candidates, key=candidates.__getitem__) if fixed else None

    def unscheduled(self, steps: int, tpms: list[TPMFile]) -> list[TPMFile]:
        known = self.values["schedules"].get(str(steps), {})
        return [tpm for tpm in tpms if tpm.sha256 not in known]

    def schedules(self, steps: int, tpms: list[TPMFile]) -> dict[str, Schedule]:
        """A TPM's name -> its mean schedule."""
        grid = self.measurement.backbone.times(steps)
        own = self.values["schedules"].setdefault(str(steps), {})
        for tpm in self.unscheduled(steps, tpms):
            mean = self.measurement.mean_schedule(steps, tpm.policy)
            own[tpm.sha256] = {"deviation": mean.deviation, "omega": mean.omega}
            self.keep()
        return {
            tpm.name: Schedule(grid, *(tuple(own[tpm.sha256][n]) for n in ("deviation", "omega")))
            for tpm in tpms
        }


def check_validation(
    measurement: PairedMeasurement, fixed: list[float], scheduled: list[TPMFile]
) -> None:
    """Raises ValueError where something is to be found on validation prompts that are not there;
    an objective divides by their spread."""
    count = len(measurement.prompts["validation"])
    if count < 2 and (any(fixed) or scheduled):
        raise ValueError(
            f"There are {count} validation prompts (data.validation_prompts is "
            f"{measurement.config.data.validation_prompts}; of data.validation at most half are "
            "taken), but the best fixed D and mean schedules are found on 2 or more of them; give "
            "more, or leave out --mean_schedule and give --fixed no value."
        )


def select(
    selection: Selection, every: list[int], fixed: list[float], scheduled: list[TPMFile]
) -> dict[int, tuple[float | None, dict[str, Schedule]]]:
    """K -> (best fixed D, mean schedules)."""
    measurement, total = selection.measurement, 0
    for steps in every:
        todo = len(selection.missing(steps, fixed))
        todo += bool(todo) + len(selection.unscheduled(steps, scheduled))
        total += todo * steps * len(measurement.prompts["validation"])
    measurement.begin("selection on validation prompts", total)
    return {
        steps: (selection.rate(steps, fixed), selection.schedules(steps, scheduled))
        for steps in every
    }
