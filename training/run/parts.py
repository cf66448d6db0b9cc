"""A command of several parts, each of which is called by its first word."""

from __future__ import annotations

import sys
from importlib import import_module

from .stopping import stop


def run_part(command: str, parts: dict[str, str], about: str) -> None:
    """Calls main() of the module of training/ that the first word names. about: what --help of the
    command itself prints. Ends with one sentence and code 2 on any other word."""
    part = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if part in ("-h", "--help"):
        print(about)
        return
    if part not in parts:
        stop(command, f"the first word is {part!r}, expected {' or '.join(parts)}.")
    import_module(f"async_timestep.training.{parts[part]}").main()
