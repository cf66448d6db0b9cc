"""A workflow's file, as ComfyUI's own "Export (API)" writes it: read without ComfyUI.

    graph = read_workflow(path)     # {id: {"class_type": ..., "inputs": {...}}}
    sampler_node(graph, "")         # the id of the one node that samples
    own_steps(path, "")             # the K of its schedule

What is said about a node names its id, since titles need not be unique.
"""

from __future__ import annotations

import json
from pathlib import Path

Graph = dict[str, dict]

# steps, cfg, sampler_name, scheduler, positive, negative and latent_image are on the node itself
KSAMPLERS = (
    "KSampler",
    "KSamplerAdvanced",
    "AsyncTimestepKSampler",
    "AsyncTimestepKSamplerAdvanced",
)
CUSTOM = ("SamplerCustom", "SamplerCustomAdvanced")  # their SIGMAS come from another node
SAMPLERS = (*KSAMPLERS, *CUSTOM)
EXPORT = "export it by ComfyUI's menu Workflow, Export (API)"


def read_workflow(path: str) -> Graph:
    """The nodes of a file. Raises ValueError of one sentence on what is none."""
    if not path:
        raise ValueError(
            "backbone.workflow is empty and backbone.name workflow, expected the path of a "
            f"workflow; {EXPORT}, and give --backbone.workflow FILE."
        )
    try:
        graph = json.loads(Path(path).read_text("utf-8"))
    except OSError:
        raise ValueError(
            f"backbone.workflow is {path}, where no file can be read, expected a workflow; "
            f"{EXPORT}, and give its path."
        ) from None
    except (ValueError, RecursionError):
        raise ValueError(
            f"backbone.workflow is {path}, which is not JSON, expected a workflow; {EXPORT}."
        ) from None
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise ValueError(
            f"backbone.workflow is {path}, a workflow as the editor saves it, expected one as its "
            f"server runs it; {EXPORT}."
        )
    if not isinstance(graph, dict) or not graph or not all(map(is_node, graph.values())):
        raise ValueError(
            f"backbone.workflow is {path}, which holds no nodes with class_type and inputs, "
            f"expected a workflow; {EXPORT}."
        )
    for name, node in graph.items():
        for slot, value in node["inputs"].items():
            if is_link(value) and value[0] not in graph:
                raise ValueError(
                    f"{told(graph, name)} of {path} has {slot} connected to a node {value[0]} that "
                    f"is not in the file, expected a whole workflow; {EXPORT}."
                )
    return graph


def is_node(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def is_link(value: object) -> bool:
    """[id, slot], the server's own form of a connection."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
    )


def told(graph: Graph, name: str) -> str:
    """A node for a sentence: its id and its class."""
    return f"node {name} ({graph[name]['class_type']})"


def listed(graph: Graph, names: list[str]) -> str:
    return ", ".join(told(graph, name) for name in names)


def above(graph: Graph, names: list[str]) -> list[str]:
    """These nodes and all that feeds them, in the order of the file."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [value[0] for value in graph[name]["inputs"].values() if is_link(value)]
    return [name for name in graph if name in found]


def sampler_node(graph: Graph, wanted: str) -> str:
    """The node that samples: `wanted`, or the only one. Raises ValueError naming the candidates."""
    found = [name for name, node in graph.items() if node["class_type"] in SAMPLERS]
    if wanted:
        if wanted in found:
            return wanted
        what = told(graph, wanted) if wanted in graph else "which is not in the workflow"
        raise ValueError(
            f"backbone.node is {wanted!r}, {what}, expected one of the sampler nodes: "
            f"{listed(graph, found) or 'the workflow has none'}."
        )
    if not found:
        raise ValueError(
            f"The workflow has no sampler node, expected one of {', '.join(SAMPLERS)}; put one in, "
            "and export it again."
        )
    if len(found) > 1:
        raise ValueError(
            f"The workflow has {len(found)} sampler nodes, {listed(graph, found)}, expected one; "
            "name the one to train for with --backbone.node ID."
        )
    return found[0]


def steps_node(graph: Graph, sampler: str) -> str | None:
    """The node whose `steps` make the schedule; None where the sigmas are not made from a count."""
    node = graph[sampler]
    if node["class_type"] in KSAMPLERS:
        return sampler
    link = node["inputs"].get("sigmas")
    while is_link(link):
        inputs = graph[link[0]]["inputs"]
        if "steps" in inputs:
            return link[0]
        link = inputs.get("sigmas")
    return None


def literal(graph: Graph, value: object) -> object:
    """A number or word of an input; of a connected one that of the node at the other end, where
    that holds only one (Int, Primitive ...); else None."""
    while is_link(value):
        inputs = graph[value[0]]["inputs"].values()
        if len(inputs) != 1:
            return None
        value = next(iter(inputs))
    return value


def own_steps(path: str, wanted: str) -> int:
    """K of the workflow's schedule. Raises ValueError of one sentence where it has none to train
    on."""
    graph = read_workflow(path)
    sampler = sampler_node(graph, wanted)
    holder = steps_node(graph, sampler)
    if holder is None:
        raise ValueError(
            f"The sigmas of {told(graph, sampler)} come from no node with steps, so how many there "
            "are cannot be read off the workflow; set steps to their number with --steps K."
        )
    steps = literal(graph, graph[holder]["inputs"]["steps"])
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= 1000:
        shown = "connected to a calculation" if steps is None else steps
        raise ValueError(
            f"steps of {told(graph, holder)} is {shown}, expected a number from 2 to 1000: with "
            "one step there is no time to decide about; change it in the workflow, or set steps."
        )
    return steps


def require_whole(graph: Graph, sampler: str) -> None:
    """Raises ValueError of one sentence where the node samples only a part of a schedule: from a
    picture, or as one of several stages."""
    node = graph[sampler]["inputs"]
    holder = steps_node(graph, sampler)
    for name in dict.fromkeys((sampler, holder or sampler)):
        denoise = literal(graph, graph[name]["inputs"].get("denoise", 1.0))
        if denoise != 1:
            shown = "connected to a calculation" if denoise is None else f"{denoise:g}"
            raise ValueError(
                f"denoise of {told(graph, name)} is {shown}, expected 1: images are sampled from "
                "noise alone in training; set it to 1 and connect an empty latent."
            )
    noise = True if graph[sampler]["class_type"] == "SamplerCustom" else "enable"
    whole = {"add_noise": noise, "start_at_step": 0, "return_with_leftover_noise": "disable"}
    for name, wanted in whole.items():
        if name in node and (found := literal(graph, node[name])) != wanted:
            raise ValueError(
                f"{name} of {told(graph, sampler)} is {found}, expected {wanted}: one stage of "
                "several cannot be trained alone; make it one sampler with the whole schedule."
            )
    end, steps = literal(graph, node.get("end_at_step")), literal(graph, node.get("steps"))
    if isinstance(end, int) and isinstance(steps, int) and end < steps:
        raise ValueError(
            f"end_at_step of {told(graph, sampler)} is {end} of {steps} steps, expected all of "
            "them: one stage of several cannot be trained alone; make it one sampler with the "
            "whole schedule."
        )
