"""Async Timestep (model patch): MODEL in, MODEL out, for any sampler node."""

from __future__ import annotations

from comfy_api.latest import io

from .host import schema
from .inputs import (
    ALIASES,
    CATEGORY,
    CUSTOM,
    chosen_policy,
    custom_input,
    effect_inputs,
    trace_output,
)
from .region_mask import region_of
from .run.hook import attach


class AsyncTimestepModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepModel",
            display_name="Async Timestep (model patch)",
            category=CATEGORY,
            search_aliases=[*ALIASES, "regional detail", "model patch"],
            description="Adds fine detail without more steps, in any sampler: put it between the "
            "model loader and the sampler, behind nodes that change the sampling (shift).",
            inputs=[
                io.Model.Input("model", tooltip="The model that will add more detail."),
                *effect_inputs(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Makes both halves of a split schedule look as one run (SplitSigmas, "
                    "two KSamplers (Advanced)): connect all its SIGMAS here, from before the "
                    "split. Else the first step of each sampler is left as it is.",
                ),
                custom_input(),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Model.Output(tooltip="The same model, told the cleaner time."),
                trace_output(),
            ],
        )

    @classmethod
    def execute(
        cls, model, preset, deviation_scale, deviation=None, mask=None, region=None, sigmas=None,
        custom_deviation=CUSTOM,
    ) -> io.NodeOutput:  # fmt: skip
        policy = chosen_policy(preset, deviation, custom_deviation)
        where, node = region_of(mask, region), cls.hidden.unique_id if cls.hidden else ""
        return io.NodeOutput(*attach(model, policy, deviation_scale, sigmas, where, node or ""))
