"""One sampling run with a region: the wrappers that put its maps into the model's calls."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import torch

from comfy.patcher_extension import WrappersMP

from .attention import Columns, start_reading, watch
from .families import family_of, uncompiled
from .masking import Region, RegionRun
from .scope import PixelMap, boxes_of, call_with_map, uncompiled_run

KEY = "async_timestep_pixels"


class PixelRun:
    """Holds the map of the evaluation under way, and reads the words' attention."""

    def __init__(self, region: Region, guider, shape, device, keep=None):
        options = guider.model_options
        self.network = guider.inner_model.diffusion_model
        refuse(guider, options)
        patch = family_of(self.network).patch(uncompiled(self.network))
        if len(patch) != len(shape) - 2:
            raise ValueError(
                f"Async Timestep found a latent of {len(shape) - 2} axes, this model's have "
                f"{len(patch)}; connect the empty latent that belongs to the model."
            )
        self.shape = shape
        self.region = RegionRun(region, shape, patch, device, keep)
        self.map: PixelMap | None = None
        self.reading = False
        self.boxes: dict = {}
        self.columns = positive_columns(guider)

    @contextmanager
    def evaluation(self, pixels: PixelMap | None):
        """The calls inside get this map; where there are words, their attention is read."""
        self.map, self.reading = pixels, self.region.words is not None
        self.region.before()
        try:
            yield
        finally:
            self.map, self.reading = None, False

    def calc_cond_batch(self, executor, model, conds, x, timestep, model_options):
        """CALC_COND_BATCH: the only place that knows where a prompt's area lies."""
        if self.map is not None:
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
            if self.reading:
                reading = start_reading(
                    self.region.words, options, x, c_crossattn, self.columns, self.shape
                )
                if reading is not None:
                    stack.enter_context(uncompiled_run(executor.class_obj))
                    options = watch(stack, executor.class_obj, reading, options)
            if self.map is None:
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
            return call_with_map(
                executor, self.map, self.boxes, x, t, c_concat, c_crossattn, control, options,
                kwargs,
            )  # fmt: skip

    def attached(self, model_options: dict) -> dict:
        """A copy of model_options with this run's wrappers, innermost."""
        inner = dict(model_options.get("transformer_options", {}))
        wrappers = dict(inner.get("wrappers", {}))
        for kind, wrapper in (
            (WrappersMP.CALC_COND_BATCH, self.calc_cond_batch),
            (WrappersMP.APPLY_MODEL, self.apply_model),
        ):
            wrappers[kind] = {**wrappers.get(kind, {}), KEY: [wrapper]}
        inner["wrappers"] = wrappers
        return {**model_options, "transformer_options": inner}


def positive_columns(guider) -> dict:
    """uuid -> Columns of every positive prompt of a run."""
    found = {}
    for cond in guider.conds.get("positive") or []:
        context = cond.get("model_conds", {}).get("c_crossattn")
        if context is not None:
            count = context.cond.shape[1]
            own = cond.get("cross_attn", context.cond).shape[1]
            found[cond["uuid"]] = Columns(count, max(0, count - own))
    return found


def refuse(guider, options: dict) -> None:
    """What a map of times cannot be combined with. Raises ValueError."""
    if "multigpu_clones" in options:
        raise ValueError(
            "Async Timestep found a model that is spread over several GPUs, which a map of times "
            "cannot follow; take the mask or region off, or use one GPU."
        )
    family_of(guider.inner_model.diffusion_model)


def times_of(sampling, sigma: torch.Tensor) -> torch.Tensor:
    """The network's times of a map of noise levels, asked for each distinct level once."""
    values, where = sigma.unique(return_inverse=True)
    return sampling.timestep(values).float()[where].view(sigma.shape)
