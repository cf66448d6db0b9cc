"""Lists every file that a preset needs, and fetches what may be fetched.

    python training/prepare.py                          # lists the presets
    python training/prepare.py --preset sd35_medium
    python training/prepare.py --preset flux1_dev --data.set t2i --folder data --fetch

Takes all settings of train_tpm.py (--config too), so a path that is set is looked for there. For
each file: size, licence, where it is published, whether it is here. --fetch puts hub files into the
Hugging Face cache and prompt files into the folder; gated repositories need an accepted licence and
`hf auth login`, and are named otherwise. The exit code is 0 when all is here, else 1.
"""

from __future__ import annotations

import sys

from async_timestep.training.run.installed import require

if __name__ == "__main__":
    require("prepare.py")  # before anything else is imported
    from async_timestep.training.data.fetch import main

    sys.exit(main(sys.argv[1:], __doc__))
