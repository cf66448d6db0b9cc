"""ComfyUI in this process, with its nodes and the user's packs, but without a server.

    start("", torch.device("cpu"))
    import comfy.sample                  # ComfyUI's own from here on

What main.py does before it listens is done here: the arguments, extra_model_paths.yaml, the nodes.
The tree of ComfyUI is the only folder that is put on the path.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import torch

from ...run.distributed import first_line
from ...run.phase import phase

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("main.py", "nodes.py", "comfy", "comfy_extras")


def start(folder: str, device: torch.device) -> None:
    """Makes `import comfy` and `import nodes` ComfyUI's own, its nodes and packs loaded; once a
    process is enough, and a process that is a ComfyUI stays the one that it is. Raises ValueError
    of one sentence."""
    if "comfy.model_management" not in sys.modules:
        tree = tree_of(folder)
        phase(f"starting ComfyUI of {tree}")
        import_host(tree, device)
    load_nodes()


def tree_of(folder: str) -> Path:
    """The folder of ComfyUI: the setting's, that of COMFYUI_PATH, or that in whose custom_nodes
    this pack lies. Raises ValueError of one sentence."""
    variable = os.path.expandvars("$COMFYUI_PATH")
    given = {"backbone.comfyui": folder}
    given["COMFYUI_PATH"] = "" if variable == "$COMFYUI_PATH" else variable
    for name, place in given.items():
        if place:
            tree = Path(place).expanduser().resolve()
            if lacking := [part for part in PARTS if not (tree / part).exists()]:
                raise ValueError(
                    f"{name} is {place}, which has no {lacking[0]}, expected the folder of a "
                    "ComfyUI; set backbone.comfyui to it."
                )
            return tree
    around = ROOT.parents[1]
    if ROOT.parent.name == "custom_nodes" and all((around / part).exists() for part in PARTS):
        return around
    raise ValueError(
        f"backbone.comfyui is empty and {ROOT} lies in no ComfyUI's custom_nodes, expected a "
        "ComfyUI to run the workflow; set COMFYUI_PATH, or backbone.comfyui, to its folder."
    )


def import_host(tree: Path, device: torch.device) -> None:
    """Imports ComfyUI as main.py does it, with the arguments that a user would give it. Raises
    ValueError where a package of its own is missing."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # ComfyUI takes the current one
    sys.path.insert(0, str(tree))
    argv, sys.argv = sys.argv, [sys.argv[0], *(["--cpu"] if device.type == "cpu" else [])]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import nodes

        from_extra_paths(tree)
    except ImportError as error:
        raise ValueError(
            f"ComfyUI of {tree} cannot be imported here ({first_line(error)}), expected a Python "
            "that runs it; start this command with the Python of that ComfyUI."
        ) from error
    finally:
        sys.argv = argv
    if Path(nodes.__file__).resolve().parent != tree:
        raise ValueError(
            f"A module nodes of {nodes.__file__} was imported in the place of that of {tree}, "
            "expected ComfyUI's; start this command from another folder."
        )


def from_extra_paths(tree: Path) -> None:
    """Model folders that the user has elsewhere."""
    file = tree / "extra_model_paths.yaml"
    if file.is_file():
        import utils.extra_config

        utils.extra_config.load_extra_path_config(str(file))


def load_nodes() -> None:
    """All node classes: ComfyUI's own, ours, and those of the user's packs."""
    import nodes

    from .packs import load_packs

    if "SamplerCustomAdvanced" not in nodes.NODE_CLASS_MAPPINGS:
        phase("loading ComfyUI's nodes")
        with_routes()
        asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
        asyncio.run(load_packs(ROOT))
    if "AsyncTimestepModel" not in nodes.NODE_CLASS_MAPPINGS:
        asyncio.run(load_own())


async def load_own() -> None:
    """This package's nodes, of the modules that are in the process already: there is one copy."""
    import nodes

    from ....nodes import AsyncTimestepExtension

    for node in await AsyncTimestepExtension().get_node_list():
        nodes.NODE_CLASS_MAPPINGS[node.GET_SCHEMA().node_id] = node


def with_routes() -> None:
    """Nodes add routes to ComfyUI's server as they are imported: it is made, and never listens."""
    try:
        import server

        if not hasattr(server.PromptServer, "instance"):
            server.PromptServer(asyncio.new_event_loop())
    except Exception as error:  # a host without its editor's package: such nodes fail by themselves
        logging.warning(f"ComfyUI's server cannot be made ({first_line(error)}).")
