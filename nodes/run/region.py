"""Where a method acts: a region, its masks on a latent, and what is said of masks that do nothing.

What happens to a region in a sampling run is in `tracker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from comfy.utils import reshape_mask

from ...maps.masks import grown_then_inverted, mean_per_token

MODES = ("words", "mask", "all")
ASPECT_SLACK = 1.1  # a mask whose aspect differs more than by this was made for another crop
WHITE_SLACK = 1.5


@dataclass(frozen=True)
class Region:
    """Where a method acts: what the AsynDM Region Mask node hands on.

    mode: words (cross-attention), mask (the user's), all (everywhere: the paper's concave
    ablation). mask: (H, W), (B, H, W) or (B, 1, H, W) in [0, 1], of a video (T, H, W) or
    (B, 1, T, H, W). columns: word -> its columns of the positive conditioning; strengths: one
    factor per word. threshold: of the mean attention. static: the words' masks come from a plain
    first pass instead of the step before. grow: latent pixels that the region then reaches farther
    to each side, below 0 it shrinks; invert: and then all but it. Raises ValueError on a mask that
    is none.
    """

    mode: str
    mask: torch.Tensor | None = None
    columns: dict[str, list[int]] | None = None
    strengths: tuple[float, ...] = ()
    threshold: float = 1.0
    static: bool = False
    grow: int = 0
    invert: bool = False

    def __post_init__(self) -> None:
        if self.mode == "mask":
            require_mask(self.mask)

    @property
    def top(self) -> float:
        """The weight of what is wholly inside: the strongest word's factor, 1 without words."""
        return max(self.strengths) if self.mode == "words" else 1.0

    def shaped(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight at the latent's size (B, 1, ...), grown by `grow`, then inverted."""
        return grown_then_inverted(weight, self.grow, self.invert, self.top)

    @property
    def label(self) -> str:
        """In words."""
        what = ", ".join(self.columns) if self.mode == "words" else self.mode
        if self.grow:
            what += f" {'grown' if self.grow > 0 else 'shrunk'} by {abs(self.grow)}"
        return f"all but {what}" if self.invert else what


def mask_of(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(B, 1, ...) at the latent's size, by ComfyUI's own resizing, in [0, 1]."""
    mask = mask.detach().float().cpu()
    if mask.ndim == 4:
        mask = mask[:, 0]
    if len(shape) == 5 and shape[2] == 1 and mask.ndim == 3:  # single pictures: no frames
        mask = mask[:, None, None]
    return reshape_mask(mask, (shape[0], 1, *shape[2:])).clamp(0, 1)


def require_mask(mask: torch.Tensor | None) -> None:
    """Raises ValueError, in one sentence, on what is no mask of one pixel or more."""
    if mask is None:
        raise ValueError(
            "AsynDM Region Mask in mode mask found no mask; connect a MASK, or use mode words."
        )
    if not torch.is_tensor(mask) or mask.is_complex():
        kind = mask.dtype if torch.is_tensor(mask) else type(mask).__name__
        raise ValueError(
            f"The mask is of the type {kind}, expected a MASK of numbers from 0 to 1; connect the "
            "output of a mask node."
        )
    shape = list(mask.shape)
    if mask.ndim not in (2, 3, 4, 5) or (mask.ndim > 3 and shape[1] != 1):
        raise ValueError(
            f"The mask has the shape {shape}, expected (height, width), (batch, height, width) or "
            "(batch, 1, height, width); make it a MASK first, with Convert Image to Mask say."
        )
    if 0 in shape:
        raise ValueError(
            f"The mask has the shape {shape}, in which there is no pixel, expected one mask or "
            "more of one pixel or more; look for the node that left none, or take the mask off."
        )
    if not bool(torch.isfinite(mask).all()):
        raise ValueError(
            "The mask holds values that are not finite (NaN or infinity); check the node that "
            "made it."
        )


def aspect_warning(mask: torch.Tensor, shape: Sequence[int]) -> str | None:
    """One sentence where a mask was made for another crop than the latent (B, C, ...)."""
    height, width = mask.shape[-2:]
    ratio = (height / width) / (shape[-2] / shape[-1])
    if 1 / ASPECT_SLACK <= ratio <= ASPECT_SLACK or height == width == 1:
        return None
    return (
        f"Async Timestep: the mask is {width} x {height} but the latent {shape[-1]} x {shape[-2]}; "
        "it is stretched; make the mask on the same picture (a crop or tile needs its own)."
    )


def white_warning(mask: torch.Tensor) -> str | None:
    """One sentence where the values are on another scale; resizing may overshoot a little."""
    most = float(mask.max())
    if most <= WHITE_SLACK:
        return None
    return (
        f"Async Timestep: the mask's values reach {most:g}, expected 0 to 1, so all grey above 1 "
        "is taken as white; divide the mask by its white."
    )


def why_empty(region: Region, raw: torch.Tensor) -> str:
    """One sentence about a run whose weight is 0 everywhere. raw: the mask at the latent's size."""
    if bool(raw.any()):
        return (
            "Async Timestep: the region lies where inpainting keeps the picture, so nothing is "
            "changed; make the inpaint mask white over the region."
        )
    if region.mode == "words":
        return (
            "Async Timestep: the strength of every word of the region is 0, so nothing is changed; "
            "give one a number above 0, as in cat:0.6."
        )
    if region.invert:
        return (
            "Async Timestep: the region is the whole picture and inverted nothing, so nothing is "
            "changed; turn invert off, or give it a smaller region."
        )
    if region.grow < 0 and bool(mask_of(region.mask, raw.shape).any()):
        return (
            "Async Timestep: nothing is left of the mask once it has shrunk by "
            f"{-region.grow} latent pixels, so nothing is changed; let it shrink less, or paint a "
            "larger region."
        )
    if bool((region.mask > 0).any()):
        height, width = raw.shape[-2:]
        return (
            "Async Timestep: the white of the mask is smaller than a latent pixel, so that nothing "
            f"is left of it at {width} x {height} and nothing is changed; paint a larger region."
        )
    return (
        "Async Timestep: the mask is black everywhere, so nothing is changed; paint the region "
        "white, or invert the mask."
    )


def no_words(region: Region, when: str, were_read: bool = False) -> str:
    """One sentence about words whose region was empty. were_read: they had one before it was
    shrunk or inverted."""
    words = ", ".join(region.columns)
    if were_read and region.invert:
        return (
            f"Async Timestep: the region of {words} is the whole picture and inverted nothing"
            f"{when}; turn invert off, or raise the threshold."
        )
    if were_read and region.grow < 0:
        return (
            f"Async Timestep: nothing is left of the region of {words} once it has shrunk by "
            f"{-region.grow} latent pixels{when}; let it shrink less."
        )
    what = "inverted region is the whole picture" if region.invert else "region is empty"
    return (
        f"Async Timestep: the model's attention to {words} is nowhere above {region.threshold:g} "
        f"times its mean, so the {what}{when}; lower the threshold, or use mode mask."
    )


def never_read() -> str:
    """One sentence about words that were followed and whose attention was never read."""
    return (
        "Async Timestep: the model's attention to the words was never read, so the region was the "
        "whole picture; connect the positive prompt that has the words, or use mode mask."
    )


def no_first_pass() -> str:
    """One sentence about static words of which a first pass read nothing."""
    return (
        "AsynDM Region Mask found no attention to its words in the first pass; use static off, or "
        "mode mask."
    )


def whole_tokens(denoise_mask: torch.Tensor, shape: Sequence[int], patch) -> torch.Tensor:
    """(B, 1, ...): 1 on tokens that inpainting denoises entirely."""
    inside = (denoise_mask == 1).all(1, keepdim=True).float()
    inside = inside.expand(shape[0], 1, *shape[2:])
    return (mean_per_token(inside, patch) == 1).float()
