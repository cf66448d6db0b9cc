"""What the families share: vectors of the distinct times, and their gathering over the tokens.

A network embeds one time per sample into a vector, and each block makes its modulation of it by a
small module. A forward hook on that module runs it once more for the distinct other times, and
hands back one modulation per token. The row of a sample's base time is the module's untouched
output: tokens at that time keep the network's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from ...maps.time_rows import Rows


class Vectors:
    """The network's vector (B, C) at the extra times, once the time embedder has run.

    Other conditions (pooled text, guidance) are added to the time's embedding by every family here,
    so a vector at another time is the sample's own plus the difference of two embeddings.
    """

    def __init__(self, rows: Rows):
        self.rows = rows
        self.difference: torch.Tensor | None = None
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None

    def on_embedder(self, module: torch.nn.Module, embed: Callable[..., torch.Tensor]):
        """Hook on the time embedder; `embed(times (R,), args, out)` gives the rows' embeddings.

        Only its first call of a forward is the time's; some networks use it again for references.
        """

        def hook(module, args, out):
            if self.difference is None:
                base = out[self.rows.sample].float()
                self.difference = embed(self.rows.time, args, out).float() - base

        return module.register_forward_hook(hook)

    def of(self, vector: torch.Tensor) -> torch.Tensor:
        """(R, C): the vectors of the extra rows; `vector` (B, C) or (B, 1, C) is the network's."""
        if self.seen is None or self.seen[0] is not vector:
            base = vector.squeeze(1) if vector.ndim == 3 and vector.shape[1] == 1 else vector
            if base.ndim != 2 or len(base) != len(self.rows.base) or self.difference is None:
                raise ValueError(
                    "Async Timestep found reference images or guiding frames that give this model "
                    f"{len(vector)} times for {len(self.rows.base)} images, which a map of times "
                    "cannot be combined with; take the mask or region off, or the references out."
                )
            rows = (base[self.rows.sample].float() + self.difference).to(vector.dtype)
            self.seen = (vector, rows)
        return self.seen[1]

    def on_modulation(
        self, module: torch.nn.Module, index: Callable[[], torch.Tensor], wrap=lambda out: out
    ):
        """Hook on a module of the vector alone: its output (B, C) becomes (B, N, C), by `index`."""

        def hook(module, args, out):
            extra = module.forward(self.of(args[0]))
            return wrap(per_token(out, extra, index()))

        return module.register_forward_hook(hook)


def per_token(base: torch.Tensor, extra: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(B, ..., C) gathered from the rows base (B, C) or (B, 1, C) and extra (R, C) or (R, 1, C)."""
    channels = base.shape[-1]
    table = torch.cat([base.reshape(-1, channels), extra.reshape(-1, channels)])
    return F.embedding(index, table)


class PerToken(torch.Tensor):
    """A modulation (B, N, C) where the network expects (B, C) and gives it a token axis itself.

    It splits along its channels when asked to split axis 1, and has its token axis already when
    one is to be inserted; it is an ordinary tensor from there on.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in CHUNK and kwargs.get("dim", args[2] if len(args) > 2 else 0) == 1:
            plain = args[0].as_subclass(torch.Tensor)
            return tuple(part.as_subclass(cls) for part in plain.chunk(args[1], dim=-1))
        if func in INSERT and inserts_tokens(args[1]):
            return args[0].as_subclass(torch.Tensor)
        if func is torch.Tensor.squeeze:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)


CHUNK = (torch.Tensor.chunk, torch.chunk)
INSERT = (torch.Tensor.unsqueeze, torch.Tensor.__getitem__)


def inserts_tokens(key) -> bool:
    """unsqueeze(1), or [:, None] and [:, None, :]."""
    if isinstance(key, tuple):
        return key[:2] == (slice(None), None)
    return isinstance(key, int) and key == 1


def as_per_token(modulation: torch.Tensor) -> PerToken:
    return modulation.as_subclass(PerToken)


def token_grid(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Tokens along each axis of a latent of `size`; networks fill up to whole patches."""
    return tuple(-(-n // p) for n, p in zip(size, patch, strict=True))


class Length:
    """How many tokens a module's sequence has, noted when it runs."""

    def __init__(self) -> None:
        self.tokens = 0

    def of_output(self, module: torch.nn.Module):
        def hook(module, args, out):
            self.tokens = out.shape[1]

        return module.register_forward_hook(hook)

    def of_input(self, module: torch.nn.Module):
        def hook(module, args):
            self.tokens = args[0].shape[1]

        return module.register_forward_pre_hook(hook)


class Replaced:
    """An attribute of an instance with another value, until `remove`: what stood on the instance
    before, another pack's say, comes back; where nothing did, the class's own shows again."""

    MISSING = object()

    def __init__(self, owner, name: str, value):
        self.owner, self.name = owner, name
        self.before = vars(owner).get(name, self.MISSING)
        setattr(owner, name, value)

    def remove(self) -> None:
        if self.before is self.MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.before)


@contextmanager
def swapped(owner, name: str, value):
    """`Replaced` for the length of a `with`, whatever happens inside."""
    replaced = Replaced(owner, name, value)
    try:
        yield
    finally:
        replaced.remove()
