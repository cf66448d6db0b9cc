"""Writes a TPM's mean schedule as a file, and says what it loses against the TPM.

    python training/export_schedule.py runs/tiny/tpm.safetensors
    python training/export_schedule.py mine.safetensors --n 256 --out mine_schedule.safetensors

The preset is that of the TPM's model family, unless --preset names another. The mean is taken over
the validation prompts, the loss over held-out ones. The file is for the TPM Loader (models/tpm in
ComfyUI): one deviation per step, the same for every image, no network to ask. Every setting of
config.py is an option too (--backbone.guidance 5).
"""

from __future__ import annotations

import sys

from async_timestep.training.run.installed import require

if __name__ == "__main__":
    require("export_schedule.py")  # before anything else is imported
    from async_timestep.training.search.export import main

    sys.exit(main(sys.argv[1:], __doc__))
