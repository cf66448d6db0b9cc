"""The deviation's example graphs in the server's own (API) format.

Each graph is {node id: {class_type, inputs, _meta: {title}}}; ids are words here, links are
[id, slot].
"""

from __future__ import annotations

PROMPT = "two red circles above a blue star on a dark rough background"
SAMPLING = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}


def node(class_type: str, title: str = "", **inputs) -> dict:
    return {
        "class_type": class_type,
        "inputs": inputs,
        **({"_meta": {"title": title}} if title else {}),
    }


def base(prompt: str = PROMPT, batch: int = 4) -> dict:
    """Loader, prompts and latent of the embedded model, and the decoder at the end."""
    return {
        "loader": node("AsyncTimestepDemoLoader"),
        "positive": node("CLIPTextEncode", "Prompt", text=prompt, clip=["loader", 1]),
        "negative": node("CLIPTextEncode", "Negative prompt (empty)", text="", clip=["loader", 1]),
        "latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=batch),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["loader", 2]),
        "preview": node("PreviewImage", images=["decode", 0]),
    }


def conditioned(model: list, seed: int, **sampling) -> dict:
    return {
        "model": model,
        "seed": seed,
        **SAMPLING,
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "denoise": 1.0,
        **sampling,
    }


def stock(prompt: str = PROMPT, seed: int = 1, batch: int = 4, **sampling) -> dict:
    """The embedded model in a stock KSampler."""
    return {
        **base(prompt, batch),
        "sampler": node("KSampler", **conditioned(["loader", 0], seed, **sampling)),
    }


def model_patch(prompt: str = PROMPT, seed: int = 1, batch: int = 4) -> dict:
    """The same with the patch between the loader and the stock KSampler."""
    return {
        **base(prompt, batch),
        "patch": node(
            "AsyncTimestepModel", model=["loader", 0], preset="auto", deviation_scale=1.0
        ),
        "sampler": node("KSampler", **conditioned(["patch", 0], seed)),
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["sampler", 0], theme="dark"),
    }


def async_ksampler(
    prompt: str = PROMPT,
    seed: int = 1,
    batch: int = 4,
    deviation: float = 0.5,
    scale: float = 1.0,
    **sampling,
) -> dict:
    """Deviation -> Deviation Scale -> Async Timestep KSampler -> Plot."""
    wired = conditioned(["loader", 0], seed, **sampling)
    return {
        **base(prompt, batch),
        "deviation": node(
            "AsyncTimestepDeviation", preset="custom", deviation=deviation, start_percent=0.0,
            end_percent=1.0, unit="interval", mode="conditioning",
        ),
        "scale": node(
            "AsyncTimestepDeviationScale", deviation=["deviation", 0], deviation_scale=scale,
            start_percent=0.0, end_percent=1.0,
        ),
        "sampler": node(
            "AsyncTimestepKSampler", **wired, preset="auto", deviation_scale=1.0,
            deviation=["scale", 0],
        ),
        "plot": node("AsyncTimestepPlot", trace=["sampler", 1], after=["sampler", 0], theme="dark"),
        "meter": node("AsyncTimestepNoiseMeter", image=["decode", 0]),
    }  # fmt: skip


def split_sigmas(
    prompt: str = PROMPT, seed: int = 1, batch: int = 4, steps: int = 6, cut: int = 3
) -> dict:
    """SamplerCustomAdvanced in two stages; the patch gets the whole schedule."""
    graph = base(prompt, batch)
    graph["decode"]["inputs"]["samples"] = ["second", 0]
    return {
        **graph,
        "schedule": node(
            "BasicScheduler", model=["loader", 0], scheduler="simple", steps=steps, denoise=1.0
        ),
        "split": node("SplitSigmas", sigmas=["schedule", 0], step=cut),
        "patch": node(
            "AsyncTimestepModel", model=["loader", 0], preset="auto", deviation_scale=1.0,
            sigmas=["schedule", 0],
        ),
        "guider": node(
            "CFGGuider", model=["patch", 0], positive=["positive", 0],
            negative=["negative", 0], cfg=3.0,
        ),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "noise": node("RandomNoise", noise_seed=seed),
        "silence": node("DisableNoise"),
        "first": node(
            "SamplerCustomAdvanced", "First stage", noise=["noise", 0], guider=["guider", 0],
            sampler=["euler", 0], sigmas=["split", 0], latent_image=["latent", 0],
        ),
        "second": node(
            "SamplerCustomAdvanced", "Second stage", noise=["silence", 0], guider=["guider", 0],
            sampler=["euler", 0], sigmas=["split", 1], latent_image=["first", 0],
        ),
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["second", 0], theme="dark"),
    }  # fmt: skip
