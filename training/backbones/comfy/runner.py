"""Values out of a workflow, computed by ComfyUI's own executor.

    runner = Runner(graph, path)
    runner.take({"model": ["4", 0]})                       # {"model": the loaded MODEL}
    runner.take({"positive": ["6", 0]}, {("6", "text"): "a cat"})

The executor and not a loop over the nodes: list inputs, lazy inputs, nodes that expand to others,
asynchronous nodes and the hidden inputs are its affair, and its cache keeps what does not depend on
a changed input, so that models are loaded once.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import execution

import nodes

from ...run.distributed import first_line
from ...run.workflow import Graph, above, told
from .packs import broken_pack

TAKE = "AsyncTimestepTake"  # the node at the end of what is asked for, its class, and a number
CACHE = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}


class Listener:
    """In the place of the server that an executor tells of its progress."""

    client_id = last_node_id = last_prompt_id = None

    def send_sync(self, event, data, sid=None) -> None: ...


class Runner:
    """A workflow in this process. Nodes that neither the sampler nor the decoder needs, previews
    and savers, are never run."""

    def __init__(self, graph: Graph, path: str, ends: list[str]):
        self.path = path
        self.graph = {name: graph[name] for name in above(graph, ends)}
        self.asked = 0
        self.executor = execution.PromptExecutor(Listener(), execution.CacheType.CLASSIC, CACHE)

    def require_nodes(self) -> None:
        """Raises ValueError on a node that no pack has, naming the pack where it fails to load."""
        for name, node in self.graph.items():
            if node["class_type"] in nodes.NODE_CLASS_MAPPINGS:
                continue
            where = f"{told(self.graph, name)} of {self.path}"
            if pack := broken_pack(node["class_type"]):
                raise ValueError(
                    f"{where} is of the pack {pack}, which could not be loaded, expected a pack "
                    "that works in this ComfyUI; repair it, ComfyUI's log above says what is wrong."
                )
            raise ValueError(
                f"{where} is of a class that this ComfyUI does not have, expected one of its own "
                "or of an installed pack; install the pack."
            )

    def take(self, links: dict[str, list], changes: dict[tuple[str, str], object] | None = None):
        """Name -> value of the connections, with some inputs (node, input) changed. Raises
        ValueError in one sentence on what ComfyUI refuses to run and on a node that fails."""
        taken: dict[str, object] = {}
        prompt = copy.deepcopy(self.graph)
        for (name, slot), value in (changes or {}).items():
            prompt[name]["inputs"][slot] = value
        self.asked += 1  # the executor keeps the objects of nodes, by their names
        end = f"{TAKE}{self.asked}"
        prompt[end] = {"class_type": end, "inputs": dict(links)}
        nodes.NODE_CLASS_MAPPINGS[end] = taking_class(end, list(links), taken)
        try:
            with without_its_own_words():
                self.validate(prompt, end)
                self.executor.execute(prompt, end, {}, [end])
        finally:
            del nodes.NODE_CLASS_MAPPINGS[end]
        self.require_success(prompt)
        return taken

    def validate(self, prompt: Graph, end: str) -> None:
        good, error, _, found = asyncio.run(execution.validate_prompt(end, prompt, [end]))
        if good:
            return
        for name, one in found.items():
            for reason in one["errors"]:
                raise ValueError(
                    f"{told(prompt, name)} of {self.path} cannot run here: {reason['message']} "
                    f"({short(reason['details'])}); make it run in ComfyUI, and export it again."
                )
        raise ValueError(
            f"The workflow {self.path} cannot run here: {first_line(ValueError(error['message']))};"
            " make it run in ComfyUI, and export it again."
        )

    def require_success(self, prompt: Graph) -> None:
        for event, data in self.executor.status_messages:
            if event == "execution_error":
                name = data["node_id"]
                where = told(prompt, name) if name in prompt else f"node {name}"
                said = short(data["exception_message"])
                raise ValueError(f"{where} of {self.path} failed: {said}.")
        if not self.executor.success:
            raise ValueError(f"The workflow {self.path} was interrupted.")


def taking_class(own: str, names: list[str], taken: dict[str, object]) -> type:
    """A node with an input of any type for each name, which puts what it gets into `taken`."""

    def take(self, **values):
        taken.update(values)
        return ()

    inputs = {"required": {name: ("*", {}) for name in names}}
    return type(
        own,
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: inputs),
            "RETURN_TYPES": (),
            "FUNCTION": "take",
            "OUTPUT_NODE": True,
            "CATEGORY": "",
            "take": take,
        },
    )


@contextmanager
def without_its_own_words() -> Iterator[None]:
    """The executor logs what it refuses and every traceback; it is said by an exception of ours."""

    def others(record: logging.LogRecord) -> bool:
        return record.module != "execution"

    root = logging.getLogger()
    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)


def short(text: str, most: int = 200) -> str:
    """Somebody else's message on one line."""
    line = " ".join(str(text).split()).rstrip(".")
    return line if len(line) <= most else line[: most - 3] + "..."
