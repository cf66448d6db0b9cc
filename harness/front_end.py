"""The newest front end of ComfyUI, beside the one that the tested release asks for.

ComfyServer(base, flags=("--cpu", "--front-end-root", str(ensure_front_end())))
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from .host import HOST
from .venvs import run, say

PACKAGE = "comfyui-frontend-package"
VERSION = "1.58.1"  # pinned, so that a test says the same tomorrow: raise it by hand


def ensure_front_end() -> Path:
    """The folder of its pages under .host; made whole before it gets its name. Raises SystemExit
    where the registry does not give it."""
    folder = HOST / f"front-end-{VERSION}"
    pages = folder / PACKAGE.replace("-", "_") / "static"
    if (pages / "index.html").exists():
        return pages
    say(f"Getting the front end {VERSION} ...")
    HOST.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=HOST))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", fresh]
    try:
        run([*pip, f"{PACKAGE}=={VERSION}"], HOST / f"{fresh.name}.log")
        shutil.rmtree(folder, ignore_errors=True)  # of a package without its pages
        os.replace(fresh, folder)
    except OSError:  # another worker was faster
        if not pages.exists():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        (HOST / f"{fresh.name}.log").unlink(missing_ok=True)
    return pages
