"""A deviation that differs from pixel to pixel: D times the region's weight."""

from __future__ import annotations

import torch

from ...tpm.policies import Decision


def as_scalars_where_uniform(weight: torch.Tensor) -> torch.Tensor:
    """(B,) where every image has one weight, else the map (B, 1, ...) as it came: what is uniform
    goes the scalar way, bit for bit."""
    flat = weight.flatten(1)
    return flat[:, 0] if bool((flat == flat[:, :1]).all()) else weight


def weighted(decision: Decision, weight: torch.Tensor) -> Decision:
    """The decision where a region has `weight`, (B,) or (B, 1, ...): deviation and cut are
    multiplied, omega goes to 1 as the weight goes to 0."""
    shape = (-1, *[1] * (weight.ndim - 1))
    deviation, cut, omega = (
        part.to(weight.device).view(shape)
        for part in (decision.deviation, decision.cut, decision.omega)
    )
    partly = torch.where(weight == 1, omega.expand_as(weight), 1 + (omega - 1) * weight)
    return Decision(deviation * weight, cut * weight, partly, decision.follow)


def expand_to(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(B,) with trailing axes of 1, to stand beside `other` (B, ...)."""
    return value.view(-1, *[1] * (other.ndim - 1)).expand(other.shape)


def per_sample_or_map(values: torch.Tensor) -> list[float]:
    """What a trace keeps: one value per sample of (B,), and of a map (B, 1, ...) the smallest, the
    mean and the largest over all its pixels."""
    if values.ndim == 1:
        return values.tolist()
    return [float(values.min()), float(values.mean()), float(values.max())]
