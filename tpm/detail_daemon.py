"""Detail Daemon's schedule as a policy: the network is told a noise level that is lower by

    sigma'_k = sigma_k (1 - 0.1 a c_k)

with a = detail_amount x cfg, and c_k of its default curve: 0 up to step round(s (K - 1)), half a
cosine up to 1 at round((s + e) / 2 (K - 1)), and down again to 0 at round(e (K - 1)), for start s
and end e. Written from that description; bench/peers_conversion.py compares it with the pack
itself (https://github.com/Jonseed/ComfyUI-Detail-Daemon).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .policies import Decision, Policy, State, follow_label

NAME = "detail daemon"  # as a preset of the nodes
SHARE = 0.1  # of sigma that is cut at amount 1


@dataclass(frozen=True)
class DetailDaemon(Policy):
    """amount: detail_amount x cfg. start, end: shares of the steps, as there. mode: follow_time
    also scales the step, which on flow models is its picture."""

    amount: float
    start: float = 0.2
    end: float = 0.8
    mode: str = "conditioning"
    needs_schedule = True

    @property
    def label(self) -> str:
        return f"{NAME} {self.amount:+g}{follow_label(self.mode)}"

    def decide(self, state: State) -> Decision:
        sigma = torch.tensor([state.sigma], dtype=torch.float64)
        told = sigma * (1 - SHARE * self.amount * bump(state.k, state.steps, self.start, self.end))
        u, u_told = (float(state.timestep(s.float())[0]) for s in (sigma, told))
        cut = 1 - u_told / u if u and not torch.equal(told, sigma) else 0.0
        flat = torch.ones(state.batch, device=state.device)
        return Decision(flat * 0, flat * cut, flat, follow=self.mode == "follow_time")


def bump(k: int, steps: int, start: float, end: float) -> float:
    """c_k, from 0 to 1."""
    first, peak, last = (round(x * (steps - 1)) for x in (start, (start + end) / 2, end))
    if k <= peak:
        side = (k - first) / (peak - first) if peak > first else float(k == peak)
    else:
        side = (last - k) / (last - peak) if last > peak else 0.0
    return (1 - math.cos(math.pi * min(max(side, 0.0), 1.0))) / 2
