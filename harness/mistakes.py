"""The likeliest mistakes as graphs for a real server: what docs/guides/errors.md has a row for.

    MISTAKES[what the user did] -> Mistake(where the answer stands, the graph)

Where: "node" stops in a node with the sentence, "before" is refused by ComfyUI before anything
runs, "log" and "plot" run and say so in the console or in the text of the plot, "works" runs as it
should. `seen` gives the words that a user sees.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .graphs import async_ksampler, base, model_patch, node, stock
from .graphs_eye import by_eye
from .graphs_regions import (
    asyndm_mask,
    asyndm_words,
    region_mask,
    regional_detail,
)


class Mistake(NamedTuple):
    """piece: what marks the line of the log or of the plot's text."""

    where: str
    graph: dict
    piece: str = ""


def changed(graph: dict, place: str, more: dict | None = None, **inputs) -> dict:
    """The graph with other inputs of one node, or without those that are None, and more nodes."""
    graph[place]["inputs"] |= inputs
    graph[place]["inputs"] = {k: v for k, v in graph[place]["inputs"].items() if v is not None}
    return {**graph, **(more or {})}


def patched(**inputs) -> dict:
    return changed(model_patch(batch=1), "patch", **inputs)


def constant(**inputs) -> dict:
    return changed(async_ksampler(batch=1), "deviation", **inputs)


def bypassed() -> dict:
    """Without the Deviation, as the editor sends a graph in which it is bypassed."""
    graph = changed(async_ksampler(batch=1), "scale")
    del graph["deviation"], graph["scale"]["inputs"]["deviation"]
    return graph


def sampled(**inputs) -> dict:
    return changed(async_ksampler(batch=1), "sampler", **inputs)


def tpm(name: str, **sampling) -> dict:
    """The TPM Loader on the embedded model, on the grid that its own TPM was trained with."""
    graph = patched(deviation=["tpm", 0])
    graph["sampler"]["inputs"] |= sampling
    return {**graph, "tpm": node("AsyncTimestepTPMLoader", tpm_name=name)}


def words(more: dict | None = None, place: str = "region", **inputs) -> dict:
    return changed(asyndm_words(batch=1), place, more, **inputs)


def masked(mask: dict, **more: dict) -> dict:
    graph = changed(regional_detail(batch=2), "sampler", region=None, mask=["mask", 0])
    return {**graph, **more, "mask": mask}


def in_latent(latent: dict) -> dict:
    return {**async_ksampler(batch=1), "latent": latent}


def custom(model: list, sampler: dict, flipped: bool = False, guider: dict | None = None) -> dict:
    """SamplerCustomAdvanced, with the schedule turned round where it is `flipped`."""
    wired = {"positive": ["positive", 0], "negative": ["negative", 0]}
    return {
        **base(batch=1),
        "schedule": node("BasicScheduler", model=model, scheduler="simple", steps=6, denoise=1.0),
        "flipped": node("FlipSigmas", sigmas=["schedule", 0]),
        "guider": guider or node("CFGGuider", model=model, cfg=3.0, **wired),
        "method": sampler,
        "noise": node("RandomNoise", noise_seed=1),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["method", 0],
            sigmas=["flipped" if flipped else "schedule", 0],
            latent_image=["latent", 0],
        ),
    }


def asyndm_custom(flipped: bool = False, guider: dict | None = None) -> dict:
    method = node("AsynDMSampler", region=["region", 0], strength=0.5, sampler="euler", eta=0.0)
    graph = custom(["loader", 0], method, flipped, guider)
    graph["plot"] = node("AsyncTimestepPlot", trace=["method", 1], after=["sampler", 0])
    return {**{k: words()[k] for k in ("region", "prompt")}, **graph}


def from_pure_noise() -> dict:
    """omega at the first step of a model with zero terminal SNR."""
    graph = changed(sampled(deviation=["velocity", 0]), "loader", model=ZERO_SNR)
    velocity = {"mode": "constant", "omega": 0.9, "start_percent": 0.0, "end_percent": 1.0}
    return {**graph, "velocity": node("AsyncTimestepVelocityScale", **velocity)}


