"""Flux, Flux.2, HunyuanVideo: modulation modules that answer a token axis of any length.

Chroma has the same blocks, but one network makes all their modulations.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from comfy.ldm.flux.layers import ModulationOut, timestep_embedding

from ...maps.time_rows import Rows
from .hooks import Length, Replaced, Vectors, as_per_token, per_token, token_grid

CHROMA_TIME = 16  # channels of the time in the approximator's input
CHROMA_ROWS = 16  # rows that go through the approximator together


def patch(network) -> tuple[int, ...]:
    """(p, p), or HunyuanVideo's (1, p, p)."""
    p = network.patch_size
    return tuple(p) if isinstance(p, (list, tuple)) else (p, p)


class Sequences:
    """Where the pixels stand: alone in the image stream, after the text in the joint one.

    Reference images have tokens of the image stream, after the pixels (Flux) or before them
    (HunyuanVideo's are cut off before its last layer); they keep the sampler's time.
    """

    def __init__(self, rows: Rows, grid: tuple[int, ...], references_first: bool):
        self.rows, self.grid, self.references_first = rows, grid, references_first
        self.pixels = grid[0] * grid[1] * (grid[2] if len(grid) == 3 else 1)
        self.image, self.text = Length(), Length()

    def index(self, text: int, image: int) -> torch.Tensor:
        others = image - self.pixels
        before, after = (others, 0) if self.references_first else (0, others)
        return self.rows.tokens(self.grid, text + before, after)

    def in_image(self) -> torch.Tensor:
        return self.index(0, self.image.tokens)

    def in_joint(self) -> torch.Tensor:
        return self.index(self.text.tokens, self.image.tokens)

    def in_output(self) -> torch.Tensor:
        return self.index(0, self.pixels if self.references_first else self.image.tokens)


def watch_streams(network, places: Sequences) -> list:
    """The lengths of both streams, read where the first double block gets them."""

    def note(module, args, kwargs):
        places.image.tokens, places.text.tokens = kwargs["img"].shape[1], kwargs["txt"].shape[1]

    return [network.double_blocks[0].register_forward_pre_hook(note, with_kwargs=True)]


def modulate(vectors: Vectors, module, index) -> torch.utils.hooks.RemovableHandle:
    """Hook on a Modulation: shift, scale and gate per token."""

    def hook(module, args, out):
        extra = module.forward(vectors.of(args[0]))
        parts = zip(out, extra, strict=True)
        return tuple(None if a is None else gathered(a, b, index()) for a, b in parts)

    return module.register_forward_hook(hook)


def gathered(base: ModulationOut, extra: ModulationOut, index: torch.Tensor) -> ModulationOut:
    """Shift, scale and gate per token, as `per_token`."""
    parts = {n: per_token(getattr(base, n), getattr(extra, n), index) for n in vars(base)}
    return replace(base, **parts)


def install(network, rows: Rows, size, time_factor=1000.0, references_first=False) -> list:
    """Hooks for one call; to be removed after it."""
    vectors = Vectors(rows)
    places = Sequences(rows, token_grid(size, patch(network)), references_first)

    def embed(times, args, out):
        wave = timestep_embedding(times, 256, time_factor=time_factor)
        return network.time_in.forward(wave.to(args[0].dtype))

    hooks = [vectors.on_embedder(network.time_in, embed)]
    if getattr(network.params, "global_modulation", False):  # Flux.2: before the first block
        hooks += [places.image.of_output(network.img_in), places.text.of_output(network.txt_in)]
        in_image, in_joint = (
            [network.double_stream_modulation_img],
            [network.single_stream_modulation],
        )
    else:
        hooks += watch_streams(network, places)
        in_image = [block.img_mod for block in network.double_blocks]
        in_joint = [block.modulation for block in network.single_blocks]
    hooks += [modulate(vectors, module, places.in_image) for module in in_image]
    hooks += [modulate(vectors, module, places.in_joint) for module in in_joint]
    last = network.final_layer.adaLN_modulation
    return [*hooks, vectors.on_modulation(last, places.in_output)]


def install_hunyuan(network, rows: Rows, size) -> list:
    """HunyuanVideo's and HunyuanImage's time is in 0 ... 1000. Its text refiner keeps the
    sampler's time."""
    return install(network, rows, size, time_factor=1.0, references_first=True)


def install_chroma(network, rows: Rows, size) -> list:
    """All modulations come from one approximator: it runs for the extra times too."""
    places = Sequences(rows, token_grid(size, patch(network)), False)
    extra: list[torch.Tensor] = []

    def approximate(module, args, out):
        wave = timestep_embedding(rows.time, CHROMA_TIME).to(args[0].dtype)
        parts = []
        for start in range(0, len(wave), CHROMA_ROWS):
            some = slice(start, start + CHROMA_ROWS)
            vector = args[0][rows.sample[some]].clone()
            vector[:, :, :CHROMA_TIME] = wave[some].unsqueeze(1)
            parts.append(module.forward(vector))
        extra[:] = [torch.cat(parts)]

    original = network.get_modulations

    def get_modulations(tensor, block_type, *, idx=0):
        base, other = (original(t, block_type, idx=idx) for t in (tensor, extra[0]))
        if block_type == "double_txt":
            return base
        if block_type == "single":
            return gathered(base, other, places.in_joint())
        if block_type == "double_img":
            index = places.in_image()
            return tuple(gathered(a, b, index) for a, b in zip(base, other, strict=True))
        index, parts = places.in_output(), zip(base, other, strict=True)
        return tuple(as_per_token(per_token(a, b, index)) for a, b in parts)

    lengths = [places.image.of_output(network.img_in), places.text.of_output(network.txt_in)]
    approximator = network.distilled_guidance_layer.register_forward_hook(approximate)
    return [Replaced(network, "get_modulations", get_modulations), *lengths, approximator]
