"""The bundled workflows, as the editor saved them: the files in workflows/ are their only source.

    graph = load("demo_8_regional_detail")            in the server's own (API) format
    change(graph, "Deviation", deviation=0.7)         a node by its title or its type
    server.run(graph)[find(graph, "PreviewImage")]

To change one, open it in the editor (make serve), save it over the file, and let
scripts/refresh_workflows.py make its picture anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
NOTES = ("Note", "MarkdownNote")
SEEDS = ("seed", "noise_seed")  # the editor saves one value more behind each: "fixed"


def names() -> list[str]:
    """Of all, in the order of their numbers."""

    def place(name: str) -> tuple:
        letters, number = re.match(r"(\D*)(\d*)", name).groups()
        return letters, int(number or 0), name

    return sorted((path.stem for path in FOLDER.glob("*.json")), key=place)


def saved(name: str) -> dict:
    """The editor's own format."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def downloads(workflow: dict) -> list[dict]:
    """The files that ComfyUI offers to fetch when it is opened: {name, url, directory}."""
    return [file for node in workflow["nodes"] for file in node["properties"].get("models", [])]


def embedded() -> list[str]:
    """Those that run with what comes with the pack."""
    return [name for name in names() if not downloads(saved(name))]


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


def change(graph: dict, wanted: str, **inputs) -> dict:
    """The graph, with other values or wires at this node. Raises KeyError on an input it lacks."""
    node = graph[find(graph, wanted)]
    if not inputs.keys() <= node["inputs"].keys():
        raise KeyError(f"{wanted} has {sorted(node['inputs'])}, not {sorted(inputs)}")
    node["inputs"].update(inputs)
    return graph
