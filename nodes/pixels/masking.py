"""A region over one sampling run: the map of weights that each evaluation has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from comfy.utils import reshape_mask

from ...asyndm.masks import merge_words, nearest, one_time_a_token, word_masks
from .attention import WordMaps

MODES = ("words", "mask", "all")
ASPECT_SLACK = 1.1  # a mask whose aspect differs more than by this was made for another crop


@dataclass(frozen=True)
class Region:
    """Where a method acts: what the AsynDM Region Mask node hands on.

    mode: words (cross-attention), mask (the user's), all (everywhere: the paper's concave
    ablation). mask: (H, W) or (B, H, W) in [0, 1], of a video (T, H, W). columns: word -> its
    columns of the positive conditioning; strengths: one factor a word. threshold: of the mean
    attention. static: the words' masks come from a plain first pass instead of the step before.
    """

    mode: str
    mask: torch.Tensor | None = None
    columns: dict[str, list[int]] | None = None
    strengths: tuple[float, ...] = ()
    threshold: float = 1.0
    static: bool = False


class RegionRun:
    """The weights of one run. weight: (B, 1, ...) in [0, 1] times the words' strengths; constant
    on every token, 0 where `keep` (B, 1, ...), an inpaint mask, is not 1."""

    def __init__(self, region: Region, shape: Sequence[int], patch, device, keep=None):
        self.region, self.patch = region, patch
        self.size = tuple(shape[2:])
        self.keep = None if keep is None else whole_tokens(keep, shape, patch).to(device)
        self.words = None
        self.masks: list[torch.Tensor] = []  # one an evaluation, (B, ...) on the CPU, for plots
        self.sums: torch.Tensor | None = None
        if region.mode == "mask":
            raw = mask_of(region.mask, shape).to(device)
            if not bool(raw.any()):
                logging.warning(
                    "Async Timestep: the mask is black everywhere, so nothing is changed; paint "
                    "the region white, or invert the mask."
                )
        else:
            raw = torch.ones(shape[0], 1, *self.size, device=device)
        if region.mode == "words":
            self.words = WordMaps(list(region.columns.values()))
            raw = raw * max(region.strengths)  # before anything is known, everywhere
        self.weight = self.prepared(raw)

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
            self.weight = self.from_attention(self.words.maps)

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

    def from_attention(self, maps: torch.Tensor) -> torch.Tensor:
        masks = word_masks(maps, self.region.threshold)
        merged = merge_words(masks, self.region.strengths)
        return self.prepared(nearest(merged, self.size)).to(self.weight)


def mask_of(mask: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """(B, 1, ...) at the latent's size, by ComfyUI's own resizing, in [0, 1]."""
    height, width = mask.shape[-2:]
    ratio = (height / width) / (shape[-2] / shape[-1])
    if not 1 / ASPECT_SLACK <= ratio <= ASPECT_SLACK:
        logging.warning(
            f"Async Timestep: the mask is {width} x {height} but the latent {shape[-1]} x "
            f"{shape[-2]}; it is stretched; make the mask on the same picture (a crop or tile "
            "needs its own)."
        )
    mask = mask.detach().float().cpu()
    if len(shape) == 5 and shape[2] == 1 and mask.ndim == 3:  # single pictures: no frames
        mask = mask[:, None, None]
    return reshape_mask(mask, (shape[0], 1, *shape[2:])).clamp(0, 1)


def whole_tokens(denoise_mask: torch.Tensor, shape: Sequence[int], patch) -> torch.Tensor:
    """(B, 1, ...): 1 on tokens that inpainting denoises entirely."""
    inside = (denoise_mask == 1).all(1, keepdim=True).float()
    inside = inside.expand(shape[0], 1, *shape[2:])
    return (one_time_a_token(inside, patch) == 1).float()
