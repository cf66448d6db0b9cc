"""Makes the embedded model and its scorer anew, and measures how often the model is right.

    python training/make_tiny.py backbone --out training/tiny/weights --minutes 90
    python training/make_tiny.py backbone --out smoke --steps 300      # not by the clock
    python training/make_tiny.py unet --out training/tiny/weights --minutes 90
    python training/make_tiny.py scorer --out training/tiny/weights --minutes 8
    python training/make_tiny.py accuracy --n 512 --steps 15 --guidance 3 --out accuracy.png

A CPU is enough. `python training/make_tiny.py backbone --help` lists the options of one of them.
"""

from __future__ import annotations

import sys
from importlib import import_module

from async_timestep.training.run.installed import require
from async_timestep.training.run.stopping import stop

PARTS = {
    "backbone": "tiny.train_backbone",
    "unet": "tiny.train_unet",
    "scorer": "tiny.train_scorer",
    "accuracy": "evaluation.accuracy",
}


def main() -> None:
    part = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if part in ("-h", "--help"):
        print(__doc__)
        return
    if part not in PARTS:
        stop("make_tiny.py", f"the first word is {part!r}, expected {' or '.join(PARTS)}.")
    import_module(f"async_timestep.training.{PARTS[part]}").main()


if __name__ == "__main__":
    require("make_tiny.py")  # before anything else is imported
    main()
