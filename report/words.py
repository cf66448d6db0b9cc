"""A run in words: for the plot, for its text, and for the line on a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .trace import Run

STRENGTHS = (("light", 3.0), ("medium", 8.0), ("strong", 20.0))  # a word, up to a cut in percent
STRONG = 8.0
NOTHING = (
    "off: nothing was recorded (the patch is bypassed, the sampler had no steps, or it has not run "
    "yet: connect its latent to 'after')"
)


def line(run: Run) -> str:
    """One line for the node: what was done, on which steps, or why nothing was."""
    if not run.steps or run.off:
        return f"off: {run.why_off if run.steps else run.why_empty}"
    if run.asyndm:
        return in_words(run)
    moved = run.moved_steps()
    last, total = max(step["step"] for step in run.steps) + 1, len(run.sigmas) - 1
    words = []
    if moved:
        kind = "detail" if run.mean_amount() >= 0 else "smoothing"
        where = steps_in_words(moved, max(total, last))
        words.append(f"{kind} {run.mean_amount(moved):+.2f} {where}, {strength(run)}")
    omega = run.values("omega")
    if any(o != 1 for o in omega):
        words.append(f"omega {min(omega):.3g} to {max(omega):.3g}")
    if not run.tuned:
        words.append("untuned for this model")
    return ", ".join(words)


def summary(run: Run) -> str:
    """One or two lines for a person."""
    lines = []
    if not run.steps:
        lines.append(f"{run.label}: off, {run.why_empty}")
    elif run.off:
        lines.append(f"{run.label}: off, t* = t in {counted(len(run.steps))} ({run.why_off})")
    else:
        lines.append(f"{run.label}: {counted(len(run.steps))}, {in_words(run)}")
    if run.lost:
        lines.append(f"  {run.lost} numbers are not finite and are left out")
    if run.remark:
        lines.append(f"  {run.remark}")
    return "\n".join(lines)


def in_words(run: Run) -> str:
    """Deviation, omega and cut of a run that is not off."""
    if run.asyndm:
        most = max(run.values("amount"), default=0.0)
        of = f" of {run.images} images" if run.images > 1 else ""
        return f"pixels{of} {run.mean_amount():.2f} steps behind, {most:.2f} at most"
    words = f"mean D {run.mean_amount():+.3f}"
    omega = run.values("omega")
    if any(o != 1 for o in omega):
        words += f", omega {min(omega):.3g} to {max(omega):.3g}"
    return f"{words}, {cut_in_words(run)}" if run.moved else words


def strength(run: Run) -> str:
    """In a word and a number."""
    cut = run.mid_cut()
    word = next((word for word, most in STRENGTHS if abs(cut) < most), "very strong")
    return f"strength {cut:.1f} % ({word})"


def cut_in_words(run: Run) -> str:
    """The strength in the middle of the run, and what to do where it is much."""
    words = strength(run)
    if run.of_map:
        most = max(run.values("cut_percent"), key=abs, default=0.0)
        over = f"{run.images} pictures" if run.images > 1 else "the picture"
        words += f", mean over {over}; {most:.1f} % at its strongest"
    if abs(run.mid_cut()) >= STRONG:
        words += "; if there is grain, halve deviation_scale or end at 0.9"
    return words


def steps_in_words(at: Sequence[int], total: int) -> str:
    """Of grid points from 0: on step 2 of 4; on steps 2 to 4 of 4; on 2 of 4 steps."""
    if len(at) == 1:
        return f"on step {at[0] + 1} of {total}"
    if at[-1] - at[0] == len(at) - 1:
        return f"on steps {at[0] + 1} to {at[-1] + 1} of {total}"
    return f"on {len(at)} of {total} steps"


def counted(evaluations: int) -> str:
    return "1 evaluation" if evaluations == 1 else f"{evaluations} evaluations"
