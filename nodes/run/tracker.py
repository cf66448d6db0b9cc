"""A region over one sampling run: how much each pixel counts at each evaluation.

A mask counts as it is. Words count where the network attended to them one evaluation earlier (as
in the official AsynDM code) or, where they are static, in a plain sampling before the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from ...maps.masks import mean_per_token, merge_words, nearest, word_masks
from ...report.trace import Run
from ..pixels.attention import WordMaps
from ..pixels.calls import Calls, patch_of, positive_columns, refuse
from ..pixels.scope import PixelMap
from .region import (
    Region,
    aspect_warning,
    mask_of,
    never_read,
    no_first_pass,
    no_words,
    white_warning,
    whole_tokens,
    why_empty,
)
from .warnings import warn


class RegionTracker:
    """The life of a region in one sampling run.

        with RegionTracker(region, record) as tracker:
            tracker.fit(guider, x.shape, x.device)  # once the host has loaded the model
            tracker.first_pass(sample)
            with tracker.evaluation(pixels, model_options) as options:
                network(x, sigma, options)

    weight: (B, 1, ...) in [0, 1] times the words' strengths, of the coming evaluation; constant on
    every token, 0 where an inpaint mask keeps the picture. masks: (B, ...) on the CPU, the weights
    that were used, one per evaluation. An evaluation that raises changes neither. When the run
    ends, the masks and what was wrong with the region are in `record`. Outside of its `with`, and
    before `fit`, everything but the masks raises RuntimeError.
    """

    def __init__(self, region: Region, record: Run):
        self.region, self.record = region, record
        self.masks: list[torch.Tensor] = []
        self.is_open = False
        self.is_fitted = False
        self.sums: torch.Tensor | None = None  # (B, W, ...) attention of a first pass
        self.is_held = region.mode != "words"  # the weight is what it will always be
        self.was_read = False  # attention to the words, in any evaluation
        self.was_found = False  # and it was above the threshold somewhere

    def __enter__(self) -> RegionTracker:
        self.is_open = True
        return self

    def __exit__(self, error: type | None, *_) -> None:
        self.is_open = False
        self.record.masks += self.masks
        if error is None:
            warn(self.record, *self.last_words())

    def fit(self, guider, shape: Sequence[int], device, keep: torch.Tensor | None = None) -> None:
        """At the first evaluation: the host has loaded the guider's model. Later calls do nothing.

        shape: (B, C, ...) of the latent. keep: the inpaint mask, 1 where the picture is made anew.
        Raises ValueError on a model or a latent that takes no map of times.
        """
        self.require_open()
        if self.is_fitted:
            return
        refuse(guider)
        self.network = guider.inner_model.diffusion_model
        self.patch = patch_of(self.network, shape)
        self.prompts, self.shape = positive_columns(guider), tuple(shape)
        self.keep = None if keep is None else whole_tokens(keep, shape, self.patch).to(device)
        raw = torch.ones(shape[0], 1, *shape[2:], device=device)
        if self.region.mode == "mask":
            raw = mask_of(self.region.mask, shape).to(device)
            found = aspect_warning(self.region.mask, shape), white_warning(self.region.mask)
            warn(self.record, *filter(None, found))
            raw = self.region.shaped(raw)
        elif self.region.mode == "words":  # before anything is known, everywhere
            raw = raw * self.region.top
        else:
            raw = self.region.shaped(raw)
        self.now = self.on_tokens(raw)
        self.is_fitted = True
        if not bool(self.now.any()):
            warn(self.record, why_empty(self.region, raw))

    @property
    def weight(self) -> torch.Tensor:
        self.require_fitted()
        return self.now

    @property
    def does_nothing(self) -> bool:
        """True where no evaluation of this run will have a weight."""
        return self.is_held and not bool(self.weight.any())

    @property
    def is_collecting(self) -> bool:
        """True until the first pass of static words is over: evaluations are to be plain."""
        return self.region.static and not self.is_held

    def first_pass(self, sample: Callable[[], object]) -> None:
        """Runs `sample`, a plain sampling, where the words are static, and nothing elsewhere: the
        attention of all its evaluations is summed and thresholded once (the official code's
        `static_mask`). Raises ValueError where none was read."""
        self.require_open()
        if not self.is_collecting:
            return
        sample()
        if self.sums is None:
            raise ValueError(no_first_pass())
        self.now, self.is_held = self.weight_of(self.sums), True
        if not bool(self.now.any()) or not self.was_found:
            warn(self.record, no_words(self.region, "", self.was_found))

    @contextmanager
    def evaluation(self, pixels: PixelMap | None, model_options: dict) -> Iterator[dict]:
        """One evaluation: the model options to call the network with, which tell it the map
        `pixels` (None for the sampler's own time) and read its attention to the words."""
        self.require_fitted()
        words = None if self.is_held else WordMaps(list(self.region.columns.values()))
        yield Calls(self.shape, self.prompts, pixels, words).attached(model_options)
        self.move_on(None if words is None else words.maps)  # not after an exception

    def move_on(self, maps: torch.Tensor | None) -> None:
        """An evaluation is over, in which the attention `maps` (B, W, ...) was read; None where
        the words are not followed or a cache answered in the network's place: the weight stays."""
        if self.is_collecting:
            if maps is not None:
                self.sums = maps if self.sums is None else self.sums + maps
            return
        self.masks.append(self.now[:, 0].cpu())
        if maps is not None:
            self.now, self.was_read = self.weight_of(maps), True

    def weight_of(self, maps: torch.Tensor) -> torch.Tensor:
        """(B, 1, ...) at the latent's size, of attention (B, W, ...) to the words."""
        masks = word_masks(maps, self.region.threshold)
        self.was_found = self.was_found or bool(masks.any())
        merged = nearest(merge_words(masks, self.region.strengths), self.shape[2:])
        return self.on_tokens(self.region.shaped(merged)).to(self.now)

    def on_tokens(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask of the latent with one value per token, and none where inpainting keeps the
        picture."""
        weight = mean_per_token(mask, self.patch)
        return weight if self.keep is None else weight * self.keep

    def last_words(self) -> list[str]:
        """A sentence where words that were followed had no region. The first mask, and where
        nothing was read all of them, are the whole picture."""
        followed = [] if self.is_held else self.masks[1:]
        if followed and not self.was_read:
            return [never_read()]
        if followed and bool(self.masks[0].any()):
            if not self.was_found or not any(bool(m.any()) for m in followed):
                return [no_words(self.region, " from the second step on", self.was_found)]
        return []

    def require_open(self) -> None:
        if not self.is_open:
            raise RuntimeError(
                "The region of a sampling run was used outside of its `with`; open the tracker "
                "around the whole run."
            )

    def require_fitted(self) -> None:
        self.require_open()
        if not self.is_fitted:
            raise RuntimeError(
                "The region of a sampling run was used before `fit`; fit the tracker at the "
                "first evaluation."
            )
