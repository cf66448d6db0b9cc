"""Wan and LTX-Video: networks that take one time per token themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...maps.time_rows import Rows
from .hooks import token_grid


def patch_wan(network) -> tuple[int, int, int]:
    return tuple(network.patch_size)


def patch_ltxv(network) -> tuple[int, int, int]:
    return 1, 1, 1


def token_times(rows: Rows, size, patch, original: Callable[..., torch.Tensor]) -> torch.Tensor:
    """(B, N), frames first: what the model's own `process_timestep` gives for one time per token.

    Both multiply the time by the inpaint mask of their frames or tokens. Raises ValueError where
    that mask has another grid than the tokens.
    """
    index = rows.tokens(token_grid(size, patch))
    times = torch.cat([rows.base, rows.time])[index]
    factor = original(torch.ones_like(rows.base))
    if factor.ndim == 1:
        return times
    share = factor.reshape(len(factor), -1)
    if share.shape[1] == size[0]:  # Wan 2.2: one per frame
        share = share.repeat_interleave(times.shape[1] // size[0], 1)
    if share.shape != times.shape:
        raise ValueError(
            f"Async Timestep found an inpaint mask with {share.shape[1]} times where this video "
            f"model has {times.shape[1]} tokens; take the mask or region off, or the guide frames "
            "out."
        )
    return times * share


def cross_wan(network) -> list:
    parts = [block.cross_attn for block in network.blocks]
    return [(part.norm_q, part.norm_k, part.num_heads, patch_wan(network)) for part in parts]


def cross_ltxv(network) -> list:
    parts = [block.attn2 for block in network.transformer_blocks]
    return [(part.q_norm, part.k_norm, part.heads, (1, 1, 1)) for part in parts]
