"""Makes the model of the pictures, and measures how often it is right.

    python training/make_pictures.py autoencoder --out runs/pictures --minutes 15
    python training/make_pictures.py backbone --out runs/pictures --minutes 150
    python training/make_pictures.py measure --weights runs/pictures --n 512

A CPU is enough. `python training/make_pictures.py backbone --help` lists the options of one.
"""

from __future__ import annotations

import sys
from importlib import import_module

from async_timestep.training.run.installed import require
from async_timestep.training.run.stopping import stop

PARTS = {
    "autoencoder": "pictures.train_autoencoder",
    "backbone": "pictures.train_backbone",
    "measure": "pictures.measure",
}


def main() -> None:
    part = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if part in ("-h", "--help"):
        print(__doc__)
        return
    if part not in PARTS:
        stop("make_pictures.py", f"the first word is {part!r}, expected {' or '.join(PARTS)}.")
    import_module(f"async_timestep.training.{PARTS[part]}").main()


if __name__ == "__main__":
    require("make_pictures.py")  # before anything else is imported
    main()
