"""Inputs of our nodes as scripts, switch nodes and enemies send them, through the real API.

    for case in cases(): ...                      # (graph, node, input, name of the value)
    fault_of(server, [case])                      # "" where the answer is one that a user can use

Whatever is sent, the server refuses it before anything runs, or a node stops with one sentence, or
a picture comes that is none of NaN. Inputs that a stock node has too are left to the host.
"""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from .graphs import async_ksampler, model_patch, node
from .graphs_eye import by_eye
from .graphs_regions import asyndm_mask, asyndm_words, regional_detail
from .mistakes import asyndm_custom

BIG = 1e300
CURVES = {
    "a curve of huge values": {"points": [[0, BIG], [1, -BIG]]},
    "a curve of huge places": {"points": [[-BIG, 1], [BIG, 2]]},
    "a curve of one point": {"points": [[0.5, 2]]},
    "a curve of one place": {"points": [[0.5, 1], [0.5, 2], [0.5, 3]]},
    "a curve without points": {"points": []},
    "a curve of NaN": {"points": [[0, math.nan], [1, 1]]},
    "a curve of words": {"points": "up"},
    "a curve of null": {"points": [[None, None]]},
}
VALUES: dict[str, object] = {
    "null": None,
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "1e300": BIG,
    "-1e300": -BIG,
    "1e-300": 1e-300,
    "an endless number": 10**400,
    "0": 0,
    "-1": -1,
    "true": True,
    "nothing": "",
    "a word": "word",
    "10,000 characters": "x" * 10_000,
    "a null in a text": "a\0b",
    "half a surrogate": "\ud800",
    "a path": "../../../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "markup": "[/red]<script>alert(1)</script>",
    "a list": [],
    "an object": {},
    "nested deeply": [[[[[[[[{}]]]]]]]],
    "a link to nowhere": ["nowhere", 0],
    "a link to no output": ["loader", 99],
    "a link to a model": ["loader", 0],
    "a link that is none": ["loader", "x"],
    **CURVES,
}
# what a stock sampler has too: there ours does what the stock node does
STOCK = {"model", "seed", "steps", "sampler_name", "scheduler", "positive", "negative"}
STOCK |= {"latent_image", "denoise", "clip", "image", "noise_seed", "add_noise"}
STOCK |= {"start_at_step", "end_at_step", "return_with_leftover_noise", "after"}
# what a node gives: null, as a switch node sends it, or a link; a constant there comes from nobody
WIRES = {"deviation", "region", "trace", "mask", "sigmas", "tuning", "images"}
SENTENCES = ("ValueError", "SessionError")  # what our nodes raise


class Case(NamedTuple):
    graph: str
    place: str
    name: str
    value: str


def few_steps(graph: dict) -> dict:
    """The same picture in 3 steps, which is as much as AsynDM needs."""
    for one in graph.values():
        if "steps" in one["inputs"]:
            one["inputs"]["steps"] = 3
    return graph


def with_tpm() -> dict:
    graph = model_patch(batch=1)
    graph["patch"]["inputs"]["deviation"] = ["tpm", 0]
    return {**graph, "tpm": node("AsyncTimestepTPMLoader", tpm_name="tiny.safetensors")}


def with_velocity() -> dict:
    graph = async_ksampler(batch=1)
    graph["sampler"]["inputs"]["deviation"] = ["velocity", 0]
    velocity = node(
        "AsyncTimestepVelocityScale", deviation=["scale", 0], mode="constant", omega=1.1,
        start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    return {**graph, "velocity": velocity}


def with_advanced() -> dict:
    graph = async_ksampler(batch=1)
    own = graph["sampler"]["inputs"]
    stages = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10000}
    inputs = {k: v for k, v in own.items() if k not in ("seed", "denoise")} | stages
    inputs |= {"noise_seed": own["seed"], "return_with_leftover_noise": "disable"}
    return {**graph, "sampler": node("AsyncTimestepKSamplerAdvanced", **inputs)}


def with_curve() -> dict:
    graph = async_ksampler(batch=1)
    graph["deviation"]["inputs"]["curve"] = {"points": [[0, 1], [1, 0.5]]}
    return graph


def with_choices() -> dict:
    graph = by_eye("hostile", pictures=1)
    return {**graph, "preview": node("PreviewImage", images=["choose", 0])}


GRAPHS: dict[str, Callable[[], dict]] = {
    "patch": with_tpm,
    "curve": with_curve,
    "velocity": with_velocity,
    "advanced": with_advanced,
    "sampler": asyndm_custom,
    "regional": lambda: regional_detail(batch=1),
    "words": lambda: asyndm_words(batch=1),
    "mask": lambda: asyndm_mask(batch=1),
    "eye": with_choices,
}


def is_ours(one: dict) -> bool:
    return one["class_type"].startswith(("AsyncTimestep", "AsynDM"))


def cases() -> list[Case]:
    """Every input of our own in every graph, with every value; each input of a node once."""
    found, seen = [], set()
    for name, build in GRAPHS.items():
        for place, one in build().items():
            for entry in one["inputs"] if is_ours(one) else ():
                key = (one["class_type"], entry)
                if entry not in STOCK and key not in seen:
                    seen.add(key)
                    found += [Case(name, place, entry, value) for value in values_for(one, entry)]
    return found


def values_for(one: dict, entry: str) -> list[str]:
    """Names of the values that may come to an input. The number of a Deviation is a wire's name."""
    is_wire = entry in WIRES and one["class_type"] != "AsyncTimestepDeviation"
    return [name for name in VALUES if not is_wire or name == "null" or "link" in name]


def drawn(count: int, draw: random.Random) -> list[list[Case]]:
    """So many prompts: every case alone in some order, then two and three of one graph together."""
    every = cases()
    alone = [[case] for case in draw.sample(every, min(count, len(every)))]
    together = []
    while len(alone) + len(together) < count:
        graph = draw.choice(list(GRAPHS))
        own = [case for case in every if case.graph == graph]
        together.append(draw.sample(own, draw.choice((2, 3))))
    return alone + together


def prompt_of(some: list[Case]) -> dict:
    """The graph of some cases, all of one, with their values in their places."""
    graph = few_steps(GRAPHS[some[0].graph]())
    for case in some:
        graph[case.place]["inputs"][case.name] = VALUES[case.value]
    return graph


def fault_of(server, some: list[Case]) -> str:
    """What a user could not use of the answer, or ""."""
    answer = server.post("/prompt", {"prompt": prompt_of(some), "client_id": "hostile"})
    if "prompt_id" not in answer:
        return "" if answer.get("node_errors") or answer.get("error") else f"no answer: {answer}"
    entry = server.wait(answer["prompt_id"])
    for kind, detail in entry["status"]["messages"]:
        if kind == "execution_error":
            return wrong_sentence(detail["exception_type"], detail["exception_message"].strip())
    if entry["status"]["status_str"] != "success":
        return json.dumps(entry["status"])[:300]
    pictures = entry["outputs"].get("preview", {}).get("images", [])
    for picture in pictures:
        if float(np.asarray(Image.open(io.BytesIO(server.fetch(picture)))).std()) == 0:
            return "a picture of one colour, and no word"
    return "" if pictures else "no picture"


def wrong_sentence(kind: str, message: str) -> str:
    """Empty for one sentence of ours."""
    if kind.rpartition(".")[2] not in SENTENCES:
        return f"{kind}: {message[:200]}"
    if "\n" in message or not message.endswith(".") or len(message) > 500:
        return f"no sentence of at most 500 characters: {message[:200]}"
    return ""
