"""Tables of an evaluation: means and paired differences with their standard errors.

    write_tables(folder, results, weights, categories, family, head, notes)

Every file is written whole or not at all.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...report.tables import markdown
from ..run.folder import write_atomic
from .methods import BASELINE, Method
from .per_prompt import Scores
from .statistics import difference, mean_error

PAPER_COLUMNS = {"image_reward": "ImageReward", "hps": "HPSv2", "clip": "CLIP", "pick": "PickScore"}
NOISE = "noise"  # lower is better; shown last


@dataclass(frozen=True)
class Result:
    """One method at one K (`steps`, the budget of its baseline)."""

    method: Method
    steps: int
    scores: Scores

    @property
    def cost(self) -> float:
        """Network evaluations, as a multiple of the baseline's."""
        return (self.steps + self.method.more) / self.steps


def ordered(metrics: dict[str, Tensor]) -> list[str]:
    """Names of the metrics, the noise last."""
    return sorted(metrics, key=lambda name: name == NOISE)


def digits(values: Tensor) -> int:
    """Decimals that show small differences of values of this size, 3 to 5."""
    size = abs(float(values.mean()))
    return 3 if size >= 1 else 4 if size >= 0.05 else 5


def baseline_of(results: list[Result], steps: int) -> Result:
    return next(r for r in results if r.steps == steps and r.method.kind == "baseline")


def grouped(results: list[Result]) -> dict[int, list[Result]]:
    """K -> its results, in the order of the methods."""
    found: dict[int, list[Result]] = {}
    for result in results:
        found.setdefault(result.steps, []).append(result)
    return dict(sorted(found.items()))


def main_table(results: list[Result]) -> str:
    """One K: mean and paired difference to D=0 of every metric, mean deviation and cost."""
    base = baseline_of(results, results[0].steps)
    names = ordered(base.scores.metrics)
    header = ["method"]
    for name in names:
        header += [name, f"{name} - {BASELINE}"]
    rows = []
    for result in results:
        row = [result.method.label]
        for name in names:
            values, own = base.scores.metrics[name], result.scores.metrics[name]
            d = digits(values)
            row.append("{:.{d}f} ± {:.{d}f}".format(*mean_error(own), d=d))
            change = "{:+.{d}f} ± {:.{d}f}".format(*difference(own, values), d=d)
            row.append("" if result is base else change)
        deviation = float(result.scores.mean_deviation.mean())
        seconds = float(result.scores.seconds.mean())
        rows.append([*row, f"{deviation:+.3f}", f"{result.cost:.2f}", f"{seconds:.3g}"])
    return markdown([*header, "mean deviation", "cost", "s / image"], rows)


def differences(results: list[Result]) -> list[tuple[Result, Result]]:
    """One K: every TPM and what it must be compared with: best fixed D, its own mean schedule,
    more steps; and on top of a solver, that solver without it."""
    pairs = []
    best = next((r for r in results if r.method.best), None)
    for result in results:
        method = result.method
        if method.kind == "tpm":
            pairs += [(result, best)] if best else []
            pairs += [
                (result, other)
                for other in results
                if other.method.kind == "steps"
                or other.method.kind == "mean"
                and other.method.tpm == method.tpm
                and method.gamma == 1
            ]
        if method.kind == "solver" and method.policy is not None:
            pairs += [
                (result, other)
                for other in results
                if other.method.kind == "solver"
                and other.method.solver == method.solver
                and not other.method.tpm
                and (method.tpm or other.method.policy is None)
            ]
    return pairs


def difference_table(results: list[Result]) -> str:
    pairs = differences(results)
    if not pairs:
        return ""
    names = ordered(results[0].scores.metrics)
    base = baseline_of(results, results[0].steps)
    rows = []
    for a, b in pairs:
        row = [a.method.name, b.method.label]
        for name in names:
            change = difference(a.scores.metrics[name], b.scores.metrics[name])
            row.append("{:+.{d}f} ± {:.{d}f}".format(*change, d=digits(base.scores.metrics[name])))
        rows.append(row)
    return markdown(["method", "minus", *names], rows)


