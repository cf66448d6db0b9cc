"""The methods of the AsynDM suite as ComfyUI graphs, the prompt sets, and one graph to one image.

    way = choose("asyndm", object_info)  # or a sentence that says which node is missing
    data, seconds = make_image(server, way.graph(prompt, setting, seed))

A method of another pack is offered where its node is on the server; only ids and input names of
those packs stand here, their other inputs are left at their own defaults.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from async_timestep.harness import graphs
from async_timestep.harness.comfy_server import ComfyServer, error_message
from async_timestep.harness.graphs import node

PLAIN = "plain"  # what the others are compared with
SETS = ("animal", "drawbench", "geneval", "mscoco")
PATIENCE = 3600.0  # seconds for one image
DEMO = "demo"  # the --checkpoint that is the embedded model
# CFG++ (its README): lambda in [0, 1] works like a guidance of [1, 12.5]
CFGPP_RATIO = 12.5


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set, its nouns, and the strength that the set lists for it (item_k)."""

    text: str
    words: tuple[str, ...]
    strength: float


@dataclass(frozen=True)
class Setting:
    """What all methods share. cfgpp: guidance of CFG++."""

    checkpoint: str
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    size: int
    cfgpp: float
    strength: float | None = None


def read_set(checkout: Path, name: str) -> list[Prompt]:
    """config/prompt/NAME.json and NAME_item.json of the official repository.

    Raises SystemExit when a file or an entry is missing.
    """
    folder = checkout / "config" / "prompt"
    texts, items = (read_json(folder / f"{name}{end}.json") for end in ("", "_item"))
    prompts = []
    for text in texts:
        try:
            places, strengths = items["item_idx"][text], items["item_k"][text]
            words = split_words(text)
            nouns = tuple(dict.fromkeys(words[place] for place in places))
            prompts.append(Prompt(text, nouns, float(max(strengths))))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SystemExit(
                f"{folder / name}_item.json has no usable item_idx and item_k for {text!r} "
                f"({error!r}); --asyndm takes an unchanged checkout of hu-zijing/AsynDM."
            ) from error
    return prompts


def split_words(text: str) -> list[str]:
    """What item_idx counts: words without punctuation, the parts of a hyphenated one each."""
    return re.findall(r"\w+(?:'\w+)*", text)


def read_json(path: Path) -> list | dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(
            f"{path} cannot be read ({error}); --asyndm takes a checkout of hu-zijing/AsynDM, "
            "whose prompt sets lie in config/prompt."
        ) from error


def shared(prompt: Prompt, setting: Setting) -> dict:
    """Loader, texts, one empty latent, decoder."""
    graph = graphs.base(prompt.text, batch=1)
    if setting.checkpoint != DEMO:
        graph["loader"] = node("CheckpointLoaderSimple", ckpt_name=setting.checkpoint)
        graph["latent"] = node(
            "EmptyLatentImage", width=setting.size, height=setting.size, batch_size=1
        )
    return graph


def wires(setting: Setting, seed: int, model: str = "loader", **changed) -> dict:
    """All inputs of a KSampler."""
    sampling = {
        "steps": setting.steps,
        "cfg": setting.cfg,
        "sampler_name": setting.sampler,
        "scheduler": setting.scheduler,
    }
    return graphs.conditioned([model, 0], seed, **{**sampling, **changed})


def plain(prompt: Prompt, setting: Setting, seed: int) -> dict:
    """A stock KSampler."""
    return {"sampler": node("KSampler", **wires(setting, seed))}


def cfgpp(prompt: Prompt, setting: Setting, seed: int) -> dict:
    """Core's CFG++ sampler of the same kind."""
    name = CFGPP_SAMPLERS[setting.sampler]
    changed = {"sampler_name": name, "cfg": setting.cfgpp}
    return {"sampler": node("KSampler", **wires(setting, seed, **changed))}


def asynchronous(prompt: Prompt, setting: Setting, seed: int, region: dict) -> dict:
    strength = prompt.strength if setting.strength is None else setting.strength
    return {
        "region": node("AsynDMRegionMask", threshold=1.0, static=False, **region),
        "sampler": node(
            "AsynDMKSampler",
            **wires(setting, seed),
            region=["region", 0],
            strength=strength,
            eta=1.0 if setting.sampler == "euler_ancestral" else 0.0,
        ),
    }


def concave(prompt: Prompt, setting: Setting, seed: int) -> dict:
    """Every pixel on the slower schedule: the paper's ablation DM_concave."""
    return asynchronous(prompt, setting, seed, {"mode": "all"})


def asyndm(prompt: Prompt, setting: Setting, seed: int) -> dict:
    """The regions of the prompt's nouns on the slower schedule."""
    words = ", ".join(prompt.words)
    region = {"mode": "words", "clip": ["loader", 1], "text": prompt.text, "words": words}
    return asynchronous(prompt, setting, seed, region)


def patched(class_type: str, **inputs) -> Callable[[Prompt, Setting, int], dict]:
    """A node of another pack between the loader and a stock KSampler."""

    def build(prompt: Prompt, setting: Setting, seed: int) -> dict:
        return {
            "patch": node(class_type, model=["loader", 0], **inputs),
            "sampler": node("KSampler", **wires(setting, seed, "patch")),
        }

    return build


