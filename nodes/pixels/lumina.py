"""Lumina-Image 2 and Z-Image: one sequence, text first, pixels, then padding."""

from __future__ import annotations

import math

import torch

from ...maps.time_rows import Rows
from .hooks import Length, Vectors, as_per_token, token_grid


def patch(network) -> tuple[int, int]:
    return network.patch_size, network.patch_size


def padded(network, pixels: int) -> int:
    """Image tokens with Z-Image's filling up to whole blocks of 32."""
    return pixels + -pixels % (network.pad_tokens_multiple or 1)


def install(network, rows: Rows, size) -> list:
    """Hooks for one call; to be removed after it. These networks are told 1 - t."""
    vectors, grid = Vectors(rows), token_grid(size, patch(network))
    pixels = math.prod(grid)

    def embed(times, args, out):
        return network.t_embedder.forward((1.0 - times) * network.time_scale, dtype=out.dtype)

    hooks = [vectors.on_embedder(network.t_embedder, embed)]
    for layer in [*network.noise_refiner, *network.layers, network.final_layer]:
        sequence = Length()

        def index(sequence=sequence) -> torch.Tensor:
            image = padded(network, pixels)
            return rows.tokens(grid, sequence.tokens - image, image - pixels)

        hooks.append(sequence.of_input(layer))
        hooks.append(vectors.on_modulation(layer.adaLN_modulation, index, as_per_token))
    return hooks
