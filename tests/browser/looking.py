"""What a person sees of a graph in the editor."""

from __future__ import annotations

import os
from pathlib import Path

from async_timestep.harness.editor import COVERED, CROSSED, DRAWN, ZOOM

SHOTS = os.environ.get("ASYNC_TIMESTEP_SHOTS")  # a folder that keeps a picture of each
SHOWN = """([kinds, nodes2]) => window.app.graph.nodes.every(n => {
  if (!kinds.includes(n.type)) return true
  if (!nodes2) return n.imgs?.length && n.imgs.every(i => i.complete && i.naturalWidth >= 128)
  const images = [...document.querySelectorAll(`[data-node-id="${n.id}"] img[src*="/view?"]`)]
  return images.length && images.every(i => i.complete && i.naturalWidth >= 128) })"""


def keep_shot(page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}_{page.mode}.png")


def must_be_legible(page, workflow: dict) -> None:
    """In a new user's window, as the template browser opens it: large enough, its words drawn, no
    node over another and no wire behind one.
    """
    assert page.evaluate(ZOOM) >= 0.75
    assert page.evaluate(CROSSED) == []
    assert page.evaluate(COVERED) == []
    words = page.evaluate(DRAWN, page.mode == "nodes2")
    for node in workflow["nodes"]:
        if "title" in node:  # a folded one's is cut where it is longer
            assert any(word.strip().startswith(node["title"][:15]) for word in words), node["title"]
        if page.mode == "classic" and not node["flags"].get("collapsed"):
            slots = [slot for slot in node.get("inputs", []) if "widget" in slot]
            names = {s["name"] for s in slots if s["type"] in ("INT", "FLOAT")}
            assert names <= set(words), node["type"]
