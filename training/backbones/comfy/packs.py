"""The user's packs of nodes, by ComfyUI's own loader, which does not stop for one that fails."""

from __future__ import annotations

import logging
from pathlib import Path

import folder_paths
import nodes

from ...run.phase import phase

FAILED: list[Path] = []  # packs that could not be loaded


async def load_packs(own: Path) -> None:
    """The packs in ComfyUI's custom_nodes folders, but for our own folder. A workflow that needs
    one that fails is told of it (`broken_pack`)."""
    packs = [
        path
        for folder in folder_paths.get_folder_paths("custom_nodes")
        for path in sorted(Path(folder).glob("*"))
        if (path.is_dir() or path.suffix == ".py")
        and path.name != "__pycache__"
        and not path.name.endswith(".disabled")
        and path.resolve() != own
    ]
    known = set(nodes.NODE_CLASS_MAPPINGS)
    for path in packs:
        phase(f"loading the pack {path.name}")
        if not await nodes.load_custom_node(str(path), known, module_parent="custom_nodes"):
            FAILED.append(path)
            logging.warning(f"The pack {path.name} could not be loaded; see above.")


def broken_pack(class_type: str) -> str:
    """The name of a pack that could not be loaded and whose code names this class of node; "" where
    there is none."""
    for pack in FAILED:
        for file in [pack] if pack.is_file() else pack.rglob("*.py"):
            if class_type in file.read_text("utf-8", "replace"):
                return pack.name
    return ""
