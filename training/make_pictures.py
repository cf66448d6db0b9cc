"""Makes the model of the pictures, and measures how often it is right.

    python training/make_pictures.py autoencoder --out runs/pictures --minutes 15
    python training/make_pictures.py backbone --out runs/pictures --minutes 150
    python training/make_pictures.py measure --weights runs/pictures --n 512

A CPU is enough. `python training/make_pictures.py backbone --help` lists the options of one.
"""

from __future__ import annotations

from async_timestep.training.run.installed import require
from async_timestep.training.run.parts import run_part

PARTS = {
    "autoencoder": "pictures.train_autoencoder",
    "backbone": "pictures.train_backbone",
    "measure": "pictures.measure",
}


def main() -> None:
    run_part("make_pictures.py", PARTS, __doc__)


if __name__ == "__main__":
    require("make_pictures.py")  # before anything else is imported
    main()
