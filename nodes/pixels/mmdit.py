"""SD3 and SD3.5: adaLN of the image stream per token; the text stream keeps the sampler's time."""

from __future__ import annotations

from ...maps.time_rows import Rows
from .hooks import Vectors, as_per_token, token_grid


def patch(network) -> tuple[int, int]:
    p = network.x_embedder.patch_size[0]
    return p, p


def install(network, rows: Rows, size) -> list:
    """Hooks for one call; to be removed after it."""
    vectors, grid = Vectors(rows), token_grid(size, patch(network))

    def embed(times, args, out):
        return network.t_embedder.forward(times, dtype=out.dtype)

    def index():
        return rows.tokens(grid)

    hooks = [vectors.on_embedder(network.t_embedder, embed)]
    for layer in [*(b.x_block for b in network.joint_blocks), network.final_layer]:
        hooks.append(vectors.on_modulation(layer.adaLN_modulation, index, as_per_token))
    return hooks
