"""The example graphs with a region: AsynDM by words, by mask, compared; regional detail."""

from __future__ import annotations

from .graphs import PROMPT, base, conditioned, node

WORDS = "red circles, blue star"
STEPS = 12


def prompted(prompt: str = PROMPT, batch: int = 4) -> dict:
    """The base graph with the prompt in one box, for the encoder and for the Region Mask."""
    graph = base(prompt, batch)
    graph["prompt"] = node("PrimitiveStringMultiline", "Prompt", value=prompt)
    graph["positive"]["inputs"]["text"] = ["prompt", 0]
    graph["positive"]["_meta"]["title"] = "Encode the prompt"
    return graph


def region_mask(mode: str, **inputs) -> dict:
    settings = {"text": "", "words": "", "threshold": 1.0, "static": False}
    return node("AsynDMRegionMask", mode=mode, **{**settings, **inputs})


def word_region(words: str = WORDS, static: bool = False) -> dict:
    return region_mask("words", clip=["loader", 1], text=["prompt", 0], words=words, static=static)


def asyndm_sampler(region: str, seed: int, strength: float = 0.5, steps: int = STEPS) -> dict:
    wired = conditioned(["loader", 0], seed, steps=steps)
    return node("AsynDMKSampler", **wired, region=[region, 0], strength=strength, eta=0.0)


def asyndm_words(
    prompt: str = PROMPT, words: str = WORDS, seed: int = 1, batch: int = 4, strength: float = 0.5
) -> dict:
    """What the words name is denoised last."""
    return {
        **prompted(prompt, batch),
        "region": word_region(words),
        "sampler": asyndm_sampler("region", seed, strength),
        "plot": node("AsyncTimestepPlot", trace=["sampler", 1], after=["sampler", 0], theme="dark"),
    }


def asyndm_mask(prompt: str = PROMPT, seed: int = 1, batch: int = 4, strength: float = 0.5) -> dict:
    """A drawn mask: here the upper half, made by stock mask nodes."""
    return {
        **base(prompt, batch),
        "black": node("SolidMask", "All", value=0.0, width=128, height=128),
        "white": node("SolidMask", "Upper half", value=1.0, width=128, height=64),
        "mask": node(
            "MaskComposite",
            destination=["black", 0],
            source=["white", 0],
            x=0,
            y=0,
            operation="add",
        ),
        "region": region_mask("mask", mask=["mask", 0]),
        "sampler": asyndm_sampler("region", seed, strength),
        "plot": node("AsyncTimestepPlot", trace=["sampler", 1], after=["sampler", 0], theme="dark"),
    }


def regional_detail(
    prompt: str = PROMPT,
    words: str = "rough",
    seed: int = 1,
    batch: int = 4,
    deviation: float = 0.5,
    scale: float = 1.0,
) -> dict:
    """More texture where the words are, and the stock picture elsewhere, in one pass."""
    wired = conditioned(["loader", 0], seed)
    return {
        **prompted(prompt, batch),
        "region": word_region(words),
        "deviation": node(
            "AsyncTimestepDeviation", preset="custom", deviation=deviation, start_percent=0.0,
            end_percent=1.0, unit="interval", mode="conditioning",
        ),
        "sampler": node(
            "AsyncTimestepKSampler", **wired, preset="auto", deviation_scale=scale,
            deviation=["deviation", 0], region=["region", 0],
        ),
        "plot": node("AsyncTimestepPlot", trace=["sampler", 1], after=["sampler", 0], theme="dark"),
    }  # fmt: skip
