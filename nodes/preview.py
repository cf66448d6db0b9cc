"""What the Deviation node draws in itself before anything runs: the deviation over the steps.

    preview(steps=20, preset="custom", deviation=0.5)["low"]       [0.0, 0.5, 0.5, ...], one a step

The numbers are the sampler's own: the policy of the node, asked step by step as in a run, on a flow
model whose noise falls evenly. There the share of the noise that is gone is the share of the
sampling, as the scheduler simple has it on every flow model.
"""

from __future__ import annotations

import json

import torch

from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow

from ..report.trace import Run
from ..report.words import steps_in_words
from ..tpm.conditioning import PERCENT_UNIT
from ..tpm.detail_daemon import NAME as DETAIL_DAEMON
from ..tpm.families import PRESETS, UNTUNED, family_of
from ..tpm.metadata import shown
from ..tpm.policies import MODES, UNITS
from .deviation import deviation_policy
from .inputs import PRESET_NAMES, VARIANCE_MATCH
from .run.checks import require_finite
from .run.state import RunState
from .run.times import ModelTime

EXAMPLE = 20  # steps, where the node's sampler is not known
MOST_STEPS = 100
MOST_BYTES = 100_000  # of a question
CHOICES = {"preset": [*PRESET_NAMES, DETAIL_DAEMON], "unit": UNITS, "mode": MODES}
MAYBE = {"steps", "denoise", "curve"}
NUMBERS = ("deviation", "start_percent", "end_percent")


class EvenFlow(ModelSamplingDiscreteFlow, CONST):
    """A flow model's times without a shift."""


def answer(question: bytes) -> dict:
    """`preview` of a JSON object with the node's values and perhaps `steps` and `denoise` of its
    sampler; {"problem": a sentence} where there is nothing to draw."""
    try:
        return preview(**checked(question))
    except ValueError as problem:
        return {"problem": str(problem)}


def checked(question: bytes) -> dict:
    """Raises ValueError on what no node of ours asks; numbers and the curve are the policy's."""
    try:
        asked = json.loads(question) if len(question) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        asked = None
    known = {*CHOICES, *NUMBERS}
    if not isinstance(asked, dict) or not known <= asked.keys() <= known | MAYBE:
        raise ValueError(
            f"The question for a preview is {shown(question[:100])}, expected a JSON object with "
            f"{', '.join(sorted(known))} and perhaps {', '.join(sorted(MAYBE))}; reload the page."
        )
    for name, values in CHOICES.items():
        if asked[name] not in list(values):
            raise ValueError(
                f"{name} is {shown(asked[name])}, expected one of {', '.join(values)}."
            )
    return asked


def grid_of(steps: int, denoise: float) -> torch.Tensor:
    """(K+1,) sigmas as a sampler with this denoise has them: the end of a longer schedule."""
    if type(steps) is not int or not 1 <= steps <= MOST_STEPS:
        raise ValueError(
            f"No preview: the sampler has steps {shown(steps)}, and one of 1 to {MOST_STEPS} steps "
            "is drawn; the run itself takes any number."
        )
    require_finite(denoise=denoise)
    if not 0.01 <= denoise <= 1:
        raise ValueError(
            f"No preview: the sampler has denoise {denoise:g}, from 0.01 to 1 is drawn."
        )
    return torch.linspace(1, 0, int(steps / denoise) + 1)[-(steps + 1) :]


def preview(steps: int | None = None, denoise: float = 1.0, **values) -> dict:
    """steps, denoise: of the sampler, an example where nobody knows them. values: of
    `deviation_policy`. low, high: (K,) the D of each step in the node's own unit; they differ where
    the image decides. peak: the one of the largest size, and `at` the first step k that has it.
    text, note: about them, for a person. Raises ValueError."""
    policy = deviation_policy(**values)
    grid = grid_of(EXAMPLE if steps is None else steps, denoise)
    nodes = grid.tolist()
    run = RunState(policy, "", grid, nodes, nodes, Run(policy.label, "", nodes))
    run.time = ModelTime(EvenFlow())
    # two images, one without any variance, one with far too much: a policy that measures the noise
    # which is left gives its two extremes for them, all others twice the same
    extremes = torch.tensor([[0.0, 0.0], [-1e3, 1e3]])
    for sigma in grid[:-1]:
        k, u = run.locate(sigma.expand(2))
        decision = run.decide(k, sigma.expand(2), extremes)
        run.record(run.step(k, sigma.expand(2), u, decision))
    amounts = run.written.lists("amount")
    low, high = [min(pair) for pair in amounts], [max(pair) for pair in amounts]
    at = max(range(len(low)), key=lambda k: max(abs(low[k]), abs(high[k])))
    peak = max(high[at], low[at], key=abs)
    percent = any(any(step["percent"]) for step in run.written.steps)
    return {
        "steps": len(low),
        "low": low,
        "high": high,
        "peak": peak,
        "at": at,
        "text": in_words(run.written, peak, at, low, high, percent),
        "note": note(steps is None, **values),
    }


def in_words(run: Run, peak: float, at: int, low, high, percent: bool) -> str:
    """One line on what comes out."""
    if run.off:
        return f"off: {run.why_off}"
    moved, total = run.moved_steps(), len(low)
    where = steps_in_words(moved, total)
    if low != high:
        return f"what fits each image, at most ±{abs(peak):.2f} {where}"
    size = f"{peak:+.2f}"
    if percent:
        size += f" ({abs(peak) * 100 * PERCENT_UNIT:.3g} % of the time)"
    if any(low[k] != peak for k in moved):
        return f"peak {size} at step {at + 1} of {total}"
    return f"{'detail' if peak > 0 else 'smoothing'} {size} {where}"


def note(example: bool, preset: str = "auto", mode: str = "conditioning", **_) -> str:
    """What the numbers do not show."""
    said = []
    if preset == "auto":
        tuned = ", ".join(f"{name} {family_of(name).preset:+g}" for name in PRESETS)
        said.append(f"auto: by the model; {tuned}; untuned ones, drawn: {UNTUNED:+g}, last step 0")
    elif preset == VARIANCE_MATCH:
        said.append("measured in the run, while the image is more than half noise")
    if mode == "follow_time":
        said.append("each step is shortened by it too")
    if example:
        said.append(f"{EXAMPLE} steps as an example")
    return "; ".join(said)
