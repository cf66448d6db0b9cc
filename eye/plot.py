"""The schedule that a search would pick now, and what else it holds for possible."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..report.canvas import DARK, Box, Canvas
from ..report.panels import Axis, bar, legend, panel
from ..report.sheets import picture_of
from . import shapes, taste
from .session import Session

SIZE = (400, 176)
DRAWS, EDGES = 200, (0.1, 0.9)  # of the belief; between which shares of them the band goes
BARS_MOST = 12  # deviations that are bars; more are a line


def plot(session: Session) -> Image.Image:
    """D over the steps: the pick as bars or a line, and a band that holds 80 % of what the belief
    would pick if it were sure."""
    canvas = Canvas(SIZE, DARK)
    u, (width, height) = canvas.unit, canvas.size
    box: Box = (44 * u, 30 * u, width - 12 * u, height - 30 * u)
    steps = len(session.times) - 1 if session.times else session.steps
    best, low, high = curves(session, steps)
    bottom, top = min(-0.05, *low, *best) * 1.1, max(0.2, *high, *best) * 1.1
    axis = Axis(box, bottom, top, steps - 1)
    panel(canvas, axis, [tick for tick in (-0.5, 0.0, 0.5, 1.0) if axis.low <= tick <= axis.high])
    colors, half = canvas.colors, 0.3 * (box[2] - box[0]) / axis.count
    for k in range(axis.count):
        x, edges = axis.x(k), sorted((axis.y(low[k]), axis.y(high[k])))
        canvas.shade(bar(x - half, edges[0], x + half, edges[1]), colors.told, 0.28)
        canvas.line([(x - half, axis.y(best[k])), (x + half, axis.y(best[k]))], colors.told, 3)
    canvas.line([(box[0], axis.y(0)), (box[2], axis.y(0))], colors.dim, 1.2)
    every = max(1, -(-axis.count // BARS_MOST))
    for k in range(0, axis.count, every):
        canvas.text((axis.x(k), box[3] + 4 * u), str(k + 2), colors.dim, 12, "ma")
    canvas.text((box[0] - 6 * u, box[3] + 4 * u), "step", colors.dim, 12, "ra")
    legend(canvas, box, [("what it would pick now", colors.told), ("possible", colors.band)])
    return picture_of(canvas.tensor()[0].movedim(-1, 0))


def curves(session: Session, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K-1,) each: the pick, and the lower and upper edge of the band."""
    now, rng = session.belief(), np.random.default_rng(0)
    drawn = [shapes.deviations(own, steps) for own in taste.likely(now, DRAWS, rng)]
    low, high = np.quantile(np.array(drawn), EDGES, axis=0)
    return np.array(shapes.deviations(taste.best(now), steps)), low, high
