"""Qwen-Image: adaLN of the image stream per token; text keeps the sampler's time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...maps.time_rows import Rows
from .hooks import Length, Vectors, as_per_token, per_token, token_grid


def patch(network) -> tuple[int, int, int]:
    return 1, network.patch_size, network.patch_size


def install(network, rows: Rows, size) -> list:
    """Hooks for one call; to be removed after it."""
    vectors, grid, image = Vectors(rows), token_grid(size, patch(network)), Length()

    def embed(times, args, out):
        hidden, *more = args[1:]  # older hosts give no more than these two
        more = [part if part is None else part[rows.sample] for part in more]
        return network.time_text_embed.forward(times.to(hidden.dtype), hidden, *more)

    def index() -> torch.Tensor:  # reference images stand after the pixels
        return rows.tokens(grid, 0, image.tokens - math.prod(grid))

    hooks = [vectors.on_embedder(network.time_text_embed, embed), image.of_output(network.img_in)]
    for block in network.transformer_blocks:
        hooks.append(vectors.on_modulation(block.img_mod, index, as_per_token))
    return [*hooks, *on_last_layer(network.norm_out, vectors, index)]


def on_last_layer(layer, vectors: Vectors, index) -> list:
    """The last linear gets silu(vector): the vector itself is the layer's second argument."""
    kept: list[torch.Tensor] = []

    def note(module, args):
        kept[:] = [args[1]]

    def modulate(module, args, out):
        extra = module.forward(F.silu(vectors.of(kept[0])))
        return as_per_token(per_token(out, extra, index()))

    hook = layer.linear.register_forward_hook(modulate)
    return [layer.register_forward_pre_hook(note), hook]
