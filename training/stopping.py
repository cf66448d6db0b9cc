"""Ends a command with one sentence, which torchrun says again at the very end of its own report.

Imports nothing but Python's own: a command may end before torch is known to be there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import NoReturn


def stop(command: str, text: str) -> NoReturn:
    """Code 2: the command was not understood, or cannot run here."""
    print(f"{command}: {text}", file=sys.stderr)
    tell_torchrun(text)
    raise SystemExit(2)


def tell_torchrun(text: str) -> None:
    """Writes what torch.distributed.elastic's record() writes, without its traceback. torchrun
    otherwise knows only the exit code of the rank that failed first."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        extra = {"timestamp": str(int(time.time()))}
        with open(file, "w", encoding="utf-8") as out:
            json.dump({"message": {"message": text, "extraInfo": extra}}, out)
