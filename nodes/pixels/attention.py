"""Where the words are: cross-attention maps of the positive prompt, read while the network runs.

UNets and video models have cross-attentions: queries are pixels, keys are text, both are read at
their modules' outputs. In the other families pixels and text attend to each other in one sequence:
there the rows of the pixels and the columns of the text are taken out of the joint softmax, which
is never held as a whole, in the deeper half of the layers. On the embedded model the masks of its
last block meet the finished objects with an IoU of 0.50, those of the two before with 0.33; a
softmax over the text alone would be cheaper, and its masks reach 0.29 where the joint one's reach
0.39.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ...maps.masks import nearest
from .families import family_of, uncompiled
from .hooks import token_grid

MOST_CROSS, MOST_JOINT = 8, 4  # layers that are read in one call
BLOCK = 1 << 24  # scores that are held at once


class Columns(NamedTuple):
    """The columns of a prompt's conditioning as the network gets it. filled: how many of them the
    model put before the prompt's (Flux.2 fills up to 512 at the beginning)."""

    count: int
    filled: int = 0


@dataclass
class WordMaps:
    """Attention to words, collected over the layers of one evaluation.

    columns: of each word in the positive prompt's own conditioning. maps: (B, W, ...) on the grid
    of the queries, None until the positive prompt has run.
    """

    columns: Sequence[Sequence[int]]
    total: torch.Tensor | None = None
    layers: int = 0
    prompt: object = None  # uuid of the prompt that was read

    def restart(self) -> None:
        self.total, self.layers, self.prompt = None, 0, None

    @property
    def maps(self) -> torch.Tensor | None:
        return None if self.total is None else self.total / self.layers

    def add(self, maps: torch.Tensor) -> None:
        """Layers may have other grids: the first one's is kept."""
        if self.total is None:
            self.total = maps
        else:
            self.total = self.total + nearest(maps, self.total.shape[2:])
        self.layers += 1


@dataclass
class Reading:
    """One call of the network whose chunk of the positive prompt is read."""

    words: WordMaps
    rows: slice  # of the batch
    size: tuple[int, ...]  # of the latent
    text: int  # columns of the conditioning in this call
    prompt: Columns  # of the positive prompt, before batching
    pending: dict = field(default_factory=dict)

    def selected(self) -> list[list[int]]:
        """A word's columns in this call: ComfyUI repeats a shorter prompt to the common length."""
        starts = range(self.prompt.filled, self.text, self.prompt.count)
        return [[s + c for s in starts for c in word] for word in self.words.columns]

    def read(self, q, k, grid: Sequence[int], text_from: int = 0) -> None:
        """q: (B, heads, N, d) of the pixels; k: (B, heads, K, d), the text from `text_from` on."""
        columns = [[text_from + c for c in word] for word in self.selected()]
        shares = attention_to(q, k, columns)
        self.words.add(shares.view(*shares.shape[:2], *grid))


