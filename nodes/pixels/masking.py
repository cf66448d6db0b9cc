"""A region over one sampling run: the map of weights that each evaluation has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from comfy.utils import reshape_mask

from ...maps.masks import merge_words, nearest, one_time_a_token, word_masks
from .attention import WordMaps

MODES = ("words", "mask", "all")
ASPECT_SLACK = 1.1  # a mask whose aspect differs more than by this was made for another crop
WHITE_SLACK = 1.5


@dataclass(frozen=True)
class Region:
    """Where a method acts: what the AsynDM Region Mask node hands on.

    mode: words (cross-attention), mask (the user's), all (everywhere: the paper's concave
    ablation). mask: (H, W), (B, H, W) or (B, 1, H, W) in [0, 1], of a video (T, H, W) or
    (B, 1, T, H, W). columns: word -> its columns of the positive conditioning; strengths: one
    factor a word. threshold: of the mean attention. static: the words' masks come from a plain
    first pass instead of the step before. Raises ValueError on a mask that is none.
    """

    mode: str
    mask: torch.Tensor | None = None
    columns: dict[str, list[int]] | None = None
    strengths: tuple[float, ...] = ()
    threshold: float = 1.0
    static: bool = False

    def __post_init__(self) -> None:
        if self.mode == "mask":
            require_mask(self.mask)


class RegionRun:
    """The weights of one run. weight: (B, 1, ...) in [0, 1] times the words' strengths; constant
    on every token, 0 where `keep` (B, 1, ...), an inpaint mask, is not 1. warnings: a sentence
    each, which went to the log."""

    def __init__(self, region: Region, shape: Sequence[int], patch, device, keep=None):
        self.region, self.patch = region, patch
        self.size = tuple(shape[2:])
        self.keep = None if keep is None else whole_tokens(keep, shape, patch).to(device)
        self.words = None
        self.masks: list[torch.Tensor] = []  # one an evaluation, (B, ...) on the CPU, for plots
        self.sums: torch.Tensor | None = None
        self.was_read = False  # attention to the words, in any evaluation
        self.warnings: list[str] = []
        if region.mode == "mask":
            raw = mask_of(region.mask, shape).to(device)
            self.warn(aspect_warning(region.mask, shape), white_warning(region.mask))
        else:
            raw = torch.ones(shape[0], 1, *self.size, device=device)
        if region.mode == "words":
            self.words = WordMaps(list(region.columns.values()))
            raw = raw * max(region.strengths)  # before anything is known, everywhere
        self.weight = self.prepared(raw)
        if not bool(self.weight.any()):
            self.warn(why_empty(region, raw))

    def warn(self, *sentences: str | None) -> None:
        for sentence in filter(None, sentences):
            logging.warning(sentence)
            self.warnings.append(sentence)

    def prepared(self, raw: torch.Tensor) -> torch.Tensor:
        """A mask on the latent: one value a token, and none where inpainting keeps the picture."""
        weight = one_time_a_token(raw, self.patch)
        return weight if self.keep is None else weight * self.keep

    @property
    def fixed(self) -> bool:
        return self.words is None

    def before(self) -> None:
        """An evaluation begins."""
        self.masks.append(self.weight[:, 0].cpu())
        if self.words is not None:
            self.words.restart()

    def after(self) -> None:
        """It is over: its attention makes the next one's mask (one step late, as the official
        code). Where a cache answered in the network's place the mask stays."""
        if self.words is not None and self.words.maps is not None:
            self.weight, self.was_read = self.from_attention(self.words.maps), True

    def collect(self) -> None:
        """Instead of `after` in a plain first pass: maps are summed, not used."""
        if self.words.maps is not None:
            maps = self.words.maps
            self.sums = maps if self.sums is None else self.sums + maps

    def freeze(self) -> None:
        """After the first pass (`static_mask` of the official code): one threshold on the mean."""
        if self.sums is None:
            raise ValueError(
                "AsynDM Region Mask found no attention to its words in the first pass; use static "
                "off, or mode mask."
            )
        self.weight = self.from_attention(self.sums)
        self.words = None
        self.masks.clear()
        if not bool(self.weight.any()):
            self.warn(no_words(self.region, ""))

    def close(self) -> None:
        """The run is over: says where words that are followed had no region. The first mask, and
        where nothing was read all of them, are the whole picture."""
        followed = [] if self.words is None else self.masks[1:]
        if followed and not self.was_read:
            self.warn(
                "Async Timestep: the model's attention to the words was never read, so the region "
                "was the whole picture; connect the positive prompt that has the words, or use "
                "mode mask."
            )
        elif followed and bool(self.masks[0].any()) and not any(bool(m.any()) for m in followed):
            self.warn(no_words(self.region, " from the second step on"))

    def from_attention(self, maps: torch.Tensor) -> torch.Tensor:
        masks = word_masks(maps, self.region.threshold)
        merged = merge_words(masks, self.region.strengths)
        return self.prepared(nearest(merged, self.size)).to(self.weight)


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


def no_words(region: Region, when: str) -> str:
    """One sentence about words whose region was empty."""
    return (
        f"Async Timestep: the model's attention to {', '.join(region.columns)} is nowhere above "
        f"{region.threshold:g} times its mean, so the region is empty{when}; lower the threshold, "
        "or use mode mask."
    )


def whole_tokens(denoise_mask: torch.Tensor, shape: Sequence[int], patch) -> torch.Tensor:
    """(B, 1, ...): 1 on tokens that inpainting denoises entirely."""
    inside = (denoise_mask == 1).all(1, keepdim=True).float()
    inside = inside.expand(shape[0], 1, *shape[2:])
    return (one_time_a_token(inside, patch) == 1).float()
