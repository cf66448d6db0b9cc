"""The learned policy: a trained TPM in the place of a constant deviation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .conditioning import deviation_of_action
from .metadata import TPMMeta
from .network import TimestepPredictionModule, mode
from .policies import Decision, Evaluation, Policy, State, synchronous

GRID_TOLERANCE = 1e-3  # relative; schedulers of different programs agree to about 1e-6
GRID_OF_FAMILY = {  # what gives the training grid in ComfyUI
    "sd35_medium": "scheduler normal",
    "flux1_dev": "scheduler simple with ModelSamplingFlux at shift 0.63 (512 px)",
    "tiny": "scheduler simple with shift 3",
}


@dataclass(frozen=True, eq=False)
class TPMPolicy(Policy):
    """Asks a TPM for the deviation and/or omega of the next grid point; `name`: its file."""

    module: TimestepPredictionModule
    meta: TPMMeta
    name: str = ""
    learned = True

    @property
    def label(self) -> str:
        return f"TPM {self.name}".rstrip()

    @torch.no_grad()
    def decide(self, state: State) -> Decision:
        """Eq. 18 in the place of the draw of Eq. 7; synchronous where no evaluation is left.

        Raises ValueError where the model's latents or pooled text are not those of the TPM.
        """
        evaluation = state.evaluation
        if evaluation is None:
            return synchronous(state)
        pooled = self.checked_pooled(evaluation, state.family)
        device = evaluation.x.device
        raw = self.module.to(device)(
            evaluation.x,
            evaluation.v,
            evaluation.x0,
            pooled.to(device),
            evaluation.t.to(device),
            evaluation.t_star.to(device),
            state.k,
            state.steps,
        )
        r = mode(raw).to(state.device)
        return decision_of_action(
            r, state, self.meta.actions, self.meta.deviation_bound, self.meta.omega_range
        )

    def checked_pooled(self, evaluation: Evaluation, family: str) -> torch.Tensor:
        """Pooled text (B, pooled_dim), repeated over the batch as ComfyUI does it."""
        wanted = f"it was trained for {self.meta.model_family}; load a TPM that fits the model"
        channels, pooled = self.meta.latent_channels, evaluation.pooled
        if evaluation.x.ndim != 4 or evaluation.x.shape[1] != channels:
            raise ValueError(
                f"{self.label} found latents of shape {list(evaluation.x.shape)} ({family}), "
                f"expected {channels} channels and two image axes: {wanted}, or use Deviation."
            )
        wrong = pooled is None or pooled.ndim != 2 or pooled.shape[1] != self.meta.pooled_dim
        if wrong or len(pooled) == 0:
            found = "no pooled text" if pooled is None else f"pooled text {list(pooled.shape)}"
            raise ValueError(
                f"{self.label} found {found} ({family}), expected {self.meta.pooled_dim} values a "
                f"prompt: {wanted} and its text encoders, or use Deviation."
            )
        batch = len(evaluation.x)
        return pooled.repeat(-(-batch // len(pooled)), 1)[:batch]


def decision_of_action(
    r: torch.Tensor,
    state: State,
    actions: str,
    bound: float,
    omega_range: tuple[float, float],
) -> Decision:
    """What the actions r (B, actions) in (0, 1) mean at a grid point: D by Eq. 7 or 13, omega by
    Eq. 20 (1 on the last step: nothing after it would take the rest away) or, follow_time, t*/t."""
    decision = synchronous(state)
    deviation, omega = decision.deviation, decision.omega
    if actions != "omega":
        deviation = deviation_of_action(r[:, 0], bound)
    if actions in ("omega", "both") and not state.last:
        low, high = omega_range
        omega = low + r[:, -1] * (high - low)
    return Decision(deviation, decision.cut, omega, follow=actions == "follow_time")


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
        f"use {meta.steps} steps and {GRID_OF_FAMILY.get(meta.model_family, 'its scheduler')} for "
        "what it has learnt."
    )
