"""A small CLIP for scenes: a learnt second opinion beside the exact judge of score.py.

Its file is made by train_scorer.py and holds everything it needs, the word list included:

    scorer = SceneScorer(Path("training/tiny/weights/scorer.safetensors"))
    cosine = scorer(images, captions)  # (B,)

The metadata of the file say how often it finds the right one of 64 held-out captions.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from .scenes import SIZE
from .text import LENGTH

FORMAT = "async-timestep-tiny-scorer"
EMBED, WIDTH, LAYERS = 128, 96, 2
CHANNELS = (32, 64, 96, 128)


def caption_ids(rows: dict[str, int], caption: str) -> list[int]:
    """Table rows of a caption, padded with 1 to LENGTH. Raises ValueError on an unknown word."""
    words = caption.lower().replace(",", " ").split()
    unknown = [word for word in words if word not in rows]
    if unknown:
        raise ValueError(
            f"The scene scorer does not know the word {unknown[0]!r}; it knows: {', '.join(rows)}."
        )
    ids = [rows[word] for word in words if rows[word] >= 0] or [0]
    return (ids + [1] * LENGTH)[:LENGTH]


class ScorerNetwork(nn.Module):
    """Two encoders onto one unit sphere of EMBED dimensions, and the log of the temperature."""

    def __init__(self, vocabulary: int):
        super().__init__()
        blocks, last = [], 3
        for channels in CHANNELS:
            conv = nn.Conv2d(last, channels, 3, stride=2, padding=1)
            blocks += [conv, nn.GroupNorm(8, channels), nn.GELU()]
            last = channels
        side = SIZE // 2 ** len(CHANNELS)
        self.image = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(last * side * side, EMBED))
        self.word = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.text = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.out = nn.Linear(LENGTH * WIDTH, EMBED)
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 64, 64) in [0, 1] -> (B, EMBED), unit length."""
        return F.normalize(self.image(images * 2 - 1), dim=-1)

    def captions(self, ids: torch.Tensor) -> torch.Tensor:
        """(..., LENGTH) table rows -> (..., EMBED), unit length."""
        hidden = self.text(self.word(ids.flatten(0, -2)) + self.position)
        return F.normalize(self.out(hidden.flatten(1)), dim=-1).view(*ids.shape[:-1], EMBED)


class SceneScorer:
    """Frozen scorer. `SceneScorer(path)(images, captions)`: cosine (B,) in [-1, 1], larger fits
    better.

    Raises ValueError when the file is not a scene scorer or a caption has an unknown word.
    """

    def __init__(self, path: Path):
        with safe_open(path, framework="pt") as file:
            self.metadata = file.metadata() or {}
            if self.metadata.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is of format {self.metadata.get('format')!r}, not {FORMAT!r}; "
                    "make one with `python training/make_tiny.py scorer`."
                )
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        self.rows = json.loads(self.metadata["vocabulary"])
        self.network = ScorerNetwork(len(weights["word.weight"]))
        self.network.load_state_dict(weights)
        self.network.requires_grad_(False).train(False)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, captions: list[str]) -> torch.Tensor:
        ids = torch.tensor([caption_ids(self.rows, caption) for caption in captions])
        pictures = self.network.images(images.float().cpu())
        return (pictures * self.network.captions(ids)).sum(-1)
