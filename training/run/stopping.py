"""Ends a command with one sentence, before torch is known to be there."""

from __future__ import annotations

import sys
from typing import NoReturn


class Stopped(SystemExit):
    """Code 2: the command was not understood, or cannot run here. text: why."""

    def __init__(self, text: str):
        super().__init__(2)
        self.text = text


def stop(command: str, text: str) -> NoReturn:
    print(f"{command}: {text}", file=sys.stderr)
    raise Stopped(text)
