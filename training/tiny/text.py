"""The embedded model's text encoder: a frozen table of word vectors, positions, and a pooled
projection.

Everything it knows is in one safetensors file (`text.safetensors`): the vectors, and in the
metadata the word list, where a word maps to a row, or to -1 when it carries nothing ("a",
"on").
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .scenes import COLOURS, SHAPES, TEXTURES, TONES

LENGTH = 12  # tokens
WIDTH = 64  # channels of a token
POOLED = 128  # channels of the pooled vector
SILENT = ("a", "an", "the", "of", "on", "and", "background")


def vocabulary() -> dict[str, int]:
    """Word -> table row. Row 0 is the empty prompt, row 1 is padding; a plural shares its
    singular's row.
    """
    words = [
        *COLOURS,
        *SHAPES,
        "left",
        "right",
        "above",
        "below",
        "two",
        "three",
        *TONES,
        *TEXTURES,
    ]
    rows = {word: row for row, word in enumerate(words, start=2)}
    rows.update({shape + "s": rows[shape] for shape in SHAPES})
    rows.update({word: -1 for word in SILENT})
    return rows


def make_table(
    path: Path, rng: torch.Generator, words: dict[str, int] | None = None, length: int = LENGTH
) -> None:
    """Writes a new frozen text table: token vectors N(0, 1), position vectors N(0, 1/4), a
    random pooled projection. words: the rows of another vocabulary; length: tokens.
    """
    words = words or vocabulary()
    tensors = {
        "token": torch.randn(max(words.values()) + 1, WIDTH, generator=rng),
        "position": 0.5 * torch.randn(length, WIDTH, generator=rng),
        "pool": torch.randn(length * WIDTH, POOLED, generator=rng) / (length * WIDTH) ** 0.5,
    }
    save_file(
        tensors,
        path,
        metadata={"format": "async-timestep-tiny-text", "vocabulary": json.dumps(words)},
    )


class TextTable:
    """Frozen text encoder. `TextTable(path)(captions)` gives tokens (B, 12, 64) and pooled (B,
    128), float32; a table of another length gives as many tokens.
    """

    def __init__(self, path: Path):
        with safe_open(path, framework="pt") as file:
            self.rows = json.loads(file.metadata()["vocabulary"])
            self.token, self.position, self.pool = (
                file.get_tensor(n) for n in ("token", "position", "pool")
            )

    def ids(self, caption: str) -> list[int]:
        """Table rows of a caption, padded to the table's length. Raises ValueError on an unknown
        word or a long caption.
        """
        words = caption.lower().replace(",", " ").split()
        for word in words:
            if word not in self.rows:
                raise ValueError(
                    f"The embedded demo model does not know the word {word!r}; "
                    f"it knows: {', '.join(self.rows)}."
                )
        ids = [self.rows[word] for word in words if self.rows[word] >= 0] or [0]
        length = len(self.position)
        if len(ids) > length:
            raise ValueError(
                f"The prompt has {len(ids)} meaningful words, the embedded demo model reads at "
                f"most {length}."
            )
        return ids + [1] * (length - len(ids))

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.token[torch.tensor([self.ids(c) for c in captions])] + self.position
        return tokens, tokens.flatten(1) @ self.pool
