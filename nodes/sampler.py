"""Async Timestep KSampler and KSampler (Advanced): the stock samplers with the hook built in."""

from __future__ import annotations

import torch

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from nodes import common_ksampler

from ..report.trace import Trace
from ..tpm.policies import Policy
from .host import schema
from .inputs import (
    ALIASES,
    CATEGORY,
    CUSTOM,
    chosen_policy,
    custom_input,
    effect_inputs,
    latent_and_trace,
)
from .region_mask import region_of
from .run.checks import require_finite
from .run.hook import attach
from .run.region import Region


def full_schedule(
    model: ModelPatcher, steps: int, sampler_name: str, scheduler: str, denoise: float = 1.0
) -> torch.Tensor:
    """The sigmas (K+1,) that a KSampler of these settings would run from start to end."""
    sampler = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=torch.device("cpu"),
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    return sampler.sigmas


def async_ksampler(
    model,
    policy: Policy,
    scale: float,
    steps: int,
    sampler_name: str,
    scheduler: str,
    region: Region | None = None,
    **stock,
) -> tuple[dict, Trace]:
    """The stock `common_ksampler` on a model that is told t*. `stock`: its other arguments.

    region: where the deviation acts, None for everywhere. t* follows the schedule of all `steps`,
    also where start_step and last_step run a part of it.
    """
    require_finite(denoise=stock.get("denoise", 1.0))
    whole = None
    if "start_step" in stock:
        whole = full_schedule(model, steps, sampler_name, scheduler)
    patched, trace = attach(model, policy, scale, whole, region)
    latent = common_ksampler(
        patched, steps=steps, sampler_name=sampler_name, scheduler=scheduler, **stock
    )[0]
    return latent, trace


def sampler_inputs(seed_name: str) -> list:
    """The widgets that both KSamplers have, with the names and defaults of the stock nodes."""
    return [
        io.Int.Input(
            seed_name,
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The noise that the image starts from; the same seed gives the same image.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10000,
            tooltip="How finely the image is worked out, and how long it takes. A deviation shows "
            "most with few steps, AsynDM with many.",
        ),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="How closely the image follows the prompt. The strength of a deviation does "
            "not grow with it.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.SAMPLER_NAMES,
            tooltip="The character of the image's fine structure: the sampling method. A deviation "
            "works with every one.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            tooltip="How much of the work goes into composition and how much into detail, as in "
            "the stock KSampler. A file of the TPM Loader expects the one that it was made with.",
        ),
        io.Conditioning.Input("positive", tooltip="What should be in the image."),
        io.Conditioning.Input("negative", tooltip="What should not be in the image."),
        io.Latent.Input(
            "latent_image",
            tooltip="What the image starts from: an empty latent, or a picture to change.",
        ),
    ]


def denoise_input() -> io.Float.Input:
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="How much of the latent is made anew; lower keeps more of its structure.",
    )


class AsyncTimestepKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepKSampler",
            display_name="Async Timestep KSampler",
            category=CATEGORY,
            search_aliases=[*ALIASES, "regional detail", "ksampler"],
            description="KSampler with a detail slider: adds fine detail without more steps.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will add more detail."),
                *sampler_inputs("seed"),
                denoise_input(),
                *effect_inputs(),
                custom_input(),
            ],
            outputs=latent_and_trace(),
        )

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise, preset, deviation_scale, deviation=None, mask=None, region=None,
        custom_deviation=CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        latent, trace = async_ksampler(
            model,
            chosen_policy(preset, deviation, custom_deviation),
            deviation_scale,
            steps,
            sampler_name,
            scheduler,
            region_of(mask, region),
            seed=seed,
            cfg=cfg,
            positive=positive,
            negative=negative,
            latent=latent_image,
            denoise=denoise,
        )
        return io.NodeOutput(latent, trace)


class AsyncTimestepKSamplerAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepKSamplerAdvanced",
            display_name="Async Timestep KSampler (Advanced)",
            category=CATEGORY,
            search_aliases=[*ALIASES, "regional detail", "ksampler advanced"],
            description="KSampler (Advanced) with a detail slider: adds fine detail without more "
            "steps. Two stages of one schedule look as one run.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will add more detail."),
                io.Combo.Input(
                    "add_noise",
                    options=["enable", "disable"],
                    tooltip="A new image starts from added noise; disable it in a later stage, "
                    "whose latent still has its own.",
                ),
                *sampler_inputs("noise_seed"),
                io.Int.Input(
                    "start_at_step",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="How much is already done when this stage begins: its first step, of "
                    "all steps.",
                ),
                io.Int.Input(
                    "end_at_step",
                    default=10000,
                    min=0,
                    max=10000,
                    tooltip="How finished the latent is when this stage stops: before this step, "
                    "of all steps.",
                ),
                io.Combo.Input(
                    "return_with_leftover_noise",
                    options=["disable", "enable"],
                    tooltip="Disabled gives a finished image; enabled a still noisy latent, for a "
                    "next stage.",
                ),
                *effect_inputs(),
                custom_input(),
            ],
            outputs=latent_and_trace(),
        )

    @classmethod
    def execute(
        cls, model, add_noise, noise_seed, steps, cfg, sampler_name, scheduler, positive, negative,
        latent_image, start_at_step, end_at_step, return_with_leftover_noise, preset,
        deviation_scale, deviation=None, mask=None, region=None, custom_deviation=CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        latent, trace = async_ksampler(
            model, chosen_policy(preset, deviation, custom_deviation), deviation_scale, steps,
            sampler_name, scheduler, region_of(mask, region), seed=noise_seed, cfg=cfg,
            positive=positive,
            negative=negative, latent=latent_image, disable_noise=add_noise == "disable",
            start_step=start_at_step, last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
        )  # fmt: skip
        return io.NodeOutput(latent, trace)
