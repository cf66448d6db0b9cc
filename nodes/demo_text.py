"""The embedded models' text encoder, a word table, behind ComfyUI's own CLIP class."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import comfy.sd
from comfy.sd1_clip import escape_important, token_weights, unescape_important

EMPTY, PAD = 0, 1  # rows of the word table


def clip_of(path: Path) -> comfy.sd.CLIP:
    """The host's CLIP class around the word table of a file."""
    text, tokenizer = functools.partial(TinyText, path), functools.partial(TinyTokenizer, path)
    return comfy.sd.CLIP(target=SimpleNamespace(params={}, clip=text, tokenizer=tokenizer))


class TinyTokenizer:
    """Words to (row, weight) pairs, with ComfyUI's (word:1.2) weights."""

    def __init__(self, path: Path, embedding_directory=None, tokenizer_data=None):
        with safe_open(path, framework="pt") as file:
            # word -> row of the table; -1 for words that carry nothing ("a", "on")
            self.rows: dict[str, int] = json.loads(file.metadata()["vocabulary"])
            self.length = file.get_slice("position").get_shape()[0]

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs) -> dict:
        """{"tiny": [[(row, weight), ...]]}. Raises ValueError on an unknown word or a long
        prompt.
        """
        tokens = []
        for segment, weight in token_weights(escape_important(text), 1.0):
            for word in unescape_important(segment).lower().replace(",", " ").split():
                if word not in self.rows:
                    raise ValueError(
                        f"The embedded demo model does not know the word {word[:40]!r}; "
                        f"it knows: {', '.join(self.rows)}."
                    )
                if self.rows[word] >= 0:
                    tokens.append((self.rows[word], weight, len(tokens) + 1))
        if len(tokens) > self.length:
            raise ValueError(
                f"The prompt has {len(tokens)} meaningful words, the embedded demo model reads at "
                f"most {self.length}; describe one to three objects and a background."
            )
        tokens = tokens or [(EMPTY, 1.0, 0)]
        tokens += [(PAD, 1.0, 0)] * (self.length - len(tokens))
        return {"tiny": [tokens if return_word_ids else [pair[:2] for pair in tokens]]}

    def untokenize(self, token_weight_pairs) -> list:
        words = {row: word for word, row in reversed(self.rows.items())}
        return [(pair, words.get(pair[0], "")) for pair in token_weight_pairs]

    def state_dict(self) -> dict:
        return {}


class TinyText(torch.nn.Module):
    """Rows to conditioning (1, L, 64) and its pooled vector (1, 128); L is the table's length."""

    def __init__(self, path: Path, device="cpu", dtype=None, model_options=None):
        super().__init__()
        self.dtypes = {torch.float32}
        for name, tensor in load_file(path).items():
            self.register_buffer(name, tensor.to(device))

    def encode_token_weights(self, tokens: dict) -> tuple[torch.Tensor, torch.Tensor]:
        rows, weights = zip(*[pair[:2] for pair in tokens["tiny"][0]], strict=True)
        weight = torch.tensor(weights, device=self.token.device).unsqueeze(-1)
        out = self.token[torch.tensor(rows, device=self.token.device)] * weight + self.position
        return out.unsqueeze(0), (out.flatten() @ self.pool).unsqueeze(0)

    def set_clip_options(self, options: dict) -> None: ...

    def reset_clip_options(self) -> None: ...

    def load_sd(self, sd: dict):
        return [], []
