"""A network's forward in which every token is told its own time, naively: a reference for the maps.

The network's vector gets a token axis. `told` (B, 1 + N, C) holds the text's vector first and then
one for each of the N pixels in the order of the sequence,

    told[:, 0] = e(t_base) + c      told[:, n] = e(t_n) + c

    h_n <- h_n + gate(told_n) f(h_n (1 + scale(told_n)) + shift(told_n))

where e is the network's own time embedder, run for all B * N times, and c its other conditions.
Nothing of `nodes` or `asyndm` is used.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from unittest.mock import patch

import brute_force_blocks as blocks
import brute_force_more as more
import torch

INSTALL = {
    "UNetModel": blocks.unet_model,
    "OpenAISignatureMMDITWrapper": blocks.mmdit_model,
    "Flux": partial(blocks.flux_model, factor=1000.0),
    "HunyuanVideo": partial(blocks.flux_model, factor=1.0),
    "Chroma": blocks.chroma_model,
    "QwenImageTransformer2DModel": more.qwen_model,
    "NextDiT": more.lumina_model,
    "WanModel": more.wan_model,
    "LTXVModel": more.ltxv_model,
}
PATCH = {  # latent cells of a token along each axis
    "UNetModel": (1, 1),
    "OpenAISignatureMMDITWrapper": (2, 2),
    "Flux": (2, 2),
    "HunyuanVideo": (1, 2, 2),
    "Chroma": (2, 2),
    "QwenImageTransformer2DModel": (1, 2, 2),
    "NextDiT": (2, 2),
    "WanModel": (1, 2, 2),
    "LTXVModel": (1, 1, 1),
}


def patch_of(network) -> tuple[int, ...]:
    if getattr(network, "patch_size", None) == 1:  # Flux.2
        return 1, 1
    return PATCH[type(network).__name__]


def run(network, times: torch.Tensor, x, base, **conditions) -> torch.Tensor:
    """The network's output for x with one time a token, times (B, N), and base (B,) for text."""
    with ExitStack() as stack:

        def replace(owner, name: str, value) -> None:
            stack.enter_context(patch.object(owner, name, value))

        INSTALL[type(network).__name__](replace, network, times, tuple(x.shape[2:]))
        return network(x, base, **conditions)
