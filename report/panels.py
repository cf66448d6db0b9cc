"""The panels of a plot: what each draws of a run, on axes of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import Box, Canvas, Point, finite_parts, nice_ticks
from .trace import Run, mean_of

LOG_FROM = 2.0  # a first sigma above it is no flow time: eps and v models need a log axis
LOG_FLOOR = 1e-3
LEAST_CUT = 0.1  # percent: less is rounding, and is not drawn as large


@dataclass(frozen=True)
class Axis:
    """Maps values to the height of a panel, and evaluation numbers to its width."""

    box: Box
    low: float
    high: float
    count: int  # evaluations
    log: bool = False

    def x(self, index: float) -> float:
        left, _, right, _ = self.box
        return left + (index + 0.5) / self.count * (right - left)

    def y(self, value: float) -> float:
        _, top, _, bottom = self.box
        low, high = self.low, self.high
        if self.log:
            value, low, high = (math.log(max(v, LOG_FLOOR)) for v in (value, low, high))
        return bottom - (value - low) / (high - low) * (bottom - top)

    def points(self, values: Sequence[float]) -> list[Point]:
        return [(self.x(i), self.y(value)) for i, value in enumerate(values)]


@dataclass(frozen=True)
class Series:
    """One of the trace's lists: mean, smallest and largest over the batch, one per evaluation; NaN
    where nothing is finite."""

    mean: list[float]
    low: list[float]
    high: list[float]

    @property
    def spread(self) -> bool:
        return any(a < b for a, b in zip(self.low, self.high, strict=True))


def series(run: Run, name: str, sign: int = 1) -> Series:
    """One list of the trace over the evaluations (see `Run.lists`), times `sign`."""
    lists = run.lists(name)
    means = [sign * mean_of(v, step) for v, step in zip(lists, run.steps, strict=True)]
    rows = [[sign * v for v in values if math.isfinite(v)] or [math.nan] for values in lists]
    return Series(means, [min(r) for r in rows], [max(r) for r in rows])


def legend(canvas: Canvas, box: Box, entries: Sequence[tuple[str, str]]) -> None:
    """Coloured marks with their names, above a panel; in smaller letters where they are long."""
    u, room = canvas.unit, box[2] - box[0] + 30 * canvas.unit
    for size in (13, 12, 11):
        widths = [canvas.width(name, size) for name, _ in entries]
        if sum(widths) + len(entries) * 17 * u + (len(entries) - 1) * 14 * u <= room:
            break
    x, y = box[0], box[1] - 11 * u
    for (name, color), width in zip(entries, widths, strict=True):
        canvas.box((x, y - 4 * u, x + 11 * u, y + 4 * u), color, 2)
        canvas.text((x + 16 * u, y), name, canvas.colors.text, size, "lm")
        x += 16 * u + width + 14 * u


def panel(canvas: Canvas, axis: Axis, ticks: Sequence[float], unit: str = "") -> None:
    """Background, horizontal rules and the numbers at the left."""
    colors, u = canvas.colors, canvas.unit
    canvas.box(axis.box, colors.panel, 4)
    for tick in ticks:
        y = axis.y(tick)
        canvas.line([(axis.box[0], y), (axis.box[2], y)], colors.grid, 1)
        canvas.text((axis.box[0] - 6 * u, y), f"{tick:g}{unit}", colors.dim, 12, "rm")


def draw_times(canvas: Canvas, box: Box, run: Run) -> None:
    """Upper panel: sigma, and sigma * (1 - cut), whose time the network was told."""
    colors = canvas.colors
    sigma = [step["sigma"] if math.isfinite(step["sigma"]) else 0.0 for step in run.steps]
    cut = series(run, "cut_percent")
    told = Series(
        *[
            [s * (1 - c / 100) for s, c in zip(sigma, values, strict=True)]
            for values in (cut.mean, cut.high, cut.low)
        ]
    )
    seen = [v for v in sigma + told.low + told.high if math.isfinite(v)]
    high, low = max(seen), min(seen)
    log = high > LOG_FROM
    if log:
        low = max(low, LOG_FLOOR)
        ticks = [d for d in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= d <= high]
        axis = Axis(box, low / 1.25, high * 1.25, len(sigma), log=True)
    else:
        ticks = nice_ticks(0.0, high, 4)
        axis = Axis(box, -0.06 * high, 1.08 * high or 1.0, len(sigma))
    panel(canvas, axis, ticks)
    true_line, told_line = axis.points(sigma), axis.points(told.mean)
    if not any(math.isnan(y) for _, y in told_line):
        canvas.area(true_line + told_line[::-1], colors.band)
    line(canvas, axis, sigma, colors.true, 2)
    names = [("noise level of the grid" if run.asyndm else "noise level", colors.true)]
    if run.moved:
        band(canvas, axis, told, colors.told)
        line(canvas, axis, told.mean, colors.told, 2.2)
        what = "noise level of the pixels, mean"
        if not run.asyndm:
            what = "what the model was told" + over_what(run, told)
        names.append((what, colors.told))
    legend(canvas, box, names)


def over_what(run: Run, values: Series) -> str:
    """What a mean is a mean of, where its samples differ."""
    if not values.spread:
        return ""
    if run.of_map:
        return ", mean of the pixels" + (f" of {run.images} images" if run.images > 1 else "")
    return f", mean of {run.images} images"


def draw_deviation(canvas: Canvas, box: Box, run: Run) -> None:
    """Lower panel: D as bars with min to max, and the cut of sigma on the axis at the right. Of
    AsynDM the lag, and by how much sigma is higher."""
    colors, u, sign = canvas.colors, canvas.unit, -1 if run.asyndm else 1
    deviation, cut = series(run, "amount"), series(run, "cut_percent", sign)
    reach = max(map(abs, run.values("amount")), default=0.0) or 1.0
    cut_reach = max([abs(v) for v in cut.mean if math.isfinite(v)] + [LEAST_CUT])
    per_unit = cut_reach / reach  # one scale, so that both axes share their zero
    cut_line = [value / per_unit for value in cut.mean]
    seen = [v for v in deviation.low + deviation.high + cut_line + [0.0] if math.isfinite(v)]
    span = max(seen) - min(seen) or 1.0
    low, high = min(seen) - 0.08 * span, max(seen) + 0.10 * span
    axis = Axis(box, low, high, len(run.steps))
    panel(canvas, axis, nice_ticks(low, high, 4))
    for tick in nice_ticks(low * per_unit, high * per_unit, 4):
        label = f"{tick:g} %"
        canvas.text((box[2] + 6 * u, axis.y(tick / per_unit)), label, colors.cut, 12, "lm")

    half = 0.34 * (box[2] - box[0]) / axis.count
    wide = any(b - a > 0.1 * span for a, b in zip(deviation.low, deviation.high, strict=True))
    points = [] if wide else axis.points(deviation.mean)  # a wide band and bars hide each other
    for x, y in (p for part in finite_parts(points) for p in part):
        edges = sorted((axis.y(0), y))
        canvas.area(bar(x - half, edges[0], x + half, edges[1]), colors.band)
    canvas.line([(box[0], axis.y(0)), (box[2], axis.y(0))], colors.dim, 1.2)
    band(canvas, axis, deviation, colors.told)
    line(canvas, axis, deviation.mean, colors.told, 2.8)
    line(canvas, axis, cut_line, colors.cut, 1.4)  # on top and thin: the two may coincide
    mean, peak = run.mean_amount(), sign * run.peak_cut()
    texts = (f"deviation, mean {mean:+.3f}", f"strength, in the middle {run.mid_cut():.1f} %")
    if run.asyndm:
        texts = (f"lag in steps, mean {mean:.2f}", f"noise is higher, peak {peak:.1f} %")
    legend(canvas, box, list(zip(texts, (colors.told, colors.cut), strict=True)))


def draw_omega(canvas: Canvas, box: Box, omega: Series) -> None:
    """Third panel: the velocity scale, with a rule at 1."""
    values = [v for v in omega.low + omega.high if math.isfinite(v)] + [1.0]
    span = max(values) - min(values) or 1.0
    axis = Axis(box, min(values) - 0.15 * span, max(values) + 0.15 * span, len(omega.mean))
    panel(canvas, axis, nice_ticks(axis.low, axis.high, 3))
    canvas.line([(box[0], axis.y(1)), (box[2], axis.y(1))], canvas.colors.dim, 1.2)
    band(canvas, axis, omega, canvas.colors.omega)
    line(canvas, axis, omega.mean, canvas.colors.omega, 2.2)
    low, high = min(values[:-1]), max(values[:-1])
    text = f"omega {low:.3g} to {high:.3g}" if low < high else f"omega {low:.3g}"
    legend(canvas, box, [(text, canvas.colors.omega)])


def step_labels(canvas: Canvas, box: Box, run: Run) -> None:
    """Grid point numbers under the last panel, thinned out where they would touch."""
    colors, u, count = canvas.colors, canvas.unit, len(run.steps)
    axis = Axis(box, 0, 1, count)
    first = {step["step"]: i for i, step in reversed(list(enumerate(run.steps)))}
    room = 1.6 * canvas.width(str(max(first)), 12) / (box[2] - box[0]) * len(first)
    every = next((n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n >= room), 1000)
    for number, i in first.items():  # samplers that evaluate twice a step: at the first one
        if number % every == 0:
            canvas.text((axis.x(i), box[3] + 4 * u), str(number), colors.dim, 12, "ma")
    calls = f", {count} evaluations" if count != len(first) else ""
    middle = (box[0] + box[2]) / 2
    canvas.text((middle, box[3] + 18 * u), f"step{calls}", colors.dim, 12, "ma")


def band(canvas: Canvas, axis: Axis, values: Series, color: str) -> None:
    """Min to max over the batch or the pixels, where they differ."""
    if not values.spread:
        return
    half = 0.12 * (axis.box[2] - axis.box[0])  # the width of a band of one evaluation
    pairs = zip(
        finite_parts(axis.points(values.low)), finite_parts(axis.points(values.high)), strict=True
    )
    for low, high in pairs:
        wide = [low, high]
        if len(low) == 1:
            wide = [[(x - half, y), (x + half, y)] for ((x, y),) in wide]
        canvas.shade(wide[0] + wide[1][::-1], color, 0.35)
        for edge in wide:
            canvas.line(edge, color, 1)


def line(canvas: Canvas, axis: Axis, values: Sequence[float], color: str, width: float) -> None:
    """A line with its dots, interrupted where a value is missing."""
    radius = max(1.0, min(1.5 * width, 48.0 / axis.count))  # smaller where many share the width
    for part in finite_parts(axis.points(values)):
        canvas.line(part, color, width)
        canvas.dots(part, color, radius)


def bar(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]
