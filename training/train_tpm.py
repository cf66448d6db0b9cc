"""Trains a timestep prediction module (TPM) with GRPO on image rewards.

    python training/train_tpm.py                        # lists the presets, and trains tiny
    python training/train_tpm.py --preset tiny          # the embedded model, minutes on a CPU
    python training/train_tpm.py --preset sd35_medium --data.set coco --data.folder data
    python training/train_tpm.py --resume --out runs/tiny   # go on after a kill
    python training/train_tpm.py --init runs/a/tpm_last.safetensors --out runs/b   # from a TPM
    torchrun --nproc_per_node 4 training/train_tpm.py --preset flux1_dev
    python training/train_tpm.py --preset workflow --backbone.workflow mine_api.json ...
    python training/train_tpm.py --preset workflow --backbone.checkpoint mine.safetensors ...
    python training/train_tpm.py --preset sd35_medium --dry_run --price_per_hour 3.5

Every setting of config.py is an option (--grpo.lr 3e-4); --print_config shows all of them. A run
folder holds config.yaml, metrics.jsonl, validation.jsonl, samples/, checkpoints/ and, at the end,
tpm.safetensors for the TPM Loader (models/tpm in ComfyUI).
"""

from __future__ import annotations

import sys

from async_timestep.training.run.installed import require

if __name__ == "__main__":
    require("train_tpm.py")  # before anything else is imported
    from async_timestep.training.grpo.command import main

    sys.exit(main(sys.argv[1:], __doc__))
