"""Searches a schedule: one deviation per step that is the same for every image. No gradient, a
tenth of a training's images.

    python training/search_schedule.py                           # lists the presets, and takes tiny
    python training/search_schedule.py --preset tiny --out runs/schedule
    python training/search_schedule.py --preset tiny --space deviation_omega --images 2640 --n 1024
    python training/search_schedule.py --preset sd35_medium --space follow_time --images 1280
    python training/search_schedule.py --preset tiny --out runs/schedule --resume
    torchrun --nproc_per_node 4 training/search_schedule.py --preset flux1_dev

Every candidate is compared with D = 0 on the same prompts and noises; a Gaussian process says which
to try next. --out gets generations.jsonl (a line per generation, from which --resume goes on to the
bit), search.png, evaluation/ with the table of held-out prompts, and schedule.safetensors for the
TPM Loader (models/tpm in ComfyUI). Where nothing is gained beyond two standard errors, that file is
D = 0 and says so.

Every setting of config.py is an option too (--backbone.guidance 5, --steps 6, --seed 1).
"""

from __future__ import annotations

import sys

from async_timestep.training.run.installed import require

if __name__ == "__main__":
    require("search_schedule.py")  # before anything else is imported
    from async_timestep.training.search.command import main

    sys.exit(main(sys.argv[1:], __doc__))
