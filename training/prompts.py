"""Prompts (placeholder until the readers land)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .config import DataConfig
from .tiny.scenes import held_out_scenes, sample_scene


@dataclass(frozen=True)
class PromptList:
    texts: tuple[str, ...]
    categories: tuple[str, ...]
    source: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()


def load_prompts(config: DataConfig, split: str) -> PromptList:
    if split == "train":
        rng = torch.Generator().manual_seed(config.seed)
        texts = tuple(sample_scene(rng, held_out=False).caption for _ in range(4096))
    else:
        n = config.validation_prompts if split == "validation" else config.evaluation_prompts
        seed = config.seed + (1 if split == "validation" else 2)
        texts = tuple(s.caption for s in held_out_scenes(n, seed))
    return PromptList(texts, ("",) * len(texts), "scenes")


def training_order(prompts: PromptList, seed: int) -> Callable[[int], str]:
    count = len(prompts.texts)

    def order(i: int) -> str:
        epoch, at = divmod(i, count)
        rows = list(range(count))
        random.Random(f"{seed}/{epoch}").shuffle(rows)
        return prompts.texts[rows[at]]

    return order
