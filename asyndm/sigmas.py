"""The noise level between two nodes of a grid: what a pixel with a fractional lag has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Space(NamedTuple):
    """The coordinate in which a grid is a straight line from node to node."""

    forward: Callable[[torch.Tensor], torch.Tensor]  # sigma -> coordinate
    inverse: Callable[[torch.Tensor], torch.Tensor]  # coordinate -> sigma


def flow_space() -> Space:
    """Flow models: sigma is the time."""
    return Space(lambda sigma: sigma, lambda time: time)


def log_space() -> Space:
    """Continuous models without a table (EDM): log sigma."""
    return Space(torch.log, torch.exp)


def table_space(log_sigmas: torch.Tensor) -> Space:
    """eps and v models: the fractional index in the training table (T,), rising.

    log sigma would be wrong near the end: half way between the indices 1 and 21 is 11, as the
    paper's linear rule has it, where the geometric mean of their sigmas has the index 6.
    """
    table = log_sigmas.detach().double().cpu()

    def index_of(sigma: torch.Tensor) -> torch.Tensor:
        log = sigma.double().log().cpu()
        high = torch.searchsorted(table, log).clamp(1, len(table) - 1)
        low = high - 1
        return low + (log - table[low]) / (table[high] - table[low])

    def sigma_of(index: torch.Tensor) -> torch.Tensor:
        low = index.floor().long().clamp(0, len(table) - 2)
        return (table[low] + (index - low) * (table[low + 1] - table[low])).exp()

    return Space(index_of, sigma_of)


def sigma_at(sigmas: torch.Tensor, position: torch.Tensor, space: Space) -> torch.Tensor:
    """sigma (float32, the shape of `position`) at fractional nodes of a falling grid (N+1,).

    A whole position gives the node's own bits. The last interval of a grid that ends at 0 has no
    inside: AsynDM never asks for one, since all pixels meet at its beginning.
    """
    nodes = sigmas.detach().float().cpu()
    where = position.detach().cpu().double()
    k = where.floor().clamp(0, len(nodes) - 1).long()
    part = where - k
    left, right = nodes[k], nodes[(k + 1).clamp(max=len(nodes) - 1)]
    between = part > 0
    safe = torch.where(between, right, left)  # no log of the final 0
    start, end = space.forward(left.clamp(min=1e-12)), space.forward(safe.clamp(min=1e-12))
    mixed = space.inverse((1 - part) * start + part * end).float()
    mixed = torch.minimum(torch.maximum(mixed, safe), left)
    return torch.where(between, mixed, left).to(position.device)
