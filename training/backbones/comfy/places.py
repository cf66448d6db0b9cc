"""Where in a workflow the text comes in and the picture comes out, by the types of the nodes.

text_node(graph, sampler)     # the encoder of the positive prompt, and its text inputs
decoder_link(graph, sampler)  # the connection that brings the VAE to the decoder
"""

from __future__ import annotations

import nodes

from ...run.workflow import Graph, above, is_link, listed, told

GUIDED = ("positive", "conditioning")  # inputs of samplers and guiders


def types_of(class_type: str) -> dict[str, object]:
    """Input -> its type of a node class; a list is a choice of words. {} of a class that is not
    here: savers and previews that are never run may be of other packs."""
    if class_type not in nodes.NODE_CLASS_MAPPINGS:
        return {}
    inputs = nodes.NODE_CLASS_MAPPINGS[class_type].INPUT_TYPES()
    both = {**inputs.get("required", {}), **inputs.get("optional", {})}
    return {name: entry[0] for name, entry in both.items()}


def linked(graph: Graph, name: str, kind: str) -> dict[str, list]:
    """The connected inputs of a type."""
    inputs, types = graph[name]["inputs"], types_of(graph[name]["class_type"])
    return {slot: v for slot, v in inputs.items() if is_link(v) and types.get(slot) == kind}


def positive_link(graph: Graph, sampler: str) -> tuple[str, list]:
    """(node, connection) where the positive conditioning enters the sampler or its guider. Raises
    ValueError on a guider with several conditionings, none of which is called positive."""
    holder = sampler
    if graph[sampler]["class_type"] == "SamplerCustomAdvanced":
        guiders = linked(graph, sampler, "GUIDER")
        if not guiders:
            raise ValueError(
                f"{told(graph, sampler)} has no guider connected, expected one; connect it."
            )
        holder = guiders["guider"][0]
    found = linked(graph, holder, "CONDITIONING")
    named = [slot for slot in GUIDED if slot in found]
    if not named:
        inputs = ", ".join(found) or "none"
        raise ValueError(
            f"{told(graph, holder)} has the conditionings {inputs}, expected one called positive "
            "or conditioning, whose text is trained on; use CFGGuider or BasicGuider."
        )
    return holder, found[named[0]]


def text_node(graph: Graph, sampler: str) -> tuple[str, list[str]]:
    """(node, its text inputs): what encodes the positive prompt. Nodes between it and the sampler
    are gone through. Raises ValueError naming the candidates where there is not just one."""
    _, link = positive_link(graph, sampler)
    found: list[str] = []
    left = [link]
    while left:
        name, slot = left.pop(0)
        texts = text_inputs(graph, name)
        if texts and name not in found:
            found.append(name)
        if not texts:
            left += conditionings_behind(graph, name, slot)
    if len(found) == 1:
        return found[0], text_inputs(graph, found[0])
    if not found:
        raise ValueError(
            f"positive of {told(graph, sampler)} comes from no text encoder, expected a node with "
            "a CLIP connected and a text, like CLIPTextEncode; connect one."
        )
    raise ValueError(
        f"positive of {told(graph, sampler)} comes from {len(found)} text encoders, "
        f"{listed(graph, found)}, expected one, whose text is replaced by each prompt; leave one "
        "of them, and export it again."
    )


def text_inputs(graph: Graph, name: str) -> list[str]:
    """The texts of a node that has a CLIP connected: all of them, as SDXL's and Flux's two; [] of
    another node."""
    if not linked(graph, name, "CLIP"):
        return []
    types = types_of(graph[name]["class_type"])
    return [slot for slot in graph[name]["inputs"] if types.get(slot) == "STRING"]


def conditionings_behind(graph: Graph, name: str, slot: int) -> list[list]:
    """The connections that an output of a node passes on: of one with positive and negative the
    one with the output's own name."""
    found = linked(graph, name, "CONDITIONING")
    cls = nodes.NODE_CLASS_MAPPINGS.get(graph[name]["class_type"])
    names = getattr(cls, "RETURN_NAMES", None) or ()
    own = names[slot] if slot < len(names) else None
    return [found[own]] if own in found else list(found.values())


def decoder_link(graph: Graph, sampler: str) -> tuple[str, list]:
    """(node, connection) of the VAE that decodes what the sampler made. Raises ValueError where
    there is none, or where two decode with different ones."""
    found = {}
    for name in graph:
        links = linked(graph, name, "LATENT")
        if links and sampler in above(graph, [link[0] for link in links.values()]):
            for link in linked(graph, name, "VAE").values():
                found.setdefault(tuple(link), name)
    if len(found) == 1:
        ((link, name),) = found.items()
        return name, list(link)
    if not found:
        raise ValueError(
            f"No node decodes the latent of {told(graph, sampler)}, expected one with its VAE "
            "connected, like VAEDecode: rewards see pictures; put it in."
        )
    raise ValueError(
        f"The latent of {told(graph, sampler)} is decoded with different VAEs by "
        f"{listed(graph, list(found.values()))}, expected one; leave one of them."
    )
