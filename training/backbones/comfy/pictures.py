"""Whole graphs of ComfyUI's as pictures, in this process: no server.

pictures = Pictures()                                 # after host.start
pictures.inputs("KSampler")                           # None of a class that is not here
pixels, seconds = pictures.make(graph, ["decode", 0], "plain")
"""

from __future__ import annotations

import time

from torch import Tensor

import comfy.model_management
import comfy.utils
import nodes

from ....nodes.run.words import word_columns
from ...run.workflow import Graph
from .runner import Runner


class Pictures:
    """One executor for all graphs: what two of them begin with in the same way, the loaded model
    and an encoded text, is made once."""

    def __init__(self) -> None:
        self.runner = Runner({}, "", [])

    def take(self, graph: Graph, link: list, name: str):
        """The value at a connection. name: of the graph, for what is said about it. Raises
        ValueError of one sentence where a node is refused or fails."""
        self.runner.graph, self.runner.path = graph, name
        return self.runner.take({"value": link})["value"]

    def make(self, graph: Graph, link: list, name: str) -> tuple[Tensor, float]:
        """(one image (3, H, W) in [0, 1], seconds of what was run for it)."""
        began, bars = time.monotonic(), comfy.utils.PROGRESS_BAR_ENABLED
        comfy.utils.PROGRESS_BAR_ENABLED = False  # the command shows one of its own
        try:
            images = self.take(graph, link, name)
        finally:
            comfy.utils.PROGRESS_BAR_ENABLED = bars
        return images[0].movedim(-1, 0), time.monotonic() - began

    def inputs(self, class_type: str) -> dict | None:
        """Required and optional inputs of a class as ComfyUI tells them: {"required": {name: (type
        or choices, options)}, ...}."""
        found = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        return None if found is None else found.INPUT_TYPES()

    def unload(self) -> None:
        """Room for other models: ComfyUI's leave the card."""
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()


def require_words(clip, text: str, words: tuple[str, ...] | None) -> None:
    """Raises ValueError where a text encoder cannot read a text, and where the words of a region
    are not in it; None: no region is made of them."""
    clip.tokenize(text)
    if words is not None:
        word_columns(clip, text, ", ".join(words))
