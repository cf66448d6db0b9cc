"""AsynDM Sampler and AsynDM KSampler."""

from __future__ import annotations

from comfy_api.latest import io
from nodes import common_ksampler

from ..report.trace import Trace
from .host import schema
from .inputs import CATEGORY, RegionType, latent_and_trace, trace_output
from .run.asyndm import SAMPLERS, asyndm_sampler, attach_asyndm
from .run.region import Region
from .sampler import denoise_input, sampler_inputs

ALIASES = [
    "asyndm",
    "asynchronous denoising",
    "per-pixel timestep",
    "regional prompt alignment",
    "differential diffusion",
    "async timestep",
]


def asyndm_ksampler(
    model, region: Region, strength: float, sampler_name: str, eta: float, **stock
) -> tuple[dict, Trace]:
    """The stock `common_ksampler` with AsynDM in its sampler's place. `stock`: its other
    arguments. Raises ValueError on a model that cannot be told one time per pixel."""
    patched, trace = attach_asyndm(model, region, strength, sampler_name, eta)
    return common_ksampler(patched, sampler_name=sampler_name, **stock)[0], trace


def method_inputs() -> tuple:
    """region, strength, eta: with one wording."""
    region = RegionType.Input(
        "region",
        tooltip="What is finished last, on a context that is already clear: an AsynDM Region Mask.",
    )
    strength = io.Float.Input(
        "strength",
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip="How far the region falls behind the rest; 0 is exactly the stock result, bit for "
        "bit, 1 the paper's formula. From 0.8 the background may keep noise.",
    )
    eta = io.Float.Input(
        "eta",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="Fresh noise at each step, for ddim only: 0 adds none, 1 is what the paper's "
        "images were made with (at many steps).",
    )
    return region, strength, eta


def sampler_input(name: str) -> io.Combo.Input:
    return io.Combo.Input(
        name,
        options=list(SAMPLERS),
        default="euler",
        tooltip="The character of the image's fine structure: euler and ddim are calm, "
        "euler_ancestral adds fresh noise. Methods that remember earlier steps are not here: "
        "pixels take steps of different sizes.",
    )


class AsynDMSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        region, strength, eta = method_inputs()
        return schema(
            node_id="AsynDMSampler",
            display_name="AsynDM Sampler",
            category=CATEGORY,
            search_aliases=ALIASES,
            description="A sampler for SamplerCustomAdvanced in which the region is denoised after "
            "its surroundings, pixel by pixel, in the same number of steps.",
            inputs=[region, strength, sampler_input("sampler"), eta],
            outputs=[
                io.Sampler.Output(tooltip="Connect to SamplerCustomAdvanced or SamplerCustom."),
                trace_output(),
            ],
        )

    @classmethod
    def execute(cls, region, strength, sampler, eta) -> io.NodeOutput:
        return io.NodeOutput(*asyndm_sampler(region, strength, sampler, eta))


class AsynDMKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        region, strength, eta = method_inputs()
        stock = [i for i in sampler_inputs("seed") if i.id != "sampler_name"]
        after_cfg = [i.id for i in stock].index("cfg") + 1
        stock.insert(after_cfg, sampler_input("sampler_name"))
        return schema(
            node_id="AsynDMKSampler",
            display_name="AsynDM KSampler",
            category=CATEGORY,
            search_aliases=[*ALIASES, "ksampler"],
            description="KSampler in which a region is denoised after its surroundings, pixel by "
            "pixel, in the same number of steps. Whether that helps depends on the region: see the "
            "node's page.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model that paints the image; take an Async Timestep patch off it.",
                ),
                *stock,
                denoise_input(),
                region,
                strength,
                eta,
            ],
            outputs=latent_and_trace(),
        )

    @classmethod
    def execute(
        cls, model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image,
        denoise, region, strength, eta,
    ) -> io.NodeOutput:  # fmt: skip
        latent, trace = asyndm_ksampler(
            model,
            region,
            strength,
            sampler_name,
            eta,
            seed=seed,
            steps=steps,
            cfg=cfg,
            scheduler=scheduler,
            positive=positive,
            negative=negative,
            latent=latent_image,
            denoise=denoise,
        )
        return io.NodeOutput(latent, trace)
