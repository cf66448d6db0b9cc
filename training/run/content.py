"""The hash of what a checkpoint holds, kept inside it: torch reads past the checksums of its files.

    state["content"] = content_sha256(state)      # over everything but "content"

A checkpoint of an older trainer has none, and is taken as it is.
"""

from __future__ import annotations

import hashlib

import torch

CONTENT = "content"


def content_sha256(state: dict) -> str:
    """sha256 over names, types, shapes and values of nested dicts, lists, tensors and numbers."""
    digest = hashlib.sha256()
    for path, value in leaves({k: v for k, v in state.items() if k != CONTENT}, ()):
        digest.update(repr(path).encode())
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{type(value).__name__} {value!r}".encode())
    return digest.hexdigest()


def leaves(value, path: tuple):
    """(path, leaf) of everything inside, in the order in which it is stored."""
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)
    else:
        yield path, value
        return
    yield path, len(value)
    for name, part in inner:
        yield from leaves(part, (*path, name))


def is_whole(state: dict) -> bool:
    """Whether the content is what was written; True where an older trainer kept no hash."""
    return state.get(CONTENT) in (None, content_sha256(state))
