"""The scripts of the repository, for the tests that run on the oldest host and on the newest."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
