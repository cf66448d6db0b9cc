"""A map of times as a short table: every distinct time is embedded once and gathered per token.

The official code embeds every pixel: at 64 x 64 latents that is 8192 rows through the time MLP and
through each of 22 projections, and 10 % of its running time. A map holds few distinct times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

MOST_LEVELS = 256  # distinct times per sample; a soft mask with more of them is rounded


@dataclass
class Rows:
    """Times of B samples, of which sample `sample[r]` has the extra time `time[r]`.

    base: (B,), the time of every token that is no pixel (text), and of pixels equal to it. time,
    sample: (R,). index: (B, ...) of the latent's shape; b is the base of sample b, B + r is row r.
    """

    base: torch.Tensor
    time: torch.Tensor
    sample: torch.Tensor
    index: torch.Tensor
    kept: dict = field(default_factory=dict)  # index at the sizes that were asked for

    @property
    def uniform(self) -> bool:
        """True where every sample has one time only: nothing is to be gathered."""
        return len(self.time) == 0

    def at(self, size: Sequence[int]) -> torch.Tensor:
        """The index at a coarser grid, (B, *size): the cell's first latent pixel, as the official
        code samples its map."""
        size = tuple(size)
        if size not in self.kept:
            index = self.index
            for axis, wanted in enumerate(size, start=1):
                have = index.shape[axis]
                if have != wanted:
                    stride = 1 << (-(-have // wanted) - 1).bit_length()  # levels halve the grid
                    first = torch.arange(wanted, device=index.device) * stride
                    index = index.index_select(axis, first.clamp(max=have - 1))
            self.kept[size] = index
        return self.kept[size]

    def tokens(self, size: Sequence[int], before: int = 0, after: int = 0) -> torch.Tensor:
        """(B, before + prod(size) + after): the index over a sequence; tokens that are no pixels
        stand before or after and have the base time."""
        key = (tuple(size), before, after)
        if key not in self.kept:
            pixels = self.at(size).flatten(1)
            base = torch.arange(len(pixels), device=pixels.device).unsqueeze(1)
            self.kept[key] = torch.cat(
                [base.expand(-1, before), pixels, base.expand(-1, after)], dim=1
            )
        return self.kept[key]


def distinct(times: torch.Tensor, base: torch.Tensor, most: int = MOST_LEVELS) -> Rows:
    """Rows of a map of times (B, ...) with the samples' own times base (B,).

    A sample whose map is constant takes that constant as its base: no extra row, and the network's
    text tokens are told the same, exactly as if the time had been a scalar. A sample with more
    than `most` distinct times is rounded to that many evenly spaced ones; the error is at most
    half a spacing.
    """
    base = base.clone()
    index = torch.empty(times.shape, dtype=torch.long, device=times.device)
    rows: list[torch.Tensor] = []
    owner: list[int] = []
    filled = 0
    for b, image in enumerate(times):
        values, where = image.flatten().unique(return_inverse=True)
        if len(values) > most:
            low, high = values[0], values[-1]
            where = ((image.flatten() - low) * ((most - 1) / (high - low))).round().long()
            values = low + (high - low) * torch.arange(most, device=image.device) / (most - 1)
        if len(values) == 1:
            base[b] = values[0]
        extra = values != base[b]
        number = torch.full((len(values),), b, dtype=torch.long, device=image.device)
        count = int(extra.sum())
        number[extra] = torch.arange(count, device=image.device) + len(times) + filled
        index[b] = number[where].view_as(image)
        rows.append(values[extra])
        owner += [b] * count
        filled += count
    sample = torch.tensor(owner, dtype=torch.long, device=times.device)
    return Rows(base, torch.cat(rows).to(base), sample, index)


def chunks(rows: Rows, boxes: Sequence[tuple[slice, ...] | None]) -> Rows:
    """The rows for a batch in which the samples stand once per chunk (cond, uncond, areas).

    boxes: a chunk's part of the latent, None for all of it; all boxes have one size.
    """
    if len(boxes) == 1 and boxes[0] is None:
        return rows
    count, batch, extra = len(boxes), len(rows.base), len(rows.time)
    parts = []
    for c, box in enumerate(boxes):
        index = rows.index if box is None else rows.index[(slice(None), *box)]
        base = index + c * batch
        row = index - batch + count * batch + c * extra
        parts.append(torch.where(index < batch, base, row))
    offset = torch.arange(count, device=rows.sample.device).repeat_interleave(extra) * batch
    return Rows(
        rows.base.repeat(count),
        rows.time.repeat(count),
        rows.sample.repeat(count) + offset,
        torch.cat(parts),
    )
