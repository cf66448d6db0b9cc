"""What a graph says of how its pictures are made: for the file that Tune by Eye saves."""

from __future__ import annotations

from collections.abc import Iterator

from .run.checks import in_range

FILES = ("ckpt_name", "unet_name", "model_name")  # of the stock loaders
TEXTS = {"sampler_name": "sampler", "scheduler": "scheduler", **dict.fromkeys(FILES, "base_model")}
TEXT_MOST = 200


def made_by(prompt: dict, node_id: str) -> dict[str, str | float]:
    """Sampler, scheduler, guidance and the file of the model, as the nodes before this one have
    them; of two samplers, those of the first. prompt: id -> node, as it was queued."""
    found: dict[str, str | float] = {}
    for node in before(prompt, node_id):
        for name, value in node.get("inputs", {}).items():
            if isinstance(value, str) and value.isprintable() and len(value) <= TEXT_MOST:
                if name in TEXTS:
                    found[TEXTS[name]] = value
            elif name == "cfg" and in_range(value) and float(value) >= 0:
                found["guidance"] = float(value)
    return found


def before(prompt: dict, node_id: str) -> Iterator[dict]:
    """The nodes that a node's inputs come from, the nearest first."""
    waiting, seen = [node_id], {node_id}
    while waiting:
        node = prompt.get(waiting.pop(0), {})
        yield node
        for value in node.get("inputs", {}).values():
            if isinstance(value, list) and value and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])