ZERO_SNR = "unet (v, zero terminal SNR)"
PATCH = model_patch()["patch"]
EULER = node("KSamplerSelect", sampler_name="euler")
DUAL = node(
    "DualCFGGuider",
    model=["loader", 0],
    cond1=["positive", 0],
    cond2=["positive", 0],
    negative=["negative", 0],
    cfg_conds=3.0,
    cfg_cond2_negative=1.0,
    style="regular",
)
WINDOWS = node(
    "ContextWindowsManual", model=["loader", 0], context_length=2, context_overlap=1,
    context_schedule="standard_static", context_stride=1, closed_loop=False,
    fuse_method="pyramid", dim=0, freenoise=False, cond_retain_index_list="",
    split_conds_to_windows=False, latent_retain_index_list="", causal_window_fix=False,
)  # fmt: skip
COMBINED = node(
    "ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["negative", 0]
)
AREA = node(
    "ConditioningSetArea", conditioning=["positive", 0], width=64, height=64, x=0, y=0, strength=1.0
)
VACE = node("UNETLoader", unet_name="wan_vace.safetensors", weight_dtype="default")
CLIP_L = node("CLIPLoader", clip_name="clip_l.safetensors", type="stable_diffusion")
HIDREAM = node("CLIPLoader", clip_name="clip_l.safetensors", type="hidream")
LONG = "two red circles above a blue star on a dark rough background with one more sun"
BLACK = node("SolidMask", value=0.0, width=128, height=128)
DOT = node("SolidMask", value=1.0, width=1, height=1)
DOTTED = node(
    "MaskComposite", destination=["black", 0], source=["dot", 0], x=0, y=0, operation="add"
)
CROPPED = node("CropMask", mask=["black", 0], x=128, y=0, width=8, height=8)
WIDE = node("SolidMask", value=1.0, width=256, height=128)
THREE = node("EmptyImage", width=128, height=128, batch_size=3, color=0xFFFFFF)
RED = node("ImageToMask", image=["three", 0], channel="red")
SMALL = node("EmptyImage", width=2, height=2, batch_size=1, color=0)
EMPTY = node("BasicScheduler", model=["loader", 0], scheduler="simple", steps=4, denoise=0.0)
OTHER = node("BasicScheduler", model=["loader", 0], scheduler="karras", steps=4, denoise=1.0)
NAN = float("nan")

