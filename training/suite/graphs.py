"""The methods of the suite as ComfyUI graphs.

    way = choose("asyndm", pictures.inputs, "ddim")  # or a sentence that says which node is missing
    graph = way.graph(prompt, setting, seed)

A method of another pack is offered where its node is in this ComfyUI; only ids and input names of
those packs stand here, their other inputs are left at their own defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..run.config import BackboneConfig
from ..run.workflow import Graph
from .prompts import Prompt

PLAIN = "plain"  # what the others are compared with
IMAGE = ["decode", 0]
SIDE = 128  # pixels of the embedded model, as its decoder in ComfyUI makes them
# CFG++ (its README): lambda in [0, 1] works like a guidance of [1, 12.5]
CFGPP_RATIO = 12.5


@dataclass(frozen=True)
class Setting:
    """What all methods share. checkpoint: its name in ComfyUI, "" is the embedded model; cfgpp:
    guidance of CFG++; strength: of AsynDM, None is the one of each prompt."""

    backbone: BackboneConfig
    checkpoint: str
    steps: int
    cfgpp: float
    strength: float | None = None

    @property
    def sampler(self) -> str:
        return self.backbone.sampler or "euler"


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def shared(prompt: Prompt, setting: Setting, seed: int) -> Graph:
    """Loader, texts, one empty latent, a stock KSampler, decoder, preview."""
    from ..backbones.comfy.plain import plain_graph  # its room loads torch, --help needs the names

    graph = plain_graph(setting.backbone, setting.checkpoint)
    if not setting.checkpoint:
        graph["checkpoint"] = node("AsyncTimestepDemoLoader")
        graph["latent"]["inputs"] |= {"width": SIDE, "height": SIDE}
    graph["positive"]["inputs"]["text"] = prompt.text
    graph["sampler"]["inputs"] |= {"steps": setting.steps, "seed": seed}
    return {**graph, "preview": node("PreviewImage", images=IMAGE)}


def plain(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
    """A stock KSampler."""
    return {}


def sampled(graph: Graph, class_type: str = "KSampler", **changed) -> Graph:
    """The sampler with some inputs changed."""
    return {"sampler": node(class_type, **{**graph["sampler"]["inputs"], **changed})}


def cfgpp(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
    """Core's CFG++ sampler of the same kind."""
    return sampled(graph, sampler_name=CFGPP_SAMPLERS[setting.sampler], cfg=setting.cfgpp)


def asynchronous(graph: Graph, prompt: Prompt, setting: Setting, region: dict) -> Graph:
    strength = prompt.strength if setting.strength is None else setting.strength
    eta = 1.0 if setting.sampler == "euler_ancestral" else 0.0
    own = {"region": ["region", 0], "strength": strength, "eta": eta}
    return {
        "region": node("AsynDMRegionMask", threshold=1.0, static=False, **region),
        **sampled(graph, "AsynDMKSampler", **own),
    }


def concave(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
    """Every pixel on the slower schedule: the paper's ablation DM_concave."""
    return asynchronous(graph, prompt, setting, {"mode": "all"})


def asyndm(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
    """The regions of the prompt's words on the slower schedule."""
    words = ", ".join(prompt.words)
    region = {"mode": "words", "clip": ["checkpoint", 1], "text": prompt.text, "words": words}
    return asynchronous(graph, prompt, setting, region)


def patched(class_type: str, **inputs) -> Callable[[Graph, Prompt, Setting], Graph]:
    """A node of another pack between the loader and a stock KSampler."""

    def build(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
        return {
            "patch": node(class_type, model=["checkpoint", 0], **inputs),
            **sampled(graph, model=["patch", 0]),
        }

    return build


def zigzag(graph: Graph, prompt: Prompt, setting: Setting) -> Graph:
    """Z-Sampling; without settings the node takes cfg to denoise and 0 to invert."""
    return sampled(graph, "ZSampler")


@dataclass(frozen=True)
class Way:
    """One way to run a method: the nodes it needs, whose they are, and what it changes."""

    needs: tuple[str, ...]
    source: str
    build: Callable[[Graph, Prompt, Setting], Graph]
    defaults: dict = field(default_factory=dict)  # class_type -> its required inputs' defaults

    def graph(self, prompt: Prompt, setting: Setting, seed: int) -> Graph:
        """In API format; inputs that the graph leaves open have the node's own defaults."""
        graph = shared(prompt, setting, seed)
        graph |= self.build(graph, prompt, setting)
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
SEG, SEG_OTHER = "SmoothedEnergyGuidanceAdvanced", "SEGAttention"
METHODS: dict[str, tuple[Way, ...]] = {
    "plain": (Way(("KSampler",), CORE, plain),),
    "concave": (Way(ASYNDM_NODES, OURS, concave),),
    "asyndm": (Way(ASYNDM_NODES, OURS, asyndm),),
    "cfgpp": (Way(("KSampler",), CORE, cfgpp),),
    "seg": (
        Way((SEG,), "pamparamm/sd-perturbed-attention", patched(SEG)),
        Way((SEG_OTHER,), "logtd/ComfyUI-SEGAttention", patched(SEG_OTHER, inf_blur=True)),
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


def choose(method: str, inputs_of: Callable[[str], dict | None], sampler: str) -> Way | str:
    """The first way that this ComfyUI offers, or why there is none. inputs_of: a class -> what it
    takes, None where it is not here."""
    missing = []
    for way in METHODS[method]:
        found = {name: inputs_of(name) for name in way.needs}
        lacking = [name for name, inputs in found.items() if inputs is None]
        if method == "cfgpp" and not lacking:
            name = CFGPP_SAMPLERS[sampler]
            if name not in choices(found["KSampler"]["required"]["sampler_name"]):
                lacking = [f"KSampler with sampler_name {name}"]
        if not lacking:
            known = {name: defaults(inputs) for name, inputs in found.items()}
            return Way(way.needs, way.source, way.build, known)
        missing.append(f"{' and '.join(lacking)} ({way.source})")
    return f"no node {' or '.join(missing)} in this ComfyUI"


def choices(entry: tuple) -> list[str]:
    """The options of a combo, in either way that nodes write it; [] of another input."""
    kind, *details = entry
    if isinstance(kind, (list, tuple)):
        return list(kind)
    return (details or [{}])[0].get("options", [])


def defaults(inputs: dict) -> dict:
    """Required inputs that have a default; a combo without one has its first option."""
    found = {}
    for name, entry in inputs.get("required", {}).items():
        options = entry[1] if len(entry) > 1 else {}
        if "default" in options:
            found[name] = options["default"]
        elif listed := choices(entry):
            found[name] = listed[0]
    return found
