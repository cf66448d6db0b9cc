"""The bundled workflows, as the editor saved them: the files in workflows/ are their only source.

    graph = load("01 More detail, same steps")   in the server's own (API) format
    server.run(graph)[find(graph, "on")]         what the node of that title (or type) shows

To change one, open it in the editor (make serve), save it over the file, and let
scripts/refresh_workflows.py make its picture anew.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
NOTES = ("Note", "MarkdownNote")
SEEDS = ("seed", "noise_seed")  # the editor saves one value more behind each: "fixed"
BOX = "crop_region"  # and four behind this one: number boxes of its own, which it does not queue


def names() -> list[str]:
    """Of all, in the order in which to learn: each begins with its number, in two digits."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def saved(name: str) -> dict:
    """The editor's own format."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def downloads(workflow: dict) -> list[dict]:
    """The files that ComfyUI offers to fetch when it is opened: {name, url, directory}."""
    return [file for node in workflow["nodes"] for file in node["properties"].get("models", [])]


def embedded() -> list[str]:
    """Those that run with what comes with the pack and show off beside on."""
    sheets = by_eye()
    return [n for n in names() if loads(n, "AsyncTimestepDemoLoader") and n not in sheets]


def by_eye() -> list[str]:
    """Those that show a sheet to choose from; they run with what comes with the pack, too."""
    return [name for name in names() if loads(name, "AsyncTimestepChoose")]


def own() -> list[str]:
    """Those for a model of the user's: their loaders name files that nobody has."""
    return [name for name in names() if name not in (*embedded(), *by_eye(), *large())]


def loads(name: str, kind: str) -> bool:
    return any(node["type"] == kind for node in saved(name)["nodes"])


def large() -> list[str]:
    return [name for name in names() if downloads(saved(name))]


def to_prompt(workflow: dict) -> dict:
    """What the server runs, with the editor's numbers as ids. Raises ValueError where a node has
    saved more or fewer values than it has widgets.
    """
    source = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values, inputs = list(node.get("widgets_values", [])), {}
        for slot in node.get("inputs", []):
            name = slot["name"]
            if "widget" in slot and values:
                inputs[name] = values.pop(0)
                if name in SEEDS:
                    values.pop(0)
                if name == BOX:
                    del values[:4]
            elif "widget" in slot:
                raise ValueError(f"node {node['id']} ({node['type']}) saved no value for {name}")
            if slot.get("link") is not None:
                inputs[name] = source[slot["link"]]
        if values:
            raise ValueError(f"node {node['id']} ({node['type']}) saved {values} for no widget")
        title = {"_meta": {"title": node["title"]}} if "title" in node else {}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, **title}
    return prompt


def load(name: str) -> dict:
    return to_prompt(saved(name))


def find(graph: dict, wanted: str) -> str:
    """The id of the one node with this title or type. Raises KeyError."""
    called = {
        key: [node["class_type"], node.get("_meta", {}).get("title")] for key, node in graph.items()
    }
    found = [key for key, names in called.items() if wanted in names]
    if len(found) != 1:
        raise KeyError(f"{len(found)} nodes are called {wanted!r}; there are {called}")
    return found[0]