def category_table(results: list[Result], name: str, categories: list[str]) -> str:
    """One K and one metric: the mean at D=0 and the differences to it, one column a category."""
    groups = list(dict.fromkeys(categories))
    masks = {g: torch.tensor([c == g for c in categories]) for g in groups}
    base = baseline_of(results, results[0].steps).scores.metrics[name]
    header = ["method", *(f"{g or '(none)'} ({int(mask.sum())})" for g, mask in masks.items())]
    rows, d = [], digits(base)
    for result in results:
        row, own = [result.method.label], result.scores.metrics[name]
        for mask in masks.values():
            if result.method.kind == "baseline":
                row.append("{:.{d}f} ± {:.{d}f}".format(*mean_error(own[mask]), d=d))
            else:
                row.append("{:+.{d}f} ± {:.{d}f}".format(*difference(own[mask], base[mask]), d=d))
        rows.append(row)
    return markdown(header, rows)


def paper_table(results: list[Result], family: str) -> str:
    """One K, in the form of Tables 1 and 2: the base model and every TPM at gamma 1. The best of a
    column is bold, the second underlined."""
    shown = [
        r
        for r in results
        if r.method.kind == "baseline" or r.method.kind == "tpm" and r.method.gamma == 1
    ]
    metrics = results[0].scores.metrics
    names = [name for name in PAPER_COLUMNS if name in metrics] or ordered(metrics)
    rows = [[paper_name(r, family)] for r in shown]
    for name in names:
        means = [float(r.scores.metrics[name].mean()) for r in shown]
        d = 2 if name == "pick" else max(4, digits(metrics[name]))
        order = sorted(means, reverse=name != NOISE)
        for row, mean in zip(rows, means, strict=True):
            cell = f"{mean:.{d}f}"
            if len(means) > 1:
                place = order.index(mean)
                cell = f"**{cell}**" if place == 0 else f"<u>{cell}</u>" if place == 1 else cell
            row.append(cell)
    for row, result in zip(rows, shown, strict=True):
        deviation = float(result.scores.mean_deviation.mean())
        row.append("0" if result.method.kind == "baseline" else f"{deviation:+.3f}")
    titles = [PAPER_COLUMNS.get(name, name) for name in names]
    return markdown(["Method", *titles, "Mean Deviation"], rows)


def paper_name(result: Result, family: str) -> str:
    method = result.method
    if method.kind == "baseline":
        return f"{family} base"
    forms = {"deviation": "2 x r*" if method.lifted else "0.5 + r*", "omega": "omega"}
    return f"{method.tpm} ({forms.get(method.actions, method.note)})"


def csv_table(results: list[Result]) -> str:
    """Every number of main_table, unrounded."""
    names = ordered(results[0].scores.metrics)
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    parts = ("", "_se", "_difference", "_difference_se")
    writer.writerow(
        [
            "K",
            "method",
            "note",
            "n",
            *(name + part for name in names for part in parts),
            "mean_deviation",
            "cost",
            "seconds",
        ]
    )
    for result in results:
        base = baseline_of(results, result.steps).scores.metrics
        own = result.scores.metrics
        cells = []
        for name in names:
            cells += [*mean_error(own[name]), *difference(own[name], base[name])]
        writer.writerow(
            [
                result.steps,
                result.method.name,
                result.method.note,
                len(base[names[0]]),
                *cells,
                float(result.scores.mean_deviation.mean()),
                result.cost,
                float(result.scores.seconds.mean()),
            ]
        )
    return buffer.getvalue()


def write_tables(
    folder: Path,
    results: list[Result],
    weights: dict[str, float],
    categories: list[str],
    family: str,
    head: str,
    notes: list[str],
) -> None:
    """table.md, table.csv, categories.md and paper_table.md; head: where it all comes from."""
    by_steps = grouped(results)
    parts = {name: [] for name in ("table", "categories", "paper_table")}
    for steps, own in by_steps.items():
        title = f"## {steps} steps\n\n"
        parts["table"].append(title + main_table(own))
        if text := difference_table(own):
            parts["table"].append("Paired differences between methods:\n\n" + text)
        for name in (n for n in ordered(own[0].scores.metrics) if weights.get(n) or n == NOISE):
            text = category_table(own, name, categories)
            parts["categories"].append(f"{title}{name}, and its difference to {BASELINE}\n\n{text}")
        parts["paper_table"].append(title + paper_table(own, family))
    remarks = "".join(f"- {note}\n" for note in notes)
    for name, texts in parts.items():
        text = "\n".join([f"# Evaluation\n\n{head}\n", *([remarks] if remarks else []), *texts])
        write_atomic(folder / f"{name}.md", text.encode())
    write_atomic(folder / "table.csv", csv_table(results).encode())
