"""Inputs and wire types that several nodes share, with one wording."""

from __future__ import annotations

from comfy_api.latest import io

from ..tpm.families import PRESETS
from ..tpm.policies import Policy, Preset
from ..tpm.variance import NAME as VARIANCE_MATCH
from ..tpm.variance import VarianceMatch

CATEGORY = "sampling/async timestep"
ALIASES = [
    "detail daemon",
    "lying sigma",
    "detail amount",
    "sigma offset",
    "timestep conditioning",
    "async timestep",
    "deviation",
]
PRESET_NAMES = ["auto", *PRESETS, VARIANCE_MATCH, "custom"]

Deviation = io.Custom("ASYNC_DEVIATION")
RegionType = io.Custom("ASYNDM_REGION")
TraceType = io.Custom("ASYNC_TRACE")


def preset_input() -> io.Combo.Input:
    return io.Combo.Input(
        "preset",
        options=PRESET_NAMES,
        default="auto",
        tooltip="How much detail the model adds: auto picks the paper's value for the loaded model "
        "(Flux.1-dev +0.5, SD3.5-medium +0.2) and a careful +0.25, marked untuned, for every "
        "other; variance match looks for it in the latents. A connected deviation replaces it; "
        "custom needs one.",
    )


def scale_input() -> io.Float.Input:
    return io.Float.Input(
        "deviation_scale",
        default=1.0,
        min=-2.0,
        max=4.0,
        step=0.05,
        tooltip="More detail above 1, less below, a smoother image below 0; 0 is exactly the stock "
        "result, bit for bit. Multiplies the deviation (gamma in the paper).",
    )


def deviation_input(optional: bool = True) -> io.Custom.Input:
    return Deviation.Input(
        "deviation",
        optional=optional,
        tooltip="What decides the detail at each step: a Deviation node or a TPM Loader, with any "
        "number of scale nodes behind it. Replaces the preset.",
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
        "a mask. Each pixel is told its own time, in the same one pass of the model.",
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


def chosen_policy(preset: str, deviation: Policy | None) -> Policy:
    """The connected policy, else the preset's. Raises ValueError for custom with nothing
    connected.
    """
    if deviation is not None:
        return deviation
    if preset == "custom":
        raise ValueError(
            "The preset is 'custom' but nothing is connected to 'deviation'; connect a Deviation "
            f"node or a TPM Loader, or choose one of {', '.join(PRESET_NAMES[:-1])}."
        )
    return VarianceMatch() if preset == VARIANCE_MATCH else Preset(preset)
