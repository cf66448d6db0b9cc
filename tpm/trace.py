"""What was really applied: one run a sampling, one entry a model evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

LISTS = (
    "t_star",
    "deviation",
    "cut_percent",
    "omega",
)  # one value a sample, of maps min, mean, max; the rest is one number
NOTHING = "off: nothing was recorded (the patch is bypassed, or the sampler has not run yet)"


@dataclass
class Run:
    """One sampling. family: of the model. remark: where the deviation comes from, or a warning.

    sigmas: the whole schedule (K+1,). steps: one dict an evaluation, see `add`. masks: where a
    region was used, one (B, ...) in [0, 1] an evaluation.
    """

    label: str
    family: str
    remark: str
    sigmas: list[float]
    steps: list[dict[str, Any]] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    def add(
        self,
        step: int,
        sigma: float,
        t: float,
        t_star: list[float],
        deviation: list[float],
        cut_percent: list[float],
        omega: list[float],
        of_map: bool = False,
    ) -> None:
        """One evaluation at grid point `step`: the sampler's sigma and time t, the time t_star that
        the network was told, its D, the share of sigma that this cuts, and omega of Eq. 19.

        of_map: the lists are smallest, mean and largest of a map of pixels."""
        entry = {"step": int(step), "sigma": float(sigma), "t": float(t)}
        for name, values in zip(LISTS, (t_star, deviation, cut_percent, omega), strict=True):
            entry[name] = [float(value) for value in values]
        if of_map:
            entry["map"] = True
        self.steps.append(entry)

    @property
    def off(self) -> bool:
        """True where no evaluation was told anything else than the sampler's own time."""
        return not any(any(s["deviation"]) or any(o != 1 for o in s["omega"]) for s in self.steps)

    @property
    def untuned(self) -> bool:
        """True where nobody has measured the deviation for this family."""
        return "untuned" in self.remark

    def values(self, name: str) -> list[float]:
        """All samples of all evaluations of one of LISTS."""
        return [value for step in self.steps for value in step[name]]

    def peak_cut(self) -> float:
        """The largest cut of sigma in percent, mean of the batch or map, with its sign."""
        cuts = [mean_of(s["cut_percent"], s) for s in self.steps]
        return max(cuts, key=abs, default=0.0)

    def mean_deviation(self) -> float:
        """Over the decisions: the first grid point is synchronous by rule and does not count."""
        values = [mean_of(step["deviation"], step) for step in self.steps if step["step"]]
        return sum(values) / len(values) if values else 0.0

    def summary(self) -> str:
        """One or two lines for a person."""
        lines = []
        if not self.steps:
            lines.append(f"{self.label}: no evaluations")
        elif self.off:
            lines.append(f"{self.label}: off, t* = t in {counted(len(self.steps))}")
        else:
            told = f"mean D {self.mean_deviation():+.3f}"
            if (omega := self.values("omega")) and any(o != 1 for o in omega):
                told += f", omega {min(omega):.3g} to {max(omega):.3g}"
            cut = self.peak_cut()
            told += f", peak cut {cut:.1f} %"
            if self.masks:
                told += " (means over the picture)"
            elif cut:
                told += (
                    f" = about a Detail Daemon peak cut of {cut:.1f} % (flow models, follow_time)"
                )
            lines.append(f"{self.label}: {counted(len(self.steps))}, {told}")
        if self.remark:
            lines.append(f"  {self.remark}")
        return "\n".join(lines)


class Trace:
    """The runs of a hooked model, the last one last. A MODEL sampled twice gives two."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def to_json(self) -> str:
        """For the plot node: `runs` with one entry an evaluation; all else has one a run."""
        content = {
            "runs": [run.steps for run in self.runs],
            "labels": [run.label for run in self.runs],
            "remarks": [run.remark for run in self.runs],
            "families": [run.family for run in self.runs],
            "sigmas": [list(run.sigmas) for run in self.runs],
        }
        return json.dumps(finite(content), allow_nan=False)

    def summary(self) -> str:
        """Text for a person, a paragraph a run."""
        if not self.runs:
            return NOTHING
        if len(self.runs) == 1:
            return self.runs[0].summary()
        total = len(self.runs)
        return "\n".join(f"run {n} of {total}: {r.summary()}" for n, r in enumerate(self.runs, 1))


def mean_of(values: list[float], step: dict[str, Any]) -> float:
    """Over the batch; of a map its own mean stands in the middle."""
    if step.get("map"):
        return values[len(values) // 2]
    return sum(values) / max(len(values), 1)


def counted(evaluations: int) -> str:
    return "1 evaluation" if evaluations == 1 else f"{evaluations} evaluations"


def finite(value: Any) -> Any:
    """NaN and infinity become null: JSON knows neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
