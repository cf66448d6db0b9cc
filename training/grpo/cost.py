"""What a run will take, from one small rollout: pure arithmetic for `--dry_run`.

    print(table(estimate(config, record["seconds"], images=2, steps=15), price_per_hour=3.5))

Measured: the seconds of each phase of one iteration of a few images. Extrapolated: all else, in
proportion to images, steps and prompts. Larger batches use a GPU better, so the true time is
usually below; loading, downloads and compilation are not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..data.prompts import PAPER_COCO
from ..run.config import Config

# counted in full: encode by prompts, tpm and update by decisions, the rest by images
PHASES = ("encode", "denoise", "tpm", "decode", "score", "update")
ALL_PROMPTS = {"coco": 202_654, "t2i": 2_400}  # of the validation splits


@dataclass(frozen=True)
class Estimate:
    """Seconds, unless a name says otherwise. evaluation_*: None where the prompts are not known."""

    measured: dict[str, float]  # phase -> seconds of the small rollout
    images: int  # of it, on each rank
    steps: int  # of it
    ranks: int
    iteration: dict[str, float]  # phase -> seconds of a full iteration
    validations: int  # in the whole run, counting the baseline as one
    validation: float  # of one
    training_hours: float
    evaluation_prompts: int | None
    evaluation_hours: float | None  # of one configuration: one TPM, one gamma or one fixed D

    @property
    def iteration_seconds(self) -> float:
        return sum(self.iteration.values())


def estimate(
    config: Config, seconds: dict[str, float], images: int, steps: int, ranks: int = 1
) -> Estimate:
    """Scales one small rollout up to `config`.

    seconds: phase -> seconds of one iteration of one prompt with `images` images on each of
    `ranks` ranks at `steps` steps. Raises ValueError on a phase that is missing or not a time.
    """
    for phase in PHASES:
        value = seconds.get(phase, math.nan)
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"The phase {phase} took {value} seconds, expected a number from 0.")
    if images < 1 or steps < 2 or ranks < 1:
        raise ValueError(
            f"The rollout had {images} images, {steps} steps and {ranks} ranks, expected at least "
            "1, 2 and 1."
        )
    grpo, every = config.grpo, mean_steps(config)
    one = per_image(seconds, images, steps, every)
    # images of one rank
    share = math.ceil(grpo.prompts_per_iteration * grpo.num_generations / ranks)
    iteration = {
        "encode": seconds["encode"] * grpo.prompts_per_iteration,
        **{phase: one[phase] * share for phase in ("denoise", "tpm", "decode", "score")},
        # rank 0 updates on the images of all
        "update": one["update"] * grpo.prompts_per_iteration * grpo.num_generations / ranks,
    }
    sampled = sum(one[phase] for phase in ("denoise", "tpm", "decode", "score"))
    sampled += seconds["encode"]  # every prompt has one image
    validations = count_validations(config)
    validation = sampled * math.ceil(config.data.validation_prompts / ranks)
    grids = config.iterations // config.log.samples_every if config.log.samples_every else 0
    total = config.iterations * sum(iteration.values()) + validations * validation
    total += grids * 2 * config.log.samples * sampled
    prompts = evaluation_count(config)
    return Estimate(
        measured={phase: seconds[phase] for phase in PHASES},
        images=images,
        steps=steps,
        ranks=ranks,
        iteration=iteration,
        validations=validations,
        validation=validation,
        training_hours=total / 3600,
        evaluation_prompts=prompts,
        evaluation_hours=None if prompts is None else prompts * sampled / 3600,
    )


def finite_price(price_per_hour: float) -> float:
    """Raises ValueError on what is no price."""
    if not (math.isfinite(price_per_hour) and price_per_hour >= 0):
        raise ValueError(
            f"--price_per_hour is {price_per_hour}, expected a number from 0 in your currency; 0 "
            "leaves the costs out."
        )
    return price_per_hour


def mean_steps(config: Config) -> float:
    return sum(config.step_counts) / len(config.step_counts)


def per_image(
    seconds: dict[str, float], images: int, steps: int, wanted: float
) -> dict[str, float]:
    """Seconds of one image at `wanted` steps, by phase; there is one decision less than steps."""
    decisions = (wanted - 1) / (steps - 1)
    scale = {"denoise": wanted / steps, "tpm": decisions, "update": decisions}
    return {
        phase: seconds[phase] / images * scale.get(phase, 1.0)
        for phase in PHASES
        if phase != "encode"
    }


def count_validations(config: Config) -> int:
    """At iteration 0, every validate_every, and at the end; and the baseline, once."""
    every, last = config.log.validate_every, config.iterations
    if not every or not config.data.validation_prompts:
        return 0
    return len({0, last, *range(0, last, every)}) + 1


def evaluation_count(config: Config) -> int | None:
    """Prompts of evaluate.py; None for all of files that were not read."""
    which, count = config.data.set, config.data.evaluation_prompts
    if which == "t2i" and count in (0, PAPER_COCO):
        return ALL_PROMPTS["t2i"]
    return count or ALL_PROMPTS.get(which)


def table(estimate: Estimate, price_per_hour: float = 0.0) -> str:
    """Text of a few lines. price_per_hour: of all ranks together, in any currency; 0 leaves the
    costs out."""
    small = f"{estimate.images} images, {estimate.steps} steps"
    small += f", each of {estimate.ranks} ranks" if estimate.ranks > 1 else ""
    lines = [f"{'phase':10} {'measured':>12} {'an iteration':>14}   seconds"]
    for phase in PHASES:
        lines.append(
            f"{phase:10} {estimate.measured[phase]:12.3f} {estimate.iteration[phase]:14.3f}"
        )
    lines.append(
        f"{'all':10} {sum(estimate.measured.values()):12.3f} {estimate.iteration_seconds:14.3f}"
    )
    rows = [("training", estimate.training_hours)]
    if estimate.evaluation_hours is not None:
        name = f"evaluation of one configuration, {estimate.evaluation_prompts:,} prompts"
        rows.append((name, estimate.evaluation_hours))
    for name, hours in rows:
        cost = f", costs {hours * price_per_hour:.2f}" if price_per_hour else ""
        lines.append(f"{name}: {span(hours)}{cost}")
    if estimate.evaluation_hours is None:
        lines.append("evaluation: not known, data.evaluation_prompts is 0 (all)")
    lines.append(f"{estimate.validations} validations of {estimate.validation:.1f} s are in it.")
    lines.append(
        f"Measured: one rollout ({small}). Extrapolated in proportion: all else; larger batches "
        "are faster, loading and compilation are not in it."
    )
    return "\n".join(lines)


def span(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
