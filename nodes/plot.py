"""Async Timestep Plot and the Noise Residual Meter: what was applied, and what it left in the
image.
"""

from __future__ import annotations

import torch

from comfy_api.latest import io, ui

from ..report.noise import noise_residual
from ..report.plot import plot_trace, words_card
from ..report.trace import Run, Trace
from .host import schema
from .inputs import CATEGORY, NAMES, TraceType
from .run.checks import require_kind
from .run.opening import is_of_this_prompt

WITHOUT = (
    "what is connected to 'after' was made without the node whose trace this is: its output goes "
    "to no sampler on the way"
)
EARLIER = "  of an earlier run: nothing before the sampler has changed, so it was not run again"


class AsyncTimestepPlot(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepPlot",
            display_name="Async Timestep Plot",
            category=CATEGORY,
            search_aliases=[*NAMES, "plot", "graph", "graph sigmas"],
            description="Draws what the model was really told at each step of the last run.",
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                TraceType.Input(
                    "trace",
                    optional=True,
                    tooltip="Draws this record, of an Async Timestep or AsynDM node; without one "
                    "(the node is bypassed) it says off.",
                ),
                io.AnyType.Input(
                    "after",
                    tooltip="Draws the run that has just ended: connect the sampler's latent or "
                    "the image, so that the plot waits for it.",
                ),
                io.Combo.Input(
                    "theme",
                    options=["dark", "light"],
                    default="dark",
                    optional=True,
                    tooltip="Draws light lines on a dark ground, or dark lines on a light one.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The plot as an image, to save or to compare."),
                io.String.Output(tooltip="The same numbers as JSON, one entry an evaluation."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # a trace changes without its wire changing

    @classmethod
    def execute(cls, after, trace: Trace | None = None, theme: str = "dark") -> io.NodeOutput:
        require_kind("trace", trace, Trace, "an Async Timestep or AsynDM node")
        record, hidden = trace or Trace(), cls.hidden
        text = "" if is_of_this_prompt(record) else f"\n{EARLIER}"
        if trace and hidden and made_without(hidden.prompt or {}, hidden.unique_id):
            record, text = Trace(), ""
            record.runs.append(Run("Async Timestep", "", [], why=WITHOUT))
        image = plot_trace(record if trace else None, dark=theme == "dark")
        text = record.summary() + text
        shown = {**ui.PreviewImage(image, cls=cls).as_dict(), "text": [text]}
        return io.NodeOutput(image, record.to_json(), ui=shown)


def made_without(prompt: dict, plot: str) -> bool:
    """Whether the node that the plot has its trace of is none of those that its 'after' comes from.
    prompt: id -> node, as it is queued. plot: the id of the plot."""
    links = prompt.get(plot, {}).get("inputs", {})
    trace, after = links.get("trace"), links.get("after")
    if not (isinstance(trace, list) and isinstance(after, list)):
        return False
    waiting, seen = [after[0]], set()
    while waiting:
        node = waiting.pop()
        if node == trace[0]:
            return False
        if node not in seen:
            seen.add(node)
            inputs = prompt.get(node, {}).get("inputs", {}).values()
            waiting += [value[0] for value in inputs if isinstance(value, list) and value]
    return True


class AsyncTimestepNoiseMeter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepNoiseMeter",
            display_name="Noise Residual Meter",
            category=CATEGORY,
            is_output_node=True,
            search_aliases=["noise level", "grain", "residual noise", "detail", "async timestep"],
            description="Measures the fine noise that is left in an image: the price of a large "
            "deviation. Compare two images of the same seed; texture counts a little too.",
            inputs=[
                io.Image.Input("image", tooltip="The image whose left-over grain is measured.")
            ],
            outputs=[
                io.Float.Output(
                    display_name="noise",
                    tooltip="Noise level in units of 0-255 grey values, mean of the batch.",
                ),
                io.Image.Output(
                    display_name="map", tooltip="Where the noise is: brighter is noisier."
                ),
                io.String.Output(display_name="text", tooltip="The level of each image in words."),
            ],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        level, where, lines = measured_noise(image)
        text = "Residual noise\n" + "\n".join(lines)
        shown = {**ui.PreviewImage(words_card(lines), cls=cls).as_dict(), "text": [text]}
        return io.NodeOutput(level, where, text, ui=shown)


def measured_noise(image: torch.Tensor) -> tuple[float, torch.Tensor, list[str]]:
    """Mean level, map (B, H, W, 3) and a line an image, of images (B, H, W, C); one channel is
    grey, a fourth is left out. An image that is not finite has no level, and its map is black.
    Raises ValueError where none has a level."""
    rgb = image.expand(*image.shape[:-1], 3) if image.shape[-1:] == (1,) else image[..., :3]
    level, where = noise_residual(rgb)
    finite = level.isfinite()
    if not bool(finite.any()):
        raise ValueError(
            "The noise meter found only images whose pixels are not finite (NaN or infinity), "
            "expected numbers from 0 to 1; look for the node that made them, often a VAE in half "
            "precision."
        )
    level = level * 255
    lines = [
        f"image {i}: {value:.2f} of 255" if ok else f"image {i}: not finite, not measured"
        for i, (value, ok) in enumerate(zip(level.tolist(), finite.tolist(), strict=True))
    ]
    where = where.where(finite.view(-1, 1, 1), torch.zeros_like(where))
    picture = where.unsqueeze(-1).expand(-1, -1, -1, 3).contiguous()
    return float(level[finite].mean()), picture, lines
