"""What a run says about itself before it starts: where its numbers come from, and its warnings."""

from __future__ import annotations

import logging

import torch

from comfy.model_patcher import ModelPatcher

from ...report.trace import Run
from ...tpm.learned import TPMPolicy, family_warning, grid_warning
from ...tpm.metadata import TPMMeta
from ...tpm.policies import Policy, Preset
from ...tpm.schedule import Schedule, schedule_warnings
from .notice import on_node
from .weights import weights_warning

ALL_NOISE = 100.0  # sigma above which next to nothing of a picture is in the latents


def source_of(policy: Policy, family: str) -> tuple[str, bool]:
    """Where the numbers come from, in words, and whether somebody measured them for the family."""
    inner = innermost(policy)
    return inner.resolve(family)[1:] if isinstance(inner, Preset) else ("", True)


def warnings_of(
    policy: Policy,
    family: str,
    model: ModelPatcher,
    grid: torch.Tensor,
    stage_sigmas: torch.Tensor,
) -> list[str]:
    """A sentence each. grid: (K+1,) the whole schedule. stage_sigmas: the part of it that the
    sampler runs."""
    inner = innermost(policy)
    warnings = [schedule_warning(grid, stage_sigmas)]
    if isinstance(inner, TPMPolicy) and isinstance(inner.meta, TPMMeta):  # of a file
        warnings += [family_warning(inner.meta, family), grid_warning(inner.meta, grid.tolist())]
        warnings.append(weights_warning("The TPM", inner.meta, family, model))
    if isinstance(inner, Schedule):
        warnings += schedule_warnings(inner, family, len(grid) - 1)
        if inner.meta is not None:
            warnings.append(weights_warning(f"The {inner.label}", inner.meta, family, model))
    return [warning for warning in warnings if warning]


def warn(record: Run, *sentences: str) -> None:
    """Into the log, onto the node, and into what the plot says of this run."""
    for sentence in sentences:
        logging.warning(sentence)
    note(record, *sentences)


def note(record: Run, *sentences: str) -> None:
    """Onto the node and into the plot; the log has them already."""
    record.warn(*sentences)
    if sentences:
        on_node(*record.warnings, node=record.node)


def innermost(policy: Policy) -> Policy:
    """What decides, below all that scales it."""
    while getattr(policy, "policy", None) is not None:
        policy = policy.policy
    return policy


def velocity_warning(record: Run) -> str | None:
    """One sentence where omega was not 1 at a sigma far above that of a usual schedule, as a model
    with zero terminal SNR has it at its first step: a tenth of sigma 4519 that a step leaves is
    more noise than the next ones, at 18 and below, can take away."""
    found = [(omega, s["sigma"]) for s in record.steps for omega in s["omega"] if omega != 1]
    found = [(omega, sigma) for omega, sigma in found if sigma > ALL_NOISE]
    if not found:
        return None
    omega, sigma = found[0]
    return (
        f"Async Timestep used omega {omega:.3g} at sigma {sigma:.4g}, where the latents are all "
        "noise, and no later step makes good what that leaves; raise start_percent to 0.05."
    )


def stage_note(stage_sigmas: torch.Tensor, noise: torch.Tensor) -> str | None:
    """One sentence where a sampler goes on from another one, and nobody said with which schedule.
    stage_sigmas: (N+1,) its own. noise: (B, C, ...) what was added at its start."""
    if len(stage_sigmas) <= 2 or bool(noise.any()):
        return None
    return (
        "Async Timestep left the first step of this sampler as it is: it goes on from another one "
        "(no noise is added), and the step before is not known; connect all SIGMAS of both to "
        "Async Timestep (model patch), or use Async Timestep KSampler (Advanced)."
    )


def schedule_warning(grid: torch.Tensor, stage_sigmas: torch.Tensor) -> str | None:
    """One sentence where the sampler's nodes are no part of the whole schedule. Its last one does
    not count: a stage that removes its noise ends at 0 wherever it stops."""
    if grid is stage_sigmas or len(stage_sigmas) < 2:
        return None
    rising, nodes = grid.flip(0), stage_sigmas[:-1]
    above = torch.searchsorted(rising, nodes.contiguous()).clamp(1, len(rising) - 1)
    gaps = torch.minimum((rising[above] - nodes).abs(), (rising[above - 1] - nodes).abs())
    foreign = nodes[gaps > 1e-3 * nodes]
    if len(foreign) == 0:
        return None
    return (
        f"The sampler runs at sigma {float(foreign[0]):.4g}, which is not in the sigmas that are "
        "connected to Async Timestep; connect the SIGMAS that this sampler gets, before they are "
        "split."
    )
