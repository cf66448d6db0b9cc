"""AsynDM Region Mask: where AsynDM, or a deviation, acts."""

from __future__ import annotations

import math

import torch

from comfy_api.latest import io

from ..tpm.metadata import shown
from .host import schema
from .inputs import CATEGORY, NAMES, RegionType
from .run.checks import require_finite, require_kind
from .run.region import MODES, Region
from .run.words import word_columns


def region_mask(
    mode: str = "words",
    clip=None,
    text: str = "",
    words: str = "",
    mask: torch.Tensor | None = None,
    threshold: float = 1.0,
    static: bool = False,
    grow: int = 0,
    invert: bool = False,
) -> Region:
    """What the AsynDM Region Mask node returns.

    words: comma separated words of `text`, the positive prompt as `clip` encodes it; `cat:0.6`
    gives a word a factor of its own on the strength. mask: (H, W) or (B, H, W). grow: by how many
    latent pixels the region reaches farther, below 0 it shrinks; invert: then all but it. Raises
    ValueError on what the mode needs and has not, and on unknown words.
    """
    require_finite(grow=grow)
    shape = {"grow": int(grow), "invert": bool(invert)}
    if mode == "mask":
        return Region(mode, mask=mask, **shape)
    if mode == "all":
        return Region(mode, **shape)
    if mode != "words":
        raise ValueError(f"The mode is {mode!r}; choose one of {', '.join(MODES)}.")
    if clip is None or not text.strip():
        missing = "no CLIP" if clip is None else "an empty text"
        raise ValueError(
            f"AsynDM Region Mask in mode words found {missing}; connect the CLIP and the same "
            "prompt that the positive conditioning is made of, or use mode mask."
        )
    require_finite(threshold=threshold)
    factors = word_factors(words)
    columns = word_columns(clip, text, ", ".join(factors))
    settings = {"strengths": tuple(factors.values()), "threshold": threshold, "static": static}
    return Region(mode, columns=columns, **settings, **shape)


def word_factors(words: str) -> dict[str, float]:
    """ "cat:0.6, dog" -> {"cat": 0.6, "dog": 1.0}."""
    factors: dict[str, float] = {}
    for part in (p.strip() for p in words.replace("\n", ",").split(",")):
        word, colon, factor = part.rpartition(":")
        if not colon:
            word, factor = part, "1"
        try:
            number = float(factor)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 2:
            raise ValueError(
                f"AsynDM Region Mask found the strength {shown(factor.strip())} of the word "
                f"{shown(word.strip())}; write a number from 0 to 2 behind the colon, as in "
                "cat:0.6."
            )
        if word.strip():
            factors[word.strip()] = number
    return factors


def region_of(mask: torch.Tensor | None, region: Region | None) -> Region | None:
    """The one of both optional inputs that is connected."""
    require_kind("region", region, Region, "an AsynDM Region Mask")
    if mask is not None and region is not None:
        raise ValueError(
            "Both a mask and a region are connected; connect one of them (a region in mode mask "
            "takes the mask)."
        )
    return region if mask is None else Region("mask", mask=mask)


class AsynDMRegionMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsynDMRegionMask",
            display_name="AsynDM Region Mask",
            category=CATEGORY,
            search_aliases=[
                *NAMES,
                "asyndm",
                "attention mask",
                "word mask",
                "regional detail",
                "differential diffusion",
                "attend",
            ],
            description="Says where AsynDM (or a deviation) acts: where the model attends to words "
            "of the prompt, inside a mask, or everywhere.",
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="words",
                    tooltip="Where in the image something happens: words follows the model's "
                    "attention to words of the prompt, mask is your own, all is everywhere (for "
                    "AsynDM a comparison: it only bends the schedule).",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Finds the words: the same CLIP that encodes the positive prompt. Mode "
                    "words only.",
                ),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    optional=True,
                    dynamic_prompts=True,
                    tooltip="The positive prompt, exactly as it is encoded; a conditioning does "
                    "not carry its text. Mode words only.",
                ),
                io.String.Input(
                    "words",
                    default="",
                    optional=True,
                    tooltip="Which things the region covers: words of the prompt, separated by "
                    "commas. cat:0.6 gives one a strength of its own. Mode words only.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Your own region, white is inside, grey is weaker. Any size. Mode mask "
                    "only.",
                ),
                io.Float.Input(
                    "threshold",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    optional=True,
                    tooltip="Higher makes the words' regions smaller, lower larger (how far the "
                    "attention must be above its mean). Mode words only.",
                ),
                io.Boolean.Input(
                    "static",
                    default=False,
                    optional=True,
                    tooltip="Finds the words' regions once, in a first run (it takes twice as "
                    "long), instead of anew at each step. Mode words only.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-128,
                    max=128,
                    optional=True,
                    tooltip="Makes the region larger on every side, by so many latent pixels (one "
                    "is 8 x 8 pixels of the picture, or more); below 0 smaller. A mask, or what "
                    "the words cover.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    optional=True,
                    tooltip="Turns the region round: everything but what the words or the mask "
                    "cover. It comes last, after grow.",
                ),
            ],
            outputs=[
                RegionType.Output(
                    display_name="region",
                    tooltip="Connect to an AsynDM sampler or an Async Timestep node.",
                )
            ],
        )

    @classmethod
    def execute(cls, mode, **inputs) -> io.NodeOutput:
        connected = {name: value for name, value in inputs.items() if value is not None}
        return io.NodeOutput(region_mask(mode, **connected))
