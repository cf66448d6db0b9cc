"""The checkout as the package `async_timestep`: what training/async_timestep.py makes of it."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "training" / "async_timestep.py"))
