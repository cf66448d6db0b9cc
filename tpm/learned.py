"""The learned policy: a trained TPM in the place of a constant deviation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .conditioning import deviation_of_action
from .families import family_of
from .metadata import TPMMeta
from .network import Misfit, TimestepPredictionModule, mode
from .policies import Decision, Evaluation, Policy, State, synchronous

GRID_TOLERANCE = 1e-3  # relative; schedulers of different programs agree to about 1e-6


class ActionSpace(Protocol):
    """What a TPM's actions mean; the metadata of a file and the trainer's settings both say it."""

    actions: str
    deviation_bound: float
    omega_range: tuple[float, float]


@dataclass(frozen=True, eq=False)
class TPMPolicy(Policy):
    """Asks a TPM for the deviation and/or omega of the next grid point.

    meta: what its actions mean, of a file its whole metadata. name: its file. draw: takes the
    actions r (B, actions) from the raw values (B, actions, 2); Eq. 18 unless training draws them.
    """

    module: TimestepPredictionModule
    meta: ActionSpace
    name: str = ""
    draw: Callable[[Tensor], Tensor] = mode
    learned = True

    @property
    def label(self) -> str:
        return f"TPM {self.name}".rstrip()

    @torch.no_grad()
    def decide(self, state: State) -> Decision:
        """The drawn actions as a decision; synchronous where no evaluation is left.

        Raises ValueError where the model's latents or pooled text are not those of the TPM.
        """
        if state.evaluation is None:
            return synchronous(state)
        return decision_of_action(self.act(state.evaluation, state), state, self.meta)

    def act(self, evaluation: Evaluation, state: State) -> Tensor:
        """The actions r (B, actions) at a grid point, on the device of the state. Raises ValueError
        where the answer is not finite."""
        try:
            raw = self.module.ask(evaluation, state.k, state.steps)
        except Misfit as misfit:
            raise ValueError(self.refusal(misfit, state.family)) from None
        if not bool(raw.isfinite().all()):
            raise ValueError(self.not_finite(evaluation))
        return self.draw(raw).to(state.device)

    def not_finite(self, evaluation: Evaluation) -> str:
        """One sentence for an answer from which no picture comes: whose fault it is."""
        seen = (evaluation.x, evaluation.v, evaluation.x0, evaluation.pooled)
        if not all(part is None or bool(part.isfinite().all()) for part in seen):
            return (
                f"{self.label} was shown latents or a pooled text that are not finite, expected "
                "numbers: the model itself gave them; try it with deviation_scale 0, or in fp32."
            )
        return (
            f"{self.label} answered with numbers that are not finite, expected finite ones: its "
            "weights are too large for this input; take an earlier checkpoint of that training, or "
            "another file."
        )

    def refusal(self, misfit: Misfit, family: str) -> str:
        """One sentence for the user whose model is none that the TPM can read."""
        trained = getattr(self.meta, "model_family", "another model")
        fits = "the model and its text encoders" if misfit.text else "the model"
        return (
            f"{self.label} found {misfit.found} ({family}), expected {misfit.expected}: it was "
            f"trained for {trained}; load a TPM that fits {fits}, or use Deviation."
        )


def decision_of_action(r: Tensor, state: State, space: ActionSpace) -> Decision:
    """What the actions r (B, actions) in (0, 1) mean at a grid point: D by Eq. 7 or 13, omega by
    Eq. 20 (1 on the last step: nothing after it would take the rest away) or, follow_time, t*/t."""
    decision = synchronous(state)
    deviation, omega = decision.deviation, decision.omega
    if space.actions != "omega":
        deviation = deviation_of_action(r[:, 0], space.deviation_bound)
    if space.actions in ("omega", "both") and not state.last:
        low, high = space.omega_range
        omega = low + r[:, -1] * (high - low)
    return Decision(deviation, decision.cut, omega, follow=space.actions == "follow_time")


def family_warning(meta: TPMMeta, family: str) -> str | None:
    """One sentence where a model takes the TPM by its sizes but is of another family."""
    if meta.model_family == family:
        return None
    return (
        f"The TPM was trained for {meta.model_family} and runs here on {family}, where nobody has "
        f"measured it; load a TPM for {family}, or compare its images with deviation_scale 0."
    )


def same_grid(sigmas: Sequence[float], trained: Sequence[float]) -> bool:
    return len(sigmas) == len(trained) and all(
        abs(a - b) <= GRID_TOLERANCE * b for a, b in zip(sigmas, trained, strict=True)
    )


def grid_warning(meta: TPMMeta, sigmas: Sequence[float]) -> str | None:
    """One sentence where the sampling grid (K+1,) is none that the TPM was trained on."""
    if len(sigmas) < 2:  # nothing is sampled
        return None
    if any(same_grid(sigmas, grid) for grid in (meta.sigmas, *meta.grids)):
        return None
    found, trained = (
        f"{len(g) - 1} steps (sigmas {g[0]:.4g}, {g[1]:.4g} ... {g[-2]:.4g}, {g[-1]:.4g})"
        for g in (sigmas, meta.sigmas)
    )
    return (
        f"The TPM was trained on {trained} at {meta.resolution} px and runs here on {found}; "
        f"use {meta.steps} steps and {family_of(meta.model_family).grid} for what it has learnt."
    )
