"""SD1.x, SD2.x, SDXL: every ResBlock adds the time, for each pixel at the block's resolution."""

from __future__ import annotations

import torch

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    Downsample,
    ResBlock,
    Upsample,
    timestep_embedding,
)

from ...maps.time_rows import Rows
from .hooks import Vectors, per_token

WORDS_AT = 4  # the paper reads attention at 16 x 16 of a 64 x 64 latent


def install(network, rows: Rows, size) -> list:
    """Hooks for one call; to be removed after it."""
    vectors = Vectors(rows)

    def embed(times, args, out):
        wave = timestep_embedding(times, network.model_channels, repeat_only=False)
        return network.time_embed.forward(wave.to(args[0].dtype))

    hooks = [vectors.on_embedder(network.time_embed, embed)]
    for block in network.modules():
        if isinstance(block, ResBlock) and not block.skip_t_emb:
            hooks += on_block(block, vectors)
    return hooks


def on_block(block: ResBlock, vectors: Vectors) -> list:
    """The block's own convolution tells its resolution; emb_layers then answers for each pixel."""
    place: list[torch.Size] = []

    def note(module, args, out):
        place[:] = [out.shape[2:]]

    def add(module, args, out):
        extra = module.forward(vectors.of(args[0]))
        return per_token(out, extra, vectors.rows.at(place[0])).movedim(-1, 1)

    hooks = [block.in_layers[-1].register_forward_hook(note)]
    return [*hooks, block.emb_layers.register_forward_hook(add)]


def cross_attentions(network) -> list:
    """The attn2 modules whose grid is nearest to a fourth of the latent's side."""
    found: list[tuple[int, torch.nn.Module]] = []
    scale = 1
    for stage in (network.input_blocks, [network.middle_block], network.output_blocks):
        for part in stage:
            if part is None:
                continue
            for module in part.modules():
                if isinstance(module, BasicTransformerBlock) and module.attn2 is not None:
                    found.append((scale, module.attn2))
                elif isinstance(module, Downsample):
                    scale *= 2
                elif isinstance(module, Upsample):
                    scale //= 2
    if not found:
        return []
    best = min((s for s, _ in found), key=lambda s: max(s / WORDS_AT, WORDS_AT / s))
    return [(attn2.to_q, attn2.to_k, attn2.heads, (best, best)) for s, attn2 in found if s == best]
