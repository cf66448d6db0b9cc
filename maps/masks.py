"""Masks: where in the latent the prompt's words are, and how they reach the network's grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F


def word_masks(attention: torch.Tensor, threshold: float = 1.0) -> torch.Tensor:
    """A > threshold * mean(A) per image and word: (B, W, ...) attention -> (B, W, ...) of 0 and 1.

    threshold: the official code's `mask_thr`, 1 in the paper. Strict, as the paper has it: a
    constant map gives an empty mask.
    """
    flat = attention.flatten(2)
    # measured from one of the values: the mean of equal numbers must not round below them
    first = flat[..., :1]
    above = flat - first
    limit = threshold * above.mean(-1, keepdim=True) + (threshold - 1) * first
    return (above > limit).to(attention.dtype).view_as(attention)


def merge_words(masks: torch.Tensor, strengths: Sequence[float]) -> torch.Tensor:
    """One map (B, 1, ...) from the words' masks (B, W, ...): where they overlap the largest of
    mask * strength wins (the official `item_k`); equal strengths are a plain OR."""
    factor = torch.tensor(strengths, dtype=masks.dtype, device=masks.device)
    return (masks * factor.view(1, -1, *[1] * (masks.ndim - 2))).amax(1, keepdim=True)


def nearest(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, C, ...) at another size, each cell the value of the cell it lies in."""
    for axis, wanted in enumerate(size, start=2):
        have = mask.shape[axis]
        if have != wanted:
            at = torch.arange(wanted, device=mask.device) * have // wanted
            mask = mask.index_select(axis, at)
    return mask


def grown(mask: torch.Tensor, cells: int) -> torch.Tensor:
    """A mask (B, 1, H, W), (B, 1, T, H, W) or (B, 1, L) that reaches so many latent cells farther
    to each side of a picture (the largest value in a square); below 0 it shrinks (the smallest).

    The edge of the picture is no edge of the mask: nothing shrinks away from it. Time is left as
    it is.
    """
    if cells == 0:
        return mask
    if cells < 0:
        return -grown(-mask, -cells)
    wide = mask.flatten(0, -2)[:, None, None] if mask.ndim == 3 else mask.flatten(0, -3)[:, None]
    down, across = (min(cells, size - 1) for size in wide.shape[2:])
    wide = F.max_pool2d(wide, (2 * down + 1, 1), 1, (down, 0))
    return F.max_pool2d(wide, (1, 2 * across + 1), 1, (0, across)).view_as(mask)


def grown_then_inverted(
    mask: torch.Tensor, cells: int = 0, invert: bool = False, top: float = 1.0
) -> torch.Tensor:
    """A mask with values from 0 to `top`, first grown by so many latent cells (below 0: shrunk),
    then, where `invert`, top - mask. Neither: the mask itself."""
    mask = grown(mask, cells)
    return top - mask if invert else mask


def mean_per_token(mask: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """A mask (B, 1, ...) that is constant on every token of `patch` latent cells: its mean there.

    A network has one time for a token, so the noise level must not change inside one. Sizes that
    are no multiple of the patch are continued by their edge, as the cells beyond it do not count.
    """
    if all(p == 1 for p in patch):
        return mask
    size = mask.shape[2:]
    for axis, p in enumerate(patch, start=2):
        missing = -mask.shape[axis] % p
        if missing:
            edge = mask.narrow(axis, mask.shape[axis] - 1, 1)
            mask = torch.cat([mask] + [edge] * missing, axis)
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(patch)]
    mean = pool(mask, tuple(patch))
    for axis, (p, n) in enumerate(zip(patch, size, strict=True), start=2):
        mean = mean.repeat_interleave(p, axis).narrow(axis, 0, n)
    return mean