FILES = {
    "a workflow names a TPM that you do not have": Mistake("node", tpm("mine.safetensors")),
    "the file is cut off": Mistake("node", tpm("cut.safetensors")),
    "the file is empty": Mistake("node", tpm("empty.safetensors")),
    "a .pt or .ckpt file was renamed": Mistake("node", tpm("renamed.safetensors")),
    "the file is something else, a LoRA say": Mistake("node", tpm("my_lora.safetensors")),
    "the same, with metadata": Mistake("node", tpm("kohya_lora.safetensors")),
    "the weights hold NaN": Mistake("node", tpm("nan.safetensors")),
    "the file is of a later version of the format": Mistake("node", tpm("newer.safetensors")),
    "the file has a setting that the pack does not know": Mistake("node", tpm("extra.safetensors")),
    "the TPM is for models with other text encoders": Mistake("node", tpm("sd35.safetensors")),
    "the TPM is for models with other latents": Mistake("node", tpm("sd15.safetensors")),
    "the TPM is for another model of the same sizes": Mistake(
        "log", tpm("cousin.safetensors"), "was trained for"
    ),
    "other steps or another scheduler than in training": Mistake(
        "log", tpm("tiny.safetensors", steps=6), "was trained on"
    ),
}
DEVIATION = {
    "the Deviation before a Deviation Scale is bypassed": Mistake("plot", bypassed(), "off"),
    "the number deviation changed, but preset is auto": Mistake(
        "plot", constant(preset="auto", deviation=1.0), "untuned"
    ),
    "start_percent above end_percent": Mistake(
        "node", constant(start_percent=0.8, end_percent=0.2)
    ),
    "a number outside its range, sent by a script": Mistake("before", patched(deviation_scale=9.0)),
    "NaN, sent by a script": Mistake("node", constant(deviation=NAN)),
    "text in the place of a number": Mistake("before", constant(deviation="a lot")),
    "a curve that is none, sent by a script": Mistake("node", constant(curve={"points": "up"})),
    "an input left out, in a workflow by hand": Mistake("before", patched(deviation_scale=None)),
    "a wire into the wrong input": Mistake("before", patched(region=["latent", 0])),
    "Velocity Scale at the first step of a model with zero terminal SNR": Mistake(
        "log", from_pure_noise(), "all noise"
    ),
    "the patch twice in a row": Mistake(
        "works", changed(patched(), "patch", {"first": PATCH}, model=["first", 0])
    ),
    "the patch before an Async Timestep KSampler": Mistake(
        "works", changed(sampled(), "sampler", {"patch": PATCH}, model=["patch", 0])
    ),
    "the plot is not connected behind the sampler": Mistake(
        "plot", changed(model_patch(batch=1), "plot", after=["loader", 0]), "off"
    ),
    "the plot's after is not connected": Mistake(
        "before", changed(model_patch(batch=1), "plot", after=None)
    ),
}
SCHEDULE = {
    "0 steps": Mistake("before", sampled(steps=0)),
    "1 step": Mistake("plot", sampled(steps=1), "off"),
    "denoise 0": Mistake("plot", sampled(denoise=0.0), "off"),
    "an empty schedule in sigmas (denoise 0)": Mistake(
        "node", {**patched(sigmas=["empty", 0]), "empty": EMPTY}
    ),
    "another schedule in sigmas than the sampler has": Mistake(
        "log", {**patched(sigmas=["other", 0]), "other": OTHER}, "not in the sigmas"
    ),
    "a schedule that rises (inversion)": Mistake(
        "node",
        {
            **custom(["patch", 0], EULER, flipped=True),
            "patch": PATCH,
        },
    ),
}
REGION = {
    "a word that is not in the prompt": Mistake("node", words(words="red circles, dog")),
    "no words typed": Mistake("node", words(words=" ")),
    "a strength that is no number": Mistake("node", words(words="star:lots")),
    "mode words without a CLIP": Mistake("node", words(clip=None)),
    "mode words without the text": Mistake("node", words(text="")),
    "mode mask without a mask": Mistake(
        "node", {**asyndm_mask(batch=1), "region": region_mask("mask")}
    ),
    "a mask and a region at once": Mistake(
        "node", changed(regional_detail(batch=1), "sampler", {"black": BLACK}, mask=["black", 0])
    ),
    "a CLIP and text that are not the prompt's": Mistake(
        "node", words({"clip_l": CLIP_L}, clip=["clip_l", 0], text=LONG, words="sun")
    ),
    "words of a text encoder whose tokens are not known": Mistake(
        "node", words({"clip_l": HIDREAM}, clip=["clip_l", 0])
    ),
    "words, and two prompts combined": Mistake(
        "node", words({"both": COMBINED}, "sampler", positive=["both", 0])
    ),
    "words, and a prompt with an area": Mistake(
        "node", words({"area": AREA}, "sampler", positive=["area", 0])
    ),
    "words, and context windows": Mistake(
        "node", changed(asyndm_words(), "sampler", {"parts": WINDOWS}, model=["parts", 0])
    ),
    "words at CFG 1": Mistake("works", words(place="sampler", cfg=1.0)),
    "a region or mask on a model that cannot": Mistake(
        "node", words({"vace": VACE}, "sampler", model=["vace", 0])
    ),
    "a mask of another shape than the picture": Mistake("log", masked(WIDE), "the mask is 256"),
    "more masks than pictures": Mistake("works", masked(RED, three=THREE)),
    "a black mask": Mistake("log", masked(BLACK), "black everywhere"),
    "a mask with a very small white spot": Mistake(
        "log", masked(DOTTED, black=BLACK, dot=DOT), "smaller than a latent pixel"
    ),
    "a mask that was cropped beyond its edge": Mistake("node", masked(CROPPED, black=BLACK)),
    "a mask that shrinks to nothing": Mistake(
        "plot", changed(asyndm_mask(batch=1), "region", grow=-8), "once it has shrunk"
    ),
    "the whole picture, inverted": Mistake(
        "plot", changed(asyndm_mask(batch=1), "region", mode="all", invert=True), "inverted nothing"
    ),
    "words that shrink to nothing": Mistake(
        "plot", words(words="star", grow=-16), "once it has shrunk"
    ),
    "a threshold that no attention reaches": Mistake(
        "plot", words(words="rough", threshold=4.0), "nowhere above"
    ),
    "a strength of 0 for the only word": Mistake(
        "plot", words(words="star:0"), "strength of every word"
    ),
}
ASYNDM = {
    "no region connected": Mistake("before", words(place="sampler", region=None)),
    "a black mask for AsynDM": Mistake(
        "plot", {**asyndm_mask(batch=1), "mask": BLACK}, "black everywhere"
    ),
    "a sampler that AsynDM has not": Mistake("before", words(place="sampler", sampler_name="lcm")),
    "2 steps": Mistake("plot", words(place="sampler", steps=2), "3 steps"),
    "strength 0": Mistake("plot", words(place="sampler", strength=0.0), "strength 0 is"),
    "strength NaN, sent by a script": Mistake("node", words(place="sampler", strength=NAN)),
    "an Async Timestep patch on its model": Mistake(
        "node", words({"patch": PATCH}, "sampler", model=["patch", 0])
    ),
    "a schedule that rises, for AsynDM": Mistake("node", asyndm_custom(flipped=True)),
    "another guider (Dual CFG)": Mistake("works", asyndm_custom(guider=DUAL)),
}
DEMO = {
    "a word that the demo model does not know": Mistake(
        "node", changed(stock(batch=1), "positive", text="a red elephant")
    ),
    "a prompt that is too long for it": Mistake(
        "node", changed(stock(batch=1), "positive", text="red star " * 7)
    ),
    "a latent that is too large": Mistake(
        "node", in_latent(node("EmptySD3LatentImage", width=512, height=512, batch_size=1))
    ),
    "a latent of a video": Mistake(
        "node",
        in_latent(node("EmptyHunyuanLatentVideo", width=128, height=128, length=5, batch_size=1)),
    ),
    "a latent of SD1.5": Mistake("node", in_latent(node("LoadLatent", latent="sd15.latent"))),
    "an empty latent for SD1.5": Mistake(
        "works", in_latent(node("EmptyLatentImage", width=128, height=128, batch_size=1))
    ),
    "an image that is too small for its VAE": Mistake(
        "node",
        in_latent(node("VAEEncode", pixels=["small", 0], vae=["loader", 2])) | {"small": SMALL},
    ),
    "an image that is too small for the Noise Residual Meter": Mistake(
        "node", changed(async_ksampler(batch=1), "meter", {"small": SMALL}, image=["small", 0])
    ),
}
EYE = {
    "a session of Tune by Eye that is a path": Mistake("node", by_eye("my/schedule")),
    "a choice by number without its sheet": Mistake("node", by_eye("mistake", choice=2)),
    "the last sheets before there are enough choices": Mistake(
        "node", by_eye("too early", compare=True)
    ),
    "a sampler that does not get the deviation of Try": Mistake(
        "node", changed(by_eye("unconnected"), "sampler", deviation=None)
    ),
}
MISTAKES = {**FILES, **DEVIATION, **SCHEDULE, **REGION, **ASYNDM, **DEMO, **EYE}
SENTENCES = ("ValueError", "TPMFileError", "SessionError")  # whose texts are for the user
FOLDER_LIST = re.compile(r"(tpm_name: .* not in )\[.*\]", re.S)


