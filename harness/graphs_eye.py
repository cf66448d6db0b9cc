"""Tune by Eye as graphs in the server's own (API) format: Try, a sampler, Choose."""

from __future__ import annotations

from .graphs import node, stock

PROMPTS = ("a red circle on a dark rough background", "a blue star on a light rough background")
SMALL = {"steps": 3, "cfg": 1.0}


def small(batch: int = 1, **sampling) -> dict:
    """The stock graph of small pictures that take no time."""
    graph = stock(batch=batch, **{**SMALL, **sampling})
    graph["latent"]["inputs"].update(width=64, height=64)
    return graph


def by_eye(session: str, sampler: str = "ksampler", batch: int = 1, **changed) -> dict:
    """Try and Choose around it. sampler: ours, or the stock one behind the patch."""
    graph = small(batch)
    settings = {
        "session": session, "prompts": "\n".join(PROMPTS), "steps": 3, "mode": "conditioning",
        "pictures": 2, "first_seed": 5, "choice": 0, "round": 0, "compare": False,
    }  # fmt: skip
    graph["try"] = node("AsyncTimestepTry", model=["loader", 0], **settings | changed)
    graph["positive"]["inputs"]["text"] = ["try", 1]
    wired = {"seed": ["try", 2], "steps": ["try", 3]}
    own = {"preset": "auto", "deviation_scale": 1.0, "deviation": ["try", 0]}
    if sampler == "patch":
        graph["patch"] = node("AsyncTimestepModel", model=["loader", 0], **own)
        graph["sampler"]["inputs"] |= {**wired, "model": ["patch", 0]}
    else:
        inputs = {**graph["sampler"]["inputs"], **wired, **own}
        graph["sampler"] = node("AsyncTimestepKSampler", **inputs)
    graph["choose"] = node("AsyncTimestepChoose", tuning=["try", 4], images=["decode", 0])
    del graph["preview"]
    return graph
