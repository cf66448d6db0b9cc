"""The network's calls in one evaluation of a sampling run: told a map of times, read for words."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from comfy.patcher_extension import WrappersMP

from .attention import Columns, WordMaps, start_reading, watch
from .families import family_of, uncompiled
from .scope import Box, PixelMap, boxes_of, call_with_map, uncompiled_run

KEY = "async_timestep_pixels"


@dataclass
class Calls:
    """What an evaluation's calls are told, and what is read of them.

    shape: (B, C, ...) of the run's latent. prompts: uuid -> Columns of the positive prompts.
    pixels: the map, None for the sampler's own time. words: where the attention to them is
    collected, None where it is not read.
    """

    shape: Sequence[int]
    prompts: dict[object, Columns]
    pixels: PixelMap | None
    words: WordMaps | None
    boxes: dict[object, Box] = field(default_factory=dict)  # uuid -> a prompt's area

    def calc_cond_batch(self, executor, model, conds, x, timestep, model_options):
        """CALC_COND_BATCH: the only place that knows where a prompt's area lies."""
        if self.pixels is not None:
            self.boxes |= boxes_of(conds, x)
        return executor(model, conds, x, timestep, model_options)

    def apply_model(
        self,
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options={},  # noqa: B006 (the host's own signature)
        **kwargs,
    ):
        """APPLY_MODEL: one call of the network. Hooks that read attention need it uncompiled."""
        options = transformer_options
        with ExitStack() as stack:
            if self.words is not None:
                reading = start_reading(
                    self.words, options, x, c_crossattn, self.prompts, self.shape
                )
                if reading is not None:
                    stack.enter_context(uncompiled_run(executor.class_obj))
                    options = watch(stack, executor.class_obj, reading, options)
            if self.pixels is None:
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            return call_with_map(
                executor,
                self.pixels,
                self.boxes,
                x,
                t,
                c_concat,
                c_crossattn,
                control,
                options,
                kwargs,
            )

    def attached(self, model_options: dict) -> dict:
        """A copy of model_options with these wrappers, innermost."""
        inner = dict(model_options.get("transformer_options", {}))
        wrappers = dict(inner.get("wrappers", {}))
        for kind, wrapper in (
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            wrappers[kind] = {**wrappers.get(kind, {}), KEY: [wrapper]}
        inner["wrappers"] = wrappers
        return {**model_options, "transformer_options": inner}


def positive_columns(guider) -> dict[object, Columns]:
    """uuid -> Columns of every positive prompt of a run."""
    found = {}
    for cond in guider.conds.get("positive") or []:
        context = cond.get("model_conds", {}).get("c_crossattn")
        if context is not None:
            count = context.cond.shape[1]
            given = cond.get("cross_attn", context.cond).shape[1]
            found[cond["uuid"]] = Columns(count, max(0, count - given))
    return found


def refuse(guider) -> None:
    """Raises ValueError on what a map of times cannot be combined with."""
    if "multigpu_clones" in guider.model_options:
        raise ValueError(
            "Async Timestep found a model that is spread over several GPUs, which a map of times "
            "cannot follow; take the mask or region off, or use one GPU."
        )
    family_of(guider.inner_model.diffusion_model)


def patch_of(network, shape: Sequence[int]) -> tuple[int, ...]:
    """Latent cells of a token along each axis. Raises ValueError where the latent (B, C, ...) has
    another number of axes than the network's."""
    patch = family_of(network).patch(uncompiled(network))
    if len(patch) != len(shape) - 2:
        raise ValueError(
            f"Async Timestep found a latent of {len(shape) - 2} axes, this model's have "
            f"{len(patch)}; connect the empty latent that belongs to the model."
        )
    return patch
