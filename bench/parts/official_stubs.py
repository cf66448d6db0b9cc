"""What stands in for the libraries that the official AsynDM code asks for, and for CUDA."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import torch

TOKENS = 77


class Loose(SimpleNamespace):
    """ml_collections.ConfigDict as the official config uses it."""


class Accelerator:
    is_local_main_process, mixed_precision = True, "no"
    device = torch.device("cpu")

    def __init__(self, **settings):
        self.autocast = contextlib.nullcontext


class OnCPU:
    """torch, without CUDA."""

    cuda = SimpleNamespace(set_device=lambda number: None)

    def __getattr__(self, name):
        return getattr(torch, name)

    @staticmethod
    def Generator(device):  # noqa: N802
        return torch.Generator()


class Callable:
    """A text encoder for `main`: called, moved and frozen."""

    def __init__(self, function):
        self.function = function
        self.requires_grad_ = self.to = lambda *a, **k: None

    def __call__(self, ids):
        return self.function(ids)


class Tokenizer:
    """0 for the empty prompt, 1 for the other."""

    model_max_length = TOKENS

    def __call__(self, texts, **settings):
        ids = torch.tensor([[int(bool(text))] for text in texts])
        return SimpleNamespace(input_ids=ids)
