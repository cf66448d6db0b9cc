"""Async Timestep (model patch): MODEL in, MODEL out, for any sampler node."""

from __future__ import annotations

from comfy_api.latest import io

from .host import schema
from .inputs import ALIASES, CATEGORY, chosen_policy, effect_inputs, trace_output
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
            description="Adds detail in the same number of steps: tells the model that it is later "
            "in the schedule than the sampler is. Put it between the loader and any sampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will add more detail."),
                *effect_inputs(),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="Makes both halves of a split schedule look as one run: connect the "
                    "whole schedule here, before it is split. Without it the first step of each "
                    "sampler is left as it is.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The same model, told the cleaner time."),
                trace_output(),
            ],
        )

    @classmethod
    def execute(
        cls, model, preset, deviation_scale, deviation=None, mask=None, region=None, sigmas=None
    ) -> io.NodeOutput:
        policy, where = chosen_policy(preset, deviation), region_of(mask, region)
        return io.NodeOutput(*attach(model, policy, deviation_scale, sigmas, where))
