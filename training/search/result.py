"""What a search leaves: the schedule as a file, its gain on held-out prompts, a plot.

outcome = judged(results, weights)                       # paired with D = 0
schedule, meta = concluded(schedule, outcome, meta_of(backbone, images))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...tpm.schedule import Schedule
from ...tpm.schedule_file import ScheduleMeta
from ..backbones import Backbone
from ..evaluation.figures import canvas, save
from ..evaluation.statistics import SPREAD_MIN, difference, mean_error
from ..evaluation.tables import Result, baseline_of
from .generations import Generation, surrogate_of
from .space import Space

SURE = 2.0  # standard errors beyond which a gain is one


@dataclass(frozen=True)
class Outcome:
    """gain and error: paired with D = 0 on `count` held-out prompts; of one metric in its own unit,
    of several weighted, in standard deviations at D = 0. reward: in words."""

    gain: float
    error: float
    count: int
    reward: str

    @property
    def is_gain(self) -> bool:
        return self.gain > SURE * self.error

    def __str__(self) -> str:
        return f"{self.gain:+.4f} ± {self.error:.4f} ({self.reward}, {self.count:,} prompts)"


def judged(results: list[Result], weights: dict[str, float]) -> Outcome:
    """Of the schedule among the results of one K."""
    found = next(one for one in results if one.method.kind == "schedule")
    base = baseline_of(results, found.steps).scores.metrics
    own, names = found.scores.metrics, [name for name, weight in weights.items() if weight]
    if len(names) == 1 and weights[names[0]] > 0:
        gain, error = difference(own[names[0]], base[names[0]])
    else:
        total = sum(abs(weights[name]) for name in names)
        units = {name: max(float(base[name].std()), SPREAD_MIN) * total for name in names}
        parts = [weights[name] * (own[name] - base[name]) / units[name] for name in names]
        gain, error = mean_error(torch.stack(parts).sum(0))
    return Outcome(gain, error, len(base[names[0]]), " + ".join(names))


def meta_of(backbone: Backbone, images: int) -> ScheduleMeta:
    """Of a schedule that nobody has measured on held-out prompts yet."""
    return ScheduleMeta(
        model_family=backbone.family,
        latent_channels=backbone.latent_channels,
        guidance=backbone.guidance,
        resolution=backbone.resolution,
        base_model=backbone.base_model,
        license=backbone.license,
        images=images,
        weights_sha256=backbone.weights_sha256,
    )


def concluded(
    schedule: Schedule, outcome: Outcome, meta: ScheduleMeta
) -> tuple[Schedule, ScheduleMeta]:
    """What the file holds: the schedule where it gains, else D = 0 with that sentence in it."""
    measured = replace(meta, reward=outcome.reward, gain_n=outcome.count)
    if outcome.is_gain:
        return schedule, replace(measured, gain=outcome.gain, gain_se=outcome.error)
    flat = [0.0] * schedule.steps
    nothing = Schedule(schedule.times, tuple(flat), tuple(1.0 for _ in flat))
    note = (
        f"This schedule is D = 0: the search of {meta.images:,} images found nothing that gains "
        f"beyond {SURE:g} standard errors ({outcome})."
    )
    return nothing, replace(measured, note=note)


def plot_search(
    path: Path, space: Space, best: torch.Tensor, generations: Sequence[Generation]
) -> None:
    """Left the schedule over the flow time, right what was measured and believed, by images."""
    schedule, points = space.schedule(best), list(range(1, space.steps))
    figure, ((left, right),) = canvas(2)
    left.axhline(0, color="grey", linewidth=0.8)
    times = [schedule.times[k] for k in points]
    left.plot(times, schedule.deviation[1:], "o-", label="D", color="tab:blue")
    if space.name == "deviation_omega":
        before = list(schedule.times[:-1])
        left.plot(
            before, [w - 1 for w in schedule.omega], "s--", label="omega - 1", color="tab:orange"
        )
    left.set_xlim(1.02, -0.02)
    left.set_xlabel("flow time t (noise on the left)")
    left.set_title(f"the schedule, {space.steps} steps")
    left.legend()
    spent = 0
    for one in generations:
        spent += one.images
        means = one.means.tolist()
        right.plot([spent] * len(means), means, ".", color="tab:grey", alpha=0.6)
    believed, images, spent = [], [], 0
    for k, one in enumerate(generations, start=1):
        spent += one.images
        mean, error = surrogate_of(generations[:k]).mean_and_error(best[None])
        believed.append((float(mean), float(error)))
        images.append(spent)
    mean, error = (torch.tensor(column) for column in zip(*believed, strict=True))
    right.plot(images, mean, "-", color="tab:blue", label="the schedule, as believed by then")
    right.fill_between(images, mean - error, mean + error, color="tab:blue", alpha=0.2)
    right.axhline(0, color="grey", linewidth=0.8)
    right.set_xlabel("images")
    right.set_ylabel("gain over D = 0 (standard deviations)")
    right.set_title("candidates and what was believed")
    right.legend(loc="lower right")
    save(figure, path)