def attention_to(q: torch.Tensor, k: torch.Tensor, columns: Sequence[Sequence[int]]):
    """(B, W, N): each pixel's softmax over all keys, mean over heads and over a word's columns.

    q: (B, heads, N, d), k: (B, heads, K, d). Only BLOCK scores are held at once.
    """
    batch, heads, pixels, width = q.shape
    wanted = torch.tensor([c for word in columns for c in word], device=q.device)
    lengths = [len(word) for word in columns]
    at_once = max(1, BLOCK // (batch * pixels * k.shape[2]))
    rows = max(1, BLOCK // (batch * k.shape[2]))
    out = q.new_zeros(batch, len(columns), pixels, dtype=torch.float32)
    for head in range(0, heads, at_once):
        some = slice(head, head + at_once)
        keys = k[:, some].transpose(-1, -2)
        for start in range(0, pixels, rows):
            part = slice(start, start + rows)
            scores = (q[:, some, part] @ keys).float() * width**-0.5
            total = scores.logsumexp(-1, keepdim=True)
            shares = (scores[..., wanted] - total).exp().sum(1)
            for w, of_word in enumerate(shares.split(lengths, -1)):
                out[:, w, part] += of_word.mean(-1)
    return out / heads


def start_reading(
    words: WordMaps, options: dict, x, context, prompts: dict, shape: Sequence[int]
) -> Reading | None:
    """The reading of this call, None where it holds no positive prompt or one that was read.

    prompts: uuid -> Columns of the positive ones. shape: of the run's latent. Raises ValueError
    where the call is not for the whole latent, a second positive prompt stands beside the first
    (the words belong to one of them), or the prompt is too short for the words.
    """
    uuids = list(options.get("uuids", []))
    if options.get("context_window") is not None:
        raise ValueError(
            "AsynDM Region Mask in mode words found context windows, which show the network a part "
            "at a time; use mode mask, or take the context windows node out."
        )
    positive = [uuid for uuid in uuids if uuid in prompts]
    if not positive or positive == [words.prompt]:
        return None
    if len(positive) > 1 or words.prompt is not None:
        raise ValueError(
            "AsynDM Region Mask found several positive prompts at once (combined or with areas), "
            "but words belong to one of them; use mode mask, or one prompt."
        )
    batch = shape[0]
    if x.shape[2:] != shape[2:] or len(x) != len(uuids) * batch:
        raise ValueError(
            "AsynDM Region Mask in mode words found that the network is shown a part of the "
            f"picture or batch ({tuple(x.shape)} of {tuple(shape)}); use mode mask, or take the "
            "prompt's area or the node out that splits the calls."
        )
    prompt = prompts[positive[0]]
    last = max(column for word in words.columns for column in word)
    if last >= prompt.count - prompt.filled:
        raise ValueError(
            f"AsynDM Region Mask found a word at token {last} of its text, but the positive prompt "
            f"has {prompt.count - prompt.filled} tokens; give it the CLIP and the text that the "
            "positive prompt is made of."
        )
    words.prompt = positive[0]
    at = uuids.index(positive[0]) * batch
    rows = slice(at, at + batch)
    return Reading(words, rows, tuple(x.shape[2:]), context.shape[1], prompt)


def watch(stack, base, reading: Reading, options: dict) -> dict:
    """Installs the reading for one call; returns the call's transformer_options."""
    network = uncompiled(base.diffusion_model)
    family = family_of(network)
    if family.cross is not None:
        for part in evenly(family.cross(network), MOST_CROSS):
            for hook in on_cross_attention(reading, *part):
                stack.callback(hook.remove)
        return options
    return {**options, "optimized_attention_override": joint_reader(network, reading, options)}


def evenly(layers: Sequence, most: int) -> list:
    """At most `most` of them, from the first to the last."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(i * (len(layers) - 1) / (most - 1))] for i in range(most)]


def on_cross_attention(reading: Reading, to_q, to_k, heads: int, cells: Sequence[int]) -> list:
    """Hooks on a cross-attention's query and key; they see it under any replaced attention."""
    grid = token_grid(reading.size, cells)

    def split(out):
        return out[reading.rows].unflatten(-1, (heads, -1)).transpose(1, 2)

    def query(module, args, out):
        reading.pending[to_k] = split(out)

    def key(module, args, out):
        q = reading.pending.pop(to_k, None)
        if q is not None and q.shape[2] == math.prod(grid) and out.shape[1] == reading.text:
            reading.read(q, split(out), grid)

    return [to_q.register_forward_hook(query), to_k.register_forward_hook(key)]


def joint_reader(network, reading: Reading, options: dict):
    """An attention override that reads some of the joint attentions, then calls the one before."""
    family = family_of(network)
    grid = token_grid(reading.size, family.patch(network))
    pixels, text = math.prod(grid), reading.text
    previous = options.get("optimized_attention_override")
    blocks = joint_blocks(network)
    # HunyuanVideo 1.5 puts its other text encoders before this one
    text_last = getattr(network, "cond_type_embedding", None) is not None
    chosen, seen = set(evenly(range(blocks // 2, blocks), MOST_JOINT)), iter(range(10**9))

    def attend(func, q, k, v, heads, *args, **kwargs):
        split = kwargs.get("skip_reshape", False)
        sequence = q.shape[2] if split else q.shape[1]
        if sequence >= text + pixels and next(seen) in chosen:
            mine_q, mine_k = q[reading.rows], k[reading.rows]
            if not split:
                mine_q, mine_k = (
                    part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (mine_q, mine_k)
                )
            start = family.image_start(network, sequence, text, pixels)
            text_from = start - text if text_last else 0
            reading.read(mine_q[:, :, start : start + pixels], mine_k, grid, text_from)
        if previous is not None:
            return previous(func, q, k, v, heads, *args, **kwargs)
        return func(q, k, v, heads, *args, **kwargs)

    return attend


def joint_blocks(network) -> int:
    """How many joint attentions a call has."""
    lists = ("joint_blocks", "double_blocks", "single_blocks", "transformer_blocks", "layers")
    return sum(len(getattr(network, name, ())) for name in lists)
