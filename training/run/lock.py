"""One process at a time works in a run folder. The system lets a lock go when its process ends,
however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock of a file, and says whether it could: False where another process has it. The
    file names that one (see `holder`). It is gone at the end, but not after a kill: what it says
    then counts for nothing."""
    with open(path, "a+", encoding="utf-8") as file:
        if not taken(file.fileno()) or not is_at(path, file.fileno()):
            yield False
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node() or 'this machine'}")
        file.flush()
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one of that name: its last holder removes it."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def holder(path: Path) -> str:
    """Who holds it, for a sentence."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8").strip() or "another process"
    return "another process"


def taken(descriptor: int) -> bool:
    """Takes the lock of an open file, without waiting. True too where the file system has none."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the text, which others may read
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
