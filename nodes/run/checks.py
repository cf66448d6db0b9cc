"""What is refused whichever node it comes through: one sentence each."""

from __future__ import annotations

import math


def require_finite(**numbers: float) -> None:
    """Raises ValueError on NaN and infinity: the host's own limits let them through."""
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value}, expected a finite number; type one, or take off the node that "
                "computes it."
            )


def require_picture(latent) -> None:
    """Raises ValueError on a latent (B, C, ...) without an image or without a pixel."""
    if 0 in latent.shape:
        raise ValueError(
            f"The latent has the shape {list(latent.shape)}, in which there is no picture, "
            "expected one image or more of one pixel or more; look for the node that left none."
        )