def seen(server, mistake: Mistake) -> str:
    """The words on the user's screen; "" where nothing is said. What is in the TPM folder is
    written as […]."""
    if mistake.where == "before":
        answer = server.post("/prompt", {"prompt": mistake.graph})
        errors = [e for n in answer["node_errors"].values() for e in n["errors"]]
        texts = [f"{error['message']}: {error['details']}" for error in errors]
        assert len(texts) == 1, texts
        return FOLDER_LIST.sub(r"\1[…]", texts[0])
    before = last_logged(server)
    entry = server.wait(server.queue(mistake.graph))
    errors = [detail for kind, detail in entry["status"]["messages"] if kind == "execution_error"]
    if mistake.where == "node":
        assert errors, "it ran"
        assert errors[0]["exception_type"].rpartition(".")[2] in SENTENCES
        return errors[0]["exception_message"].removesuffix("\n")
    assert entry["status"]["status_str"] == "success", errors
    text = entry["outputs"].get("plot", {"text": [""]})["text"][0]
    if mistake.where == "works":
        assert text and "off" not in text, text
        return ""
    if mistake.where == "log":
        entries = server.get("/internal/logs/raw")["entries"]
        text = "".join(e["m"] for e in entries if e["t"] > before)
        text = re.sub(r"\x1b\[\d+m", "", text).replace("[WARNING] ", "\n")
    (line,) = {line.strip() for line in text.splitlines() if mistake.piece in line}
    return line


def last_logged(server) -> str:
    return max((entry["t"] for entry in server.get("/internal/logs/raw")["entries"]), default="")
