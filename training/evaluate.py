"""Evaluates TPMs against D = 0 and the plain alternatives, on prompts held out of training.

    python training/evaluate.py                             # lists the presets, and takes tiny
    python training/evaluate.py --preset tiny --tpm runs/tiny/tpm.safetensors --out runs/evaluation
    python training/evaluate.py --preset tiny --k 4 6 10 --n 256 --fixed -0.5 0.25 0.5 1 \
        --gammas 0.5 1 2 --omegas 0.75 1.25 --lying 0.25 0.5 --more_steps 1 2 \
        --solvers dpmpp_2m unipc --mean_schedule --tpm a.safetensors b.safetensors \
        --schedule found.safetensors
    python training/evaluate.py --suite asyndm --help       # text alignment: AsynDM and its peers

Every method starts from the same noises, so differences are paired. Every setting of config.py is
an option too (--backbone.guidance 5). --out gets per_prompt.csv, table.md, table.csv,
categories.md, paper_table.md, gamma.png, deviation.png, grid_*.png (at the first K) and
_summary.json. Interrupted, the same command goes on; with more methods it measures only these, and
the tables show the methods asked for.

The best fixed D and a TPM's mean schedule are found on the validation prompts, never on the
evaluation prompts; D = 0 takes part, so "best fixed D" is never worse than nothing there.
"""

from __future__ import annotations

import sys

from async_timestep.training.run.installed import require

if __name__ == "__main__":
    require("evaluate.py")  # before anything else is imported
    if any(word.split("=")[0] == "--suite" for word in sys.argv[1:]):
        from async_timestep.training.suite.command import main

        sys.exit(main(sys.argv[1:]))
    from async_timestep.training.evaluation.command import main

    sys.exit(main(sys.argv[1:], __doc__))
