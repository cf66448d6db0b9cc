"""The plot of a trace: the time the sampler integrates with, and the time the network is told."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .canvas import DARK, LIGHT, Box, Canvas, Point, nice_ticks
from .strip import HEIGHT, draw_masks
from .trace import Run, Trace, mean_of

LOG_FROM = 2.0  # a first sigma above it is no flow time: eps and v models need a log axis
LOG_FLOOR = 1e-3


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
    """One of the trace's lists: mean, smallest and largest over the batch, an evaluation each."""

    mean: list[float]
    low: list[float]
    high: list[float]


def plot_trace(
    trace: Trace | None, size: tuple[int, int] = (768, 512), dark: bool = True
) -> torch.Tensor:
    """The last run as an image (1, H, W, 3) in [0, 1]; size = (W, H) in pixels.

    Above: sigma, and the sigma whose time the network was told. Below: the deviation (bars, min
    to max over the batch) and the cut of sigma in percent; omega of Eq. 19 where it is not 1; the
    masks of a region.
    Without a trace, or where nothing was changed, it says "off".
    """
    canvas = Canvas(size, DARK if dark else LIGHT)
    runs = trace.runs if trace else []
    u, (width, height) = canvas.unit, size
    if not runs or not runs[-1].steps:
        text = "no model evaluation was recorded" if runs else "no trace: the patch is bypassed"
        top = title(canvas, runs) if runs else 16 * u
        box = (16 * u, top, width - 16 * u, height - 16 * u)
        canvas.box(box, canvas.colors.panel)
        say_off(canvas, box, text)
        return canvas.tensor()

    run = runs[-1]
    strip = HEIGHT * u if run.masks else 0
    top, bottom = title(canvas, runs), height - 46 * u - strip
    omega = series(run, "omega")
    with_omega = any(value != 1 for value in omega.low + omega.high)
    shares = (0.40, 0.34, 0.26) if with_omega else (0.50, 0.50)
    heading = 26 * u  # above each panel, for its legend
    free = bottom - top - heading * len(shares)
    boxes = []
    for share in shares:
        top += heading
        boxes.append((58 * u, top, width - 62 * u, top + share * free))
        top += share * free

    draw_times(canvas, boxes[0], run)
    if run.off:
        canvas.box(boxes[1], canvas.colors.panel)
        say_off(canvas, boxes[1], "every deviation is 0: the network is told the true time")
    else:
        draw_deviation(canvas, boxes[1], run)
    if with_omega:
        draw_omega(canvas, boxes[2], omega)
    step_labels(canvas, boxes[-1], run)
    if run.masks:
        draw_masks(canvas, (58 * u, height - strip, width - 62 * u, height - 4 * u), run)
    return canvas.tensor()


def series(run: Run, name: str) -> Series:
    """One list of the trace over the evaluations; what is not finite counts as 0."""
    rows = [[v if math.isfinite(v) else 0.0 for v in step[name]] or [0.0] for step in run.steps]
    means = [mean_of(row, step) for row, step in zip(rows, run.steps, strict=True)]
    return Series(means, [min(r) for r in rows], [max(r) for r in rows])


def title(canvas: Canvas, runs: list[Run]) -> float:
    """Label, run number, remark. Returns the y where the panels may begin."""
    run, u, colors = runs[-1], canvas.unit, canvas.colors
    left, right, y = 16 * u, canvas.size[0] - 16 * u, 14 * u
    corner = run.family if len(runs) == 1 else f"{run.family} · run {len(runs)} of {len(runs)}"
    canvas.text((right, y + 3 * u), corner, colors.dim, 15, "ra")
    room = right - left - canvas.width(corner, 15) - 16 * u
    canvas.text((left, y), "".join(wrap(canvas, run.label, 20, room, 1)), colors.text, 20)
    y += 30 * u
    indent = 0.0
    if run.untuned:
        tag = canvas.width("untuned", 15) + 16 * u
        canvas.box((left, y - 3 * u, left + tag, y + 19 * u), colors.warn)
        canvas.text((left + tag / 2, y + 8 * u), "untuned", colors.ground, 15, "mm")
        indent = tag + 10 * u
    for line in wrap(canvas, run.remark, 15, right - left - indent, 2):
        canvas.text((left + indent, y), line, colors.dim, 15)
        y += 19 * u
    return y + 2 * u


