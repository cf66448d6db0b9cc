"""Puts a ComfyUI and a Python environment that runs it under .host/, and prints where they are.

    python scripts/host.py [--floor]

harness/host.py does it, and says what COMFYUI_PATH, COMFYUI_PYTHON and --floor mean.
"""

from __future__ import annotations

import sys

from async_timestep.harness.host import main

if __name__ == "__main__":
    main(sys.argv[1:])
