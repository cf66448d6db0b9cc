"""The example graphs in the server's own (API) format: the source of workflows/ and of the
demo.

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
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["sampler", 0]),
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
        "plot": node("AsyncTimestepPlot", trace=["sampler", 1], after=["sampler", 0]),
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
        "plot": node("AsyncTimestepPlot", trace=["patch", 1], after=["second", 0]),
    }  # fmt: skip


WORKFLOWS = {
    "demo_1_stock_ksampler": stock,
    "demo_2_model_patch": model_patch,
    "demo_3_async_ksampler": async_ksampler,
    "demo_4_split_sigmas": split_sigmas,
}

PLACES = {  # where the nodes stand in the editor: x, y, width, height
    "loader": [0, -60, 280, 90],
    "positive": [320, -60, 380, 140],
    "negative": [320, 140, 380, 100],
    "latent": [320, 300, 380, 110],
    "deviation": [-340, 320, 300, 220],
    "scale": [0, 320, 280, 130],
    "patch": [0, 240, 280, 150],
    "schedule": [0, 450, 280, 110],
    "split": [0, 620, 280, 80],
    "guider": [320, 470, 380, 110],
    "euler": [320, 640, 380, 60],
    "noise": [760, 300, 320, 90],
    "silence": [760, 450, 320, 40],
    "sampler": [760, -60, 320, 380],
    "first": [760, -60, 320, 130],
    "second": [760, 120, 320, 130],
    "decode": [1140, -60, 220, 50],
    "preview": [1140, 60, 420, 460],
    "plot": [1600, -60, 560, 480],
    "meter": [1140, 580, 420, 160],
}
HOW = (
    "The model is tiny and comes with the pack: it draws what you write in the words it knows, "
    "one to "
    "three coloured shapes on a *dark* or *light*, *plain*, *striped*, *dotted* or *rough* "
    "background.\n\n"
)
NOTES = {
    "demo_1_stock_ksampler": "## The embedded model in a stock KSampler\n\n"
    + HOW
    + "Four steps are few: look "
    "at how flat the rough background is. The next template adds one node and nothing else.",
    "demo_2_model_patch": "## The same graph with the model patch\n\n"
    + HOW
    + "Between the loader and a stock "
    "KSampler: the network is told a cleaner time than the sampler integrates with. "
    "`deviation_scale` 0 is "
    "exactly the stock picture, 2 is twice the effect. The plot shows what was really applied.",
    "demo_3_async_ksampler": "## Deviation, Deviation Scale, Async Timestep KSampler\n\n"
    + HOW
    + "Set "
    "`deviation_scale` to 0, 1, 2 on the same seed: more texture, and, from some point on, "
    "grain: the "
    "Noise Residual Meter counts it.",
    "demo_4_split_sigmas": "## A schedule in two stages\n\n"
    + HOW
    + "The patch gets the whole schedule, so both "
    "stages are told the same times as one run would be. Without that wire the second stage starts "
    "synchronous.",
}