def wrap(canvas: Canvas, text: str, size: float, room: float, most: int) -> list[str]:
    """Lines that fit into `room` pixels, `most` of them; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and canvas.width(longer, size) > room:
            lines.append(word)
        else:
            lines[-1:] = [longer]
    if len(lines) > most:
        lines[most - 1 :] = [" ".join(lines[most - 1 :])]
    return [shortened(canvas, line, size, room) for line in lines]


def shortened(canvas: Canvas, line: str, size: float, room: float) -> str:
    """The line, or as much of its beginning as fits with an ellipsis."""
    if canvas.width(line, size) <= room:
        return line
    fitting = bisect_right(range(len(line)), room, key=lambda n: canvas.width(line[:n] + "…", size))
    return line[: max(fitting - 1, 0)] + "…"


def say_off(canvas: Canvas, box: Box, reason: str) -> None:
    """The word "off", large, and why."""
    middle, height = (box[0] + box[2]) / 2, box[3] - box[1]
    large = min(96.0, 0.45 * height / canvas.unit)
    canvas.text((middle, box[1] + 0.42 * height), "off", canvas.colors.text, large, "mm")
    canvas.text((middle, box[1] + 0.80 * height), reason, canvas.colors.dim, 16, "mm")


def legend(canvas: Canvas, box: Box, entries: Sequence[tuple[str, str]]) -> None:
    """Coloured marks with their names, above a panel."""
    u, x, y = canvas.unit, box[0], box[1] - 13 * canvas.unit
    for name, color in entries:
        canvas.box((x, y - 5 * u, x + 14 * u, y + 5 * u), color, 3)
        canvas.text((x + 20 * u, y), name, canvas.colors.text, 15, "lm")
        x += 20 * u + canvas.width(name, 15) + 22 * u


def panel(canvas: Canvas, axis: Axis, ticks: Sequence[float], unit: str = "") -> None:
    """Background, horizontal rules and the numbers at the left."""
    colors, u = canvas.colors, canvas.unit
    canvas.box(axis.box, colors.panel, 4)
    for tick in ticks:
        y = axis.y(tick)
        canvas.line([(axis.box[0], y), (axis.box[2], y)], colors.grid, 1)
        canvas.text((axis.box[0] - 8 * u, y), f"{tick:g}{unit}", colors.dim, 14, "rm")


def draw_times(canvas: Canvas, box: Box, run: Run) -> None:
    """Upper panel: sigma, and sigma * (1 - cut), whose time the network was told."""
    colors = canvas.colors
    sigma = [step["sigma"] if math.isfinite(step["sigma"]) else 0.0 for step in run.steps]
    cut = series(run, "cut_percent")
    told, least, most = (
        [s * (1 - c / 100) for s, c in zip(sigma, values, strict=True)]
        for values in (cut.mean, cut.high, cut.low)
    )
    high, low = max(sigma + most), min(sigma + least)
    log = high > LOG_FROM
    if log:
        low = max(low, LOG_FLOOR)
        ticks = [d for d in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if low <= d <= high]
        axis = Axis(box, low / 1.25, high * 1.25, len(sigma), log=True)
    else:
        ticks = nice_ticks(0.0, high, 5)
        axis = Axis(box, -0.05 * high, 1.07 * high or 1.0, len(sigma))
    panel(canvas, axis, ticks)
    true_line, told_line = axis.points(sigma), axis.points(told)
    canvas.area(true_line + told_line[::-1], colors.band)
    canvas.line(true_line, colors.true, 2)
    canvas.dots(true_line, colors.true, dot_radius(axis))
    if not run.off:
        canvas.line(told_line, colors.told, 2.5)
        whiskers(canvas, axis, least, most, colors.told)
        canvas.dots(told_line, colors.told, dot_radius(axis))
    names = [("sigma of the sampler", colors.true)]
    legend(canvas, box, names if run.off else [*names, ("told to the network", colors.told)])


def draw_deviation(canvas: Canvas, box: Box, run: Run) -> None:
    """Lower panel: D as bars with min to max, and the cut of sigma on the axis at the right."""
    colors, u = canvas.colors, canvas.unit
    deviation, cut = series(run, "deviation"), series(run, "cut_percent")
    reach = max(map(abs, deviation.low + deviation.high)) or 1.0
    cut_reach = max(map(abs, cut.mean))
    per_unit = cut_reach / reach or 1.0  # one scale, so that both axes share their zero
    values = deviation.low + deviation.high + [value / per_unit for value in cut.mean]
    span = max(values + [0.0]) - min(values + [0.0]) or 1.0
    low, high = min(values + [0.0]) - 0.06 * span, max(values + [0.0]) + 0.08 * span
    axis = Axis(box, low, high, len(run.steps))
    panel(canvas, axis, nice_ticks(low, high, 4))
    for tick in nice_ticks(low * per_unit, high * per_unit, 4):
        label = f"{tick:g} %"
        canvas.text((box[2] + 8 * u, axis.y(tick / per_unit)), label, colors.cut, 14, "lm")

    half = 0.34 * (box[2] - box[0]) / axis.count
    for i, value in enumerate(deviation.mean):
        edges = sorted((axis.y(0), axis.y(value)))
        canvas.area(bar(axis.x(i) - half, edges[0], axis.x(i) + half, edges[1]), colors.band)
    canvas.line([(box[0], axis.y(0)), (box[2], axis.y(0))], colors.dim, 1.5)
    cut_line = axis.points([value / per_unit for value in cut.mean])
    canvas.line(cut_line, colors.cut, 2)
    canvas.dots(cut_line, colors.cut, dot_radius(axis))
    whiskers(canvas, axis, deviation.low, deviation.high, colors.told)
    mean_line = axis.points(deviation.mean)
    canvas.line(mean_line, colors.told, 2.5)
    canvas.dots(mean_line, colors.told, dot_radius(axis))
    names = [(f"deviation, mean {run.mean_deviation():+.3f}", colors.told)]
    names.append((f"cut of sigma, peak {run.peak_cut():.1f} %", colors.cut))
    legend(canvas, box, names)


def draw_omega(canvas: Canvas, box: Box, omega: Series) -> None:
    """Third panel: the velocity scale, with a rule at 1."""
    values = omega.low + omega.high + [1.0]
    span = max(values) - min(values) or 1.0
    axis = Axis(box, min(values) - 0.15 * span, max(values) + 0.15 * span, len(omega.mean))
    panel(canvas, axis, nice_ticks(axis.low, axis.high, 3))
    points = axis.points(omega.mean)
    canvas.line([(box[0], axis.y(1)), (box[2], axis.y(1))], canvas.colors.dim, 1.5)
    canvas.line(points, canvas.colors.omega, 2.5)
    whiskers(canvas, axis, omega.low, omega.high, canvas.colors.omega)
    canvas.dots(points, canvas.colors.omega, dot_radius(axis))
    legend(canvas, box, [("omega", canvas.colors.omega)])


def step_labels(canvas: Canvas, box: Box, run: Run) -> None:
    """Grid point numbers under the last panel, thinned out where they would touch."""
    colors, u, count = canvas.colors, canvas.unit, len(run.steps)
    axis = Axis(box, 0, 1, count)
    first = {step["step"]: i for i, step in reversed(list(enumerate(run.steps)))}
    room = 1.6 * canvas.width(str(max(first)), 14) / (box[2] - box[0]) * len(first)
    every = next((n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n >= room), 1000)
    for number, i in first.items():  # samplers that evaluate twice a step: at the first one
        if number % every == 0:
            canvas.text((axis.x(i), box[3] + 6 * u), str(number), colors.dim, 14, "ma")
    calls = f", {count} evaluations" if count != len(first) else ""
    middle = (box[0] + box[2]) / 2
    canvas.text((middle, box[3] + 24 * u), f"step{calls}", colors.dim, 14, "ma")


def whiskers(
    canvas: Canvas, axis: Axis, low: Sequence[float], high: Sequence[float], color: str
) -> None:
    """Min to max over the batch, where they differ."""
    cap = min(6 * canvas.unit, 0.2 * (axis.box[2] - axis.box[0]) / axis.count)
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        x, top, bottom = axis.x(i), axis.y(b), axis.y(a)
        if bottom - top < 1:  # pixel
            continue
        canvas.line([(x, top), (x, bottom)], color, 1.5)
        for y in (top, bottom):
            canvas.line([(x - cap, y), (x + cap, y)], color, 1.5)


def bar(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def dot_radius(axis: Axis) -> float:
    """Smaller where many evaluations share the width."""
    return max(1.0, min(4.0, 60.0 / axis.count))
