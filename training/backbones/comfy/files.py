"""The files of weights that a workflow names: where they lie."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...run.workflow import Graph

WEIGHTS = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
Place = tuple[str, str]  # node, input


def named_weights(graph: Graph) -> dict[Place, str]:
    """What is named in every input that names weights."""
    return {
        (name, slot): word
        for name, node in graph.items()
        for slot, word in node["inputs"].items()
        if isinstance(word, str) and word.endswith(WEIGHTS)
    }


def weight_files(graph: Graph) -> dict[Place, list[Path]]:
    """The files behind them in ComfyUI's model folders: where two folders have one of that name,
    both, since only the node knows which it takes. A name that only a pack can find is left out."""
    found = {}
    for place, word in named_weights(graph).items():
        paths = [folder_paths.get_full_path(k, word) for k in folder_paths.folder_names_and_paths]
        if files := sorted({Path(path).resolve() for path in paths if path}):
            found[place] = files
    return found
