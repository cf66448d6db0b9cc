"""ComfyUI in this process.

    import_comfy("cpu")
    hook = pack("nodes.run.hook")     # a module of ours, beside it

The tree of ComfyUI is the only folder that is put on the path.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from .host import ensure_tree


def import_comfy(device: str = "cpu") -> None:
    """Makes `import comfy` and `import nodes` ComfyUI's own; once a process is enough."""
    tree = str(ensure_tree())
    if tree in sys.path:
        return
    sys.path.insert(0, tree)
    argv, sys.argv = sys.argv, [sys.argv[0], *(["--cpu"] if device == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes

    sys.argv = argv
    assert Path(nodes.__file__).parent == Path(tree), nodes.__file__


def pack(name: str) -> ModuleType:
    return importlib.import_module(f"async_timestep.{name}")
