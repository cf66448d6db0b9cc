"""Makes the embedded model and its scorer anew, and measures how often the model is right.

    python training/make_tiny.py backbone --out training/tiny/weights --minutes 90
    python training/make_tiny.py backbone --out smoke --steps 300      # not by the clock
    python training/make_tiny.py unet --out training/tiny/weights --minutes 90
    python training/make_tiny.py unet --prediction v --init training/tiny/weights --out runs/unet_v
    python training/make_tiny.py scorer --out training/tiny/weights --minutes 8
    python training/make_tiny.py accuracy --n 512 --steps 15 --guidance 3 --out accuracy.png

A CPU is enough. `python training/make_tiny.py backbone --help` lists the options of one of them.
"""

from __future__ import annotations

from async_timestep.training.run.installed import require
from async_timestep.training.run.parts import run_part

PARTS = {
    "backbone": "tiny.train_backbone",
    "unet": "tiny.train_unet",
    "scorer": "tiny.train_scorer",
    "accuracy": "evaluation.accuracy",
}


def main() -> None:
    run_part("make_tiny.py", PARTS, __doc__)


if __name__ == "__main__":
    require("make_tiny.py")  # before anything else is imported
    main()
