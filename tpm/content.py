"""What makes one of our .safetensors files this file: a hash of its content in its metadata, and
one move onto its place.

safetensors itself has no checksum: a file with a flipped bit loads without a word.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save

KEY = "content_sha256"


def content_sha256(tensors: dict[str, torch.Tensor], texts: dict[str, str]) -> str:
    """sha256 over the metadata, but for itself, and over names, types, shapes and values."""
    known = {key: text for key, text in texts.items() if key != KEY}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name in sorted(tensors):
        plain = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_whole(path: Path, tensors: dict[str, torch.Tensor], texts: dict[str, str]) -> None:
    """Writes the file in one move: a reader sees the old one or the new one, never a half."""
    texts = {**texts, KEY: content_sha256(tensors, texts)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(with_sorted_header(save(tensors, metadata=texts)))
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def with_sorted_header(data: bytes) -> bytes:
    """The same file with its header in order: safetensors shuffles the metadata, and the same
    training run should give the same bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]
