"""The plot of a trace: the time the sampler integrates with, and the time the network is told."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .canvas import DARK, LIGHT, Box, Canvas
from .mask_pictures import HEIGHT, draw_masks
from .panels import draw_deviation, draw_omega, draw_times, series, step_labels
from .trace import Run, Trace, stages_of
from .words import cut_in_words

WIDTH = 768
REMARK_LINES = 3
LEFT, RIGHT, HEADING, FOOT = 46, 50, 23, 36  # of the panels, at the canvas's reference width
UPPER, LOWER, THIRD = 116, 116, 66  # heights of the panels where the size is free


def plot_trace(
    trace: Trace | None, size: tuple[int, int] | None = None, dark: bool = True
) -> torch.Tensor:
    """The last run as an image (1, H, W, 3) in [0, 1]; size = (W, H) in pixels, None for 768 wide
    and as high as the panels need.

    Above: sigma, and the sigma whose time the network was told. Below: the deviation (bars, and a
    band from min to max over the batch or the pixels) and the cut of sigma in percent; omega of
    Eq. 19 where it is not 1; the masks of a region. Stages of one schedule are drawn as one run.
    Without a trace, or where nothing was changed, it says "off".
    """
    runs = trace.runs if trace else []
    run, stages = stages_of(runs) if runs else (None, 1)
    canvas = Canvas(size or (WIDTH, natural_height(run)), DARK if dark else LIGHT)
    u, (width, height) = canvas.unit, canvas.size
    if run is None or not run.steps:
        text = run.why_empty if run else "no trace: the node is bypassed, or has not run yet"
        top = title(canvas, run, corner_of(run, stages, len(runs))) if run else 12 * u
        box = (12 * u, top, width - 12 * u, height - 12 * u)
        canvas.box(box, canvas.colors.panel)
        say_off(canvas, box, text)
        return canvas.tensor()

    strip = HEIGHT * u if run.masks else 0
    top = title(canvas, run, corner_of(run, stages, len(runs)))
    bottom = height - FOOT * u - strip
    heights = panel_heights(run)
    free = bottom - top - HEADING * u * len(heights)
    boxes = []
    for share in heights:
        top += HEADING * u
        boxes.append((LEFT * u, top, width - RIGHT * u, top + share / sum(heights) * free))
        top = boxes[-1][3]

    draw_times(canvas, boxes[0], run)
    if run.off:
        canvas.box(boxes[1], canvas.colors.panel)
        say_off(canvas, boxes[1], run.why_off)
    elif run.moved:
        draw_deviation(canvas, boxes[1], run)
    if THIRD in heights:
        draw_omega(canvas, boxes[-1], series(run, "omega"))
    step_labels(canvas, boxes[-1], run)
    if run.masks:
        draw_masks(canvas, (LEFT * u, height - strip, width - RIGHT * u, height - 4 * u), run)
    return canvas.tensor()


def panel_heights(run: Run) -> list[int]:
    """Times; the deviation, or that nothing was changed; omega."""
    with_omega = any(value != 1 for value in run.values("omega"))
    return [UPPER] + [LOWER] * (run.moved or run.off) + [THIRD] * with_omega


def natural_height(run: Run | None) -> int:
    """Pixels that a plot of WIDTH needs so that nothing is squeezed."""
    heights = panel_heights(run) if run and run.steps else [UPPER, LOWER]
    lines = 0
    if run:
        measure = Canvas((WIDTH, 1), DARK)
        room = WIDTH - (24 if run.tuned else 80) * measure.unit
        lines = len(notes(measure, run, room)) + (run.lost > 0)
    whole = 33 + 16 * lines + sum(heights) + HEADING * len(heights) + FOOT
    whole += HEIGHT if run and run.masks else 0
    return round(whole * Canvas.unit_of(WIDTH))


def corner_of(run: Run | None, stages: int, total: int) -> str:
    """Family, and which of a trace's runs is drawn."""
    parts = [run.family] if run else []
    if stages > 1:
        parts.append(f"{stages} stages")
    if total > stages:
        parts.append(f"run {total} of {total}")
    return " · ".join(parts)


def title(canvas: Canvas, run: Run, corner: str) -> float:
    """Label, corner, what the run says of itself. Returns the y where the panels may begin."""
    u, colors = canvas.unit, canvas.colors
    left, right, y = 12 * u, canvas.size[0] - 12 * u, 9 * u
    canvas.text((right, y + 3 * u), corner, colors.dim, 12, "ra")
    room = right - left - canvas.width(corner, 12) - 12 * u
    canvas.text((left, y), "".join(canvas.wrap(run.label, 16, room, 1)), colors.text, 16)
    y += 23 * u
    indent = 0.0
    if not run.tuned:
        tag = canvas.width("untuned", 12) + 12 * u
        canvas.box((left, y - 2 * u, left + tag, y + 16 * u), colors.warn, 4)
        canvas.text((left + tag / 2, y + 7 * u), "untuned", colors.ground, 12, "mm")
        indent = tag + 8 * u
    lost = f"{run.lost} numbers are not finite and are left out" if run.lost else ""
    if lost:
        canvas.text((left + indent, y), lost, colors.warn, 12)
        y += 16 * u
    for line in notes(canvas, run, right - left - indent):
        canvas.text((left + indent, y), line, colors.dim, 12)
        y += 16 * u
    return y + 1 * u


def notes(canvas: Canvas, run: Run, room: float) -> list[str]:
    """Source and warnings, then the cut in the words of those who know Detail Daemon; in lines."""
    lines = canvas.wrap(run.said, 12, room, REMARK_LINES)
    if run.moved and not run.asyndm:
        most = 2 if canvas.size[0] >= 512 else 1  # a small plot keeps its height for the lines
        lines += canvas.wrap(cut_in_words(run), 12, room, most)
    return lines


def say_off(canvas: Canvas, box: Box, reason: str) -> None:
    """The word "off", large, and why."""
    middle, height = (box[0] + box[2]) / 2, box[3] - box[1]
    large = min(72.0, 0.45 * height / canvas.unit)
    center = box[1] + 0.42 * height
    canvas.text((middle, center), "off", canvas.colors.text, large, "mm")
    room = box[2] - box[0] - 16 * canvas.unit
    for n, line in enumerate(canvas.wrap(reason, 13, room, 2)):
        y = center + (0.8 * large + 16 * n) * canvas.unit
        canvas.text((middle, y), line, canvas.colors.dim, 13, "mm")


def words_card(lines: Sequence[str]) -> torch.Tensor:
    """Lines of text as an image (1, H, 512, 3) in [0, 1], for nodes whose words the editor does not
    show."""
    unit = Canvas.unit_of(512)
    canvas = Canvas((512, round((24 + 30 * len(lines)) * unit)), DARK)
    for n, line in enumerate(lines):
        canvas.text((14 * unit, (12 + 30 * n) * unit), line, canvas.colors.text, 20)
    return canvas.tensor()
