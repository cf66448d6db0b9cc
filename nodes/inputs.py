"""Inputs and wire types that several nodes share, with one wording."""

from __future__ import annotations

from comfy_api.latest import io

from ..tpm.families import PRESETS
from ..tpm.policies import Constant, Policy, Preset
from ..tpm.variance import NAME as VARIANCE_MATCH
from ..tpm.variance import VarianceMatch
from .run.checks import require_finite, require_kind

CATEGORY = "sampling/async timestep"
NAMES = ["timestep conditioning", "async timestep", "deviation"]  # every node of the deviation wire
ALIASES = [*NAMES, "detail daemon", "lying sigma", "detail amount", "sigma offset"]  # that samples
CUSTOM = 0.5  # of a number that nobody has set
PRESET_NAMES = ["auto", *PRESETS, VARIANCE_MATCH, "custom"]

Deviation = io.Custom("ASYNC_DEVIATION")
RegionType = io.Custom("ASYNDM_REGION")
TraceType = io.Custom("ASYNC_TRACE")


def preset_input() -> io.Combo.Input:
    return io.Combo.Input(
        "preset",
        options=PRESET_NAMES,
        default="auto",
        tooltip="How much detail: auto is the published value for Flux.1-dev (+0.5) and "
        "SD3.5-medium (+0.2), and an untested +0.25 for all others; variance match looks for it in "
        "the image; custom takes custom_deviation. A connected deviation replaces it.",
    )


def custom_input() -> io.Float.Input:
    """The number of the preset custom, on the nodes that sample. At the end of their inputs, where
    saved graphs have none."""
    return io.Float.Input(
        "custom_deviation",
        default=CUSTOM,
        min=-1.0,
        max=1.0,
        step=0.01,
        optional=True,
        tooltip="More detail above 0, a smoother image below. Read only where the preset is custom "
        "and no deviation is connected.",
    )


def scale_input() -> io.Float.Input:
    return io.Float.Input(
        "deviation_scale",
        default=1.0,
        min=-2.0,
        max=4.0,
        step=0.05,
        tooltip="Detail strength: 0 is off (the same image as without the node, bit for bit), 1 as "
        "chosen, 2 double, below 0 smoother. The paper's gamma.",
    )


def deviation_input(alone: str = "replaces the preset") -> io.Custom.Input:
    """alone: what else is to be said, at the end of the tooltip."""
    return Deviation.Input(
        "deviation",
        optional=True,
        tooltip="What decides the detail at each step: a Deviation node or a TPM Loader, with any "
        f"number of scale nodes behind it; {alone}.",
    )


def mask_input() -> io.Mask.Input:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Adds the detail only where the mask is white; grey gives a part of it. Any size, "
        "it is fitted to the latent.",
    )


def region_input() -> io.Custom.Input:
    return RegionType.Input(
        "region",
        optional=True,
        tooltip="Adds the detail only where an AsynDM Region Mask says: by words of the prompt, or "
        "a mask. It takes no more time.",
    )


def effect_inputs() -> list:
    """How much detail and where, as the patch and both KSamplers ask for it."""
    return [preset_input(), scale_input(), deviation_input(), mask_input(), region_input()]


def window_inputs() -> list:
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Raise it to leave the composition alone and change only finer things: where "
            "in the sampling the effect begins, 0 is the noisy start. As in the stock nodes.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Lower it to 0.8 or 0.9 to get rid of grain in flat areas: where in the "
            "sampling the effect ends, 1 is the finished image.",
        ),
    ]


def trace_output() -> io.Custom.Output:
    return TraceType.Output(
        display_name="trace",
        tooltip="Shows what was really applied at each step: connect it to Async Timestep Plot.",
    )


def latent_and_trace() -> list:
    """The outputs of every KSampler."""
    return [io.Latent.Output(tooltip="The sampled image, for a VAE Decode."), trace_output()]


def chosen_policy(preset: str, deviation: Policy | None, custom: float | None = CUSTOM) -> Policy:
    """The connected policy, else the preset's. custom: the number of the preset of that name.
    Raises ValueError on a number that is not finite, and on what is no deviation."""
    require_kind("deviation", deviation, Policy, "a Deviation node or a TPM Loader")
    if deviation is not None:
        return deviation
    if preset == "custom":
        custom = CUSTOM if custom is None else custom
        require_finite(custom_deviation=custom)
        return Constant(custom)
    return VarianceMatch() if preset == VARIANCE_MATCH else Preset(preset)
