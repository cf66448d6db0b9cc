"""What is under way: said by whoever works, shown by console.py.

    phase("rollout")
    phase("validation", done=32, total=256)

Like logging it goes one way and may be heard by nobody; it never changes what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int], None]
listeners: list[Listener] = []


def phase(what: str, done: int = 0, total: int = 0) -> None:
    """`what` begins or has come to `done` of `total`."""
    for listener in listeners:
        listener(what, done, total)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Within the block the listener is told."""
    listeners.append(listener)
    try:
        yield
    finally:
        listeners.remove(listener)