def zigzag(prompt: Prompt, setting: Setting, seed: int) -> dict:
    """Z-Sampling; without settings the node takes cfg to denoise and 0 to invert."""
    return {"sampler": node("ZSampler", **wires(setting, seed))}


@dataclass(frozen=True)
class Way:
    """One way to run a method: the nodes it needs, whose they are, and the nodes that it adds."""

    needs: tuple[str, ...]
    source: str
    build: Callable[[Prompt, Setting, int], dict]
    defaults: dict = field(default_factory=dict)  # class_type -> its required inputs' defaults

    def graph(self, prompt: Prompt, setting: Setting, seed: int) -> dict:
        """In API format; inputs that the graph leaves open have the node's own defaults."""
        graph = {**shared(prompt, setting), **self.build(prompt, setting, seed)}
        for entry in graph.values():
            entry["inputs"] = {**self.defaults.get(entry["class_type"], {}), **entry["inputs"]}
        return graph


OURS, CORE = "this pack", "ComfyUI"
CFGPP_SAMPLERS = {
    "ddim": "euler_cfg_pp",
    "euler": "euler_cfg_pp",
    "euler_ancestral": "euler_ancestral_cfg_pp",
}
ASYNDM_NODES = ("AsynDMRegionMask", "AsynDMKSampler")
METHODS: dict[str, tuple[Way, ...]] = {
    "plain": (Way(("KSampler",), CORE, plain),),
    "concave": (Way(ASYNDM_NODES, OURS, concave),),
    "asyndm": (Way(ASYNDM_NODES, OURS, asyndm),),
    "cfgpp": (Way(("KSampler",), CORE, cfgpp),),
    "seg": (
        Way(
            ("SmoothedEnergyGuidanceAdvanced",),
            "pamparamm/sd-perturbed-attention",
            patched("SmoothedEnergyGuidanceAdvanced"),
        ),
        Way(
            ("SEGAttention",),
            "logtd/ComfyUI-SEGAttention",
            patched("SEGAttention", inf_blur=True),
        ),
    ),
    "scfg": (
        Way(
            ("SemanticAwareGuidance",),
            "shiimizu/ComfyUI-semantic-aware-guidance",
            patched("SemanticAwareGuidance"),
        ),
    ),
    "zsampling": (Way(("ZSampler",), "sal063/Comfy_z-sampling", zigzag),),
}


def choose(method: str, info: dict, sampler: str = "ddim") -> Way | str:
    """The first way that a server (its /object_info) offers, or why there is none."""
    missing = []
    for way in METHODS[method]:
        lacking = [name for name in way.needs if name not in info]
        if method == "cfgpp" and not lacking:
            name = CFGPP_SAMPLERS[sampler]
            if name not in choices(info, "KSampler", "sampler_name"):
                lacking = [f"KSampler with sampler_name {name}"]
        if not lacking:
            return Way(way.needs, way.source, way.build, {n: defaults(info[n]) for n in way.needs})
        missing.append(f"{' and '.join(lacking)} ({way.source})")
    return f"no node {' or '.join(missing)} on the server"


def choices(info: dict, class_type: str, name: str) -> list[str]:
    """The options of a combo, in either way that servers write it; [] where there is none."""
    inputs = info.get(class_type, {}).get("input", {})
    kind, *details = {**inputs.get("required", {}), **inputs.get("optional", {})}.get(name, [[]])
    return kind if isinstance(kind, list) else (details or [{}])[0].get("options", [])


def defaults(class_info: dict) -> dict:
    """Required inputs that have a default; a combo without one has its first option."""
    found = {}
    for name, (kind, *details) in class_info["input"].get("required", {}).items():
        options = details[0] if details else {}
        listed = kind if isinstance(kind, list) else options.get("options", [])
        if "default" in options:
            found[name] = options["default"]
        elif listed:
            found[name] = listed[0]
    return found


class RunningServer(ComfyServer):
    """A server that somebody else started, and keeps."""

    def __init__(self, url: str):
        self.url, self.log = url.rstrip("/"), "the server's own log"
        self.process = SimpleNamespace(poll=lambda: None)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):  # room for the scores; the images are safe already
            self.post("/free", {"unload_models": True, "free_memory": True})


class MethodError(Exception):
    """A graph that the server refused or that failed."""


def make_image(server: ComfyServer, graph: dict) -> tuple[bytes, float]:
    """(PNG, seconds of the whole prompt, NaN when the sampler did not run). Raises MethodError."""
    answer = server.post("/prompt", {"prompt": graph})
    if "prompt_id" not in answer:
        raise MethodError(refusal(answer))
    entry = server.wait(answer["prompt_id"], PATIENCE)
    if entry["status"]["status_str"] != "success":
        raise MethodError(error_message(entry))
    told = dict(entry["status"]["messages"])
    times = [told[f"execution_{end}"]["timestamp"] for end in ("start", "success")]
    cached = "sampler" in told.get("execution_cached", {}).get("nodes", ())
    seconds = math.nan if cached else (times[1] - times[0]) / 1000
    return server.fetch(entry["outputs"]["preview"]["images"][0]), seconds


def refusal(answer: dict) -> str:
    """The first sentence of a refused prompt."""
    for failed in answer.get("node_errors", {}).values():
        for error in failed.get("errors", []):
            return f"{failed['class_type']}: {error['message']} ({error['details']})"
    return str(answer.get("error", answer))[:300]
