"""Counter-based randomness: every draw has an address, so a run has no hidden state.

    noise = torch.randn(shape, generator=generator(seed, "noise", iteration, prompt, image))

Resuming, replaying one iteration and sharding over ranks all need nothing but the address.
"""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, *address: int | str) -> int:
    """A 63-bit number that depends on nothing but the seed and the address."""
    text = "/".join(map(str, (seed, *address))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, *address: int | str) -> torch.Generator:
    """A fresh CPU generator for one address."""
    return torch.Generator().manual_seed(number(seed, *address))
