"""What is refused whichever node it comes through: one sentence each."""

from __future__ import annotations

import math

LARGEST = 1000.0  # of a number of ours: widgets end at 4, and float32 does not hold 1e300


def require_finite(**numbers: object) -> None:
    """Raises ValueError on NaN, infinity, what float32 makes infinite, and what is no number: the
    host's own limits let NaN through, and hold for no input that a node is connected to."""
    for name, value in numbers.items():
        if not in_range(value):
            finite = is_finite(value)
            wanted = f"number from {-LARGEST:,.0f} to {LARGEST:,.0f}" if finite else "finite number"
            raise ValueError(
                f"{name} is {short(value)}, expected a {wanted}; type one, or take off the node "
                "that computes it."
            )


def in_range(value: object) -> bool:
    return is_finite(value) and abs(float(value)) <= LARGEST


def is_finite(value: object) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def short(value: object) -> str:
    """A value for a sentence, on one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def require_kind(name: str, value: object, kind: type, makers: str) -> None:
    """Raises ValueError on what no wire of ours carries: a script may send anything in its place.
    None is not connected. makers: the nodes that make such a thing."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(
            f"{name} is {short(value)}, expected what {makers} gives; connect one, or leave it out."
        )


def require_guidance(guider) -> None:
    """Raises ValueError on a guider whose scales are not finite: its picture would be black."""
    scales = {name: getattr(guider, name, 1.0) for name in ("cfg", "cfg1", "cfg2")}
    require_finite(**{name: value for name, value in scales.items() if value is not None})


def require_picture(latent) -> None:
    """Raises ValueError on a latent (B, C, ...) without an image or without a pixel."""
    if 0 in latent.shape:
        raise ValueError(
            f"The latent has the shape {list(latent.shape)}, in which there is no picture, "
            "expected one image or more of one pixel or more; look for the node that left none."
        )
