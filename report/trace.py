"""What was really applied: one run per sampling, one entry per evaluation of the model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from . import words

DEVIATION, ASYNDM = "deviation", "asyndm"  # kinds of runs
# Of an entry: one value per image, of maps smallest, mean and largest; the rest is one number.
LISTS = ("t_star", "deviation", "percent", "lag", "cut_percent", "omega")


@dataclass
class Run:
    """One sampling. label: the method in words. family: of the model. sigmas: the whole schedule
    (K+1,).

    kind: DEVIATION, whose entries have a deviation in one unit or the other, or ASYNDM, whose
    entries have a lag. source: where the numbers come from, in words. tuned: False where nobody has
    measured them for this family. warnings: a sentence each. steps: one dict per evaluation, see
    `add`. masks: where a region was used, one (B, ...) in [0, 1] per evaluation. why: the reason
    why nothing was changed, where it is known. node: the id of the node that it belongs to; "" for
    the one that samples.
    """

    label: str
    family: str
    sigmas: list[float]
    kind: str = DEVIATION
    source: str = ""
    tuned: bool = True
    warnings: list[str] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)
    why: str = ""
    node: str = ""

    def add(
        self,
        step: int,
        sigma: float,
        t: float,
        t_star: list[float],
        deviation: list[float],
        cut_percent: list[float],
        omega: list[float],
        map_of: int = 0,
        percent: list[float] | None = None,
        lag: list[float] | None = None,
    ) -> None:
        """One evaluation at grid point `step`: the sampler's sigma and time t, the time t_star that
        the network was told (both in the model's own unit), the share of sigma that this cuts, and
        omega of Eq. 19.

        deviation: D of unit interval, in shares of the interval just passed. percent: D of unit
        percent, in tenths of the time. lag: how far the pixels are behind, in steps of the grid.
        None is 0. map_of: 0 where the lists have one value per image, else of how many images they
        are the pixels' smallest, mean and largest."""
        entry = {"step": int(step), "sigma": float(sigma), "t": float(t)}
        entry |= {"map": map_of > 0, "images": map_of or len(t_star)}
        zeros = [0.0] * len(t_star)
        lists = (t_star, deviation, percent or zeros, lag or zeros, cut_percent, omega)
        for name, values in zip(LISTS, lists, strict=True):
            entry[name] = [float(value) for value in values]
        self.steps.append(entry)

    def warn(self, *sentences: str) -> None:
        """Adds warnings, each once."""
        self.warnings += [s for s in dict.fromkeys(sentences) if s not in self.warnings]

    @property
    def said(self) -> str:
        """Source and warnings, for a place that shows `untuned` by itself."""
        return "; ".join([self.source, *self.warnings] if self.source else self.warnings)

    @property
    def remark(self) -> str:
        """Source, whether it is tuned, and warnings, as they are printed."""
        source = ", ".join([self.source] * bool(self.source) + ["untuned"] * (not self.tuned))
        return "; ".join([source, *self.warnings] if source else self.warnings)

    @property
    def off(self) -> bool:
        """True where no evaluation was told anything else than the sampler's own time."""
        return not self.moved and not any(o != 1 for step in self.steps for o in step["omega"])

    @property
    def moved(self) -> bool:
        """True where the network was told another time at least once."""
        return any(any(values) for values in self.lists("amount"))

    @property
    def why_off(self) -> str:
        """Why nothing was changed in this run."""
        if self.why:
            return self.why
        if all(step["step"] == 0 for step in self.steps):
            return "one step only, and the first evaluation is never changed"
        return "every deviation is 0: the network is told the true time"

    @property
    def asyndm(self) -> bool:
        return self.kind == ASYNDM

    @property
    def of_map(self) -> bool:
        """True where an evaluation was told a map of pixels."""
        return any(step["map"] for step in self.steps)

    @property
    def images(self) -> int:
        """The largest batch of its evaluations."""
        return max((step["images"] for step in self.steps), default=0)

    @property
    def why_empty(self) -> str:
        """Why a run has no steps."""
        if self.why:
            return self.why
        if self.asyndm:
            return "the stock sampler ran"
        return "no evaluations were recorded"

    def lists(self, name: str) -> list[list[float]]:
        """One list per evaluation: one of LISTS, or "amount", what was decided: the lag of AsynDM,
        else D in the unit of its policy, which has only one."""
        if name != "amount":
            return [step[name] for step in self.steps]
        if self.asyndm:
            return self.lists("lag")
        pairs = zip(self.lists("deviation"), self.lists("percent"), strict=True)
        return [[d + p for d, p in zip(*pair, strict=True)] for pair in pairs]

    def values(self, name: str) -> list[float]:
        """All finite samples of all evaluations of one of `lists`."""
        return [v for values in self.lists(name) for v in values if math.isfinite(v)]

    @property
    def lost(self) -> int:
        """How many numbers are not finite: they are left out of every mean and of the plot."""
        return sum(len(step[name]) for step in self.steps for name in LISTS) - sum(
            len(self.values(name)) for name in LISTS
        )

    def peak_cut(self) -> float:
        """The largest cut of sigma in percent, mean of the batch or map, with its sign."""
        cuts = [mean_of(s["cut_percent"], s) for s in self.steps]
        peak = max((c for c in cuts if math.isfinite(c)), key=abs, default=0.0)
        return peak if abs(peak) > 1e-6 else 0.0  # a mean of both signs may leave a rounding error

    def mean_amount(self, at: Sequence[int] | None = None) -> float:
        """Over the decisions: the first grid point is synchronous by rule and does not count. at:
        the grid points that count."""
        pairs = zip(self.lists("amount"), self.steps, strict=True)
        counts = (lambda k: k > 0) if at is None else set(at).__contains__
        means = [mean_of(values, step) for values, step in pairs if counts(step["step"])]
        means = [mean for mean in means if math.isfinite(mean)]
        return sum(means) / len(means) if means else 0.0

    def mid_cut(self) -> float:
        """The cut of sigma in percent in the middle of what was changed: the median over the
        evaluations. The largest says little: near the end sigma is so small that any cut is."""
        cuts = [mean_of(s["cut_percent"], s) for s in self.steps]
        cuts = [c for c in cuts if math.isfinite(c) and abs(c) > 1e-6]
        return median(cuts) if cuts else 0.0

    def entries(self) -> list[dict[str, Any]]:
        """As the JSON has them: `deviation` is the amount, of AsynDM minus the lag."""
        found = []
        for step, amount in zip(self.steps, self.lists("amount"), strict=True):
            if self.asyndm:
                amount = [0 - lag for lag in reversed(amount)]
            kept = {name: step[name] for name in step if name not in ("percent", "lag")}
            found.append(kept | {"deviation": amount})
        return found

    def line(self) -> str:
        """One line for the node: what was done, on which steps, or why nothing was."""
        return words.line(self)

    def summary(self) -> str:
        """One or two lines for a person."""
        return words.summary(self)

    def moved_steps(self) -> list[int]:
        """The grid points at which the network was told another time."""
        pairs = zip(self.lists("amount"), self.steps, strict=True)
        return sorted({step["step"] for values, step in pairs if any(values)})


class Trace:
    """The runs of a hooked model, the last one last. A MODEL sampled twice gives two."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.prompt: str | None = None  # the queued prompt that its runs are of
        self.node = ""  # the id of the node that says what was done
        self.replaced: list[Trace] = []  # of the patches that this one took the place of

    def to_json(self) -> str:
        """For the plot node: `runs` has one entry per evaluation, all else has one per run."""
        content = {
            "runs": [run.entries() for run in self.runs],
            "labels": [run.label for run in self.runs],
            "kinds": [run.kind for run in self.runs],
            "remarks": [run.remark for run in self.runs],
            "sources": [run.source for run in self.runs],
            "tuned": [run.tuned for run in self.runs],
            "warnings": [list(run.warnings) for run in self.runs],
            "families": [run.family for run in self.runs],
            "sigmas": [list(run.sigmas) for run in self.runs],
        }
        return json.dumps(finite(content), allow_nan=False)

    def summary(self) -> str:
        """Text for a person, a paragraph per run."""
        if not self.runs:
            return words.NOTHING
        if len(self.runs) == 1:
            return self.runs[0].summary()
        total = len(self.runs)
        return "\n".join(f"run {n} of {total}: {r.summary()}" for n, r in enumerate(self.runs, 1))


def stages_of(runs: list[Run]) -> tuple[Run, int]:
    """The last run, and how many it is made of: stages of one schedule that follow each other, with
    the same label and sigmas, are one run."""
    run, count = runs[-1], 1
    for earlier in reversed(runs[:-1]):
        same = (earlier.kind, earlier.label, earlier.sigmas) == (run.kind, run.label, run.sigmas)
        if not (same and earlier.steps and run.steps):
            break
        if earlier.steps[-1]["step"] >= run.steps[0]["step"]:
            break
        steps, masks = earlier.steps + run.steps, earlier.masks + run.masks
        warnings = list(dict.fromkeys(earlier.warnings + run.warnings))
        run, count = replace(run, steps=steps, masks=masks, warnings=warnings), count + 1
    return run, count


def mean_of(values: list[float], step: dict[str, Any]) -> float:
    """Over the batch; of a map its own mean stands in the middle. NaN where nothing is finite."""
    if step["map"]:
        return values[1]
    values = [v for v in values if math.isfinite(v)]
    return sum(values) / len(values) if values else math.nan


def finite(value: Any) -> Any:
    """NaN and infinity become null: JSON knows neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
