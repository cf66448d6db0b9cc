"""Files that are written whole or not at all.

    with whole_file(path) as temporary:   # a name beside `path`
        temporary.write_bytes(data)       # moved to `path` here, or gone after an exception

tpm/checkpoint.py has its own: it is used without the trainer.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """What the block writes to the path that it gets is flushed to the disk and then moved to
    `path`. After an exception the old file stands as it was, and nothing beside it. Two processes
    that write the same file do not share a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def copied_aside(path: Path, why: str = "damaged") -> Path:
    """A copy of a file beside it, under a name that is free."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}_{number}")).exists():
        number += 1
    with whole_file(aside) as temporary:
        temporary.write_bytes(path.read_bytes())
    return aside
