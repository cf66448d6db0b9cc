"""Opens a ComfyUI with this pack and its embedded model, to play with in a browser.

    python scripts/serve.py [--port 8188] [any other ComfyUI flag]

On the CPU where torch finds no GPU. Models and pictures are kept in .host/base.
"""

from __future__ import annotations

import subprocess
import sys

from async_timestep.harness.host import ensure_base, ensure_host
from async_timestep.harness.venvs import say

if __name__ == "__main__":
    tree, python = ensure_host()
    flags = sys.argv[1:]
    check = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    found = subprocess.run(
        [str(python), "-c", check], capture_output=True, text=True
    ).stdout.strip()
    if found != "True" and "--cpu" not in flags:
        flags.append("--cpu")
    say("In the browser: ComfyUI's logo > Templates > async-timestep. Ctrl+C stops the server.")
    command = [str(python), str(tree / "main.py"), "--base-directory", str(ensure_base()), *flags]
    try:
        sys.exit(subprocess.run(command).returncode)
    except KeyboardInterrupt:
        pass
