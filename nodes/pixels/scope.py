"""A map of times, and for AsynDM of noise levels, inside one call of the model.

Everything here lives for the length of that call: a replaced `process_timestep`, replaced input
scaling and denoised of the model's sampling, and forward hooks. It is undone whatever happens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch

from comfy.samplers import add_area_dims

from ...maps.time_rows import Rows, chunks, distinct
from .families import family_of, uncompiled
from .hooks import swapped
from .video import token_times

Box = tuple[slice, ...]


@dataclass(frozen=True)
class PixelMap:
    """One evaluation's map for B images. times: (B, ...) that the network is told, base: (B,) the
    sampler's, rows: both as a table. sigma: (B, 1, ...) noise levels of the pixels for input
    scaling and denoised; None keeps the sampler's one level (regional deviation)."""

    times: torch.Tensor
    base: torch.Tensor
    rows: Rows
    sigma: torch.Tensor | None = None


def pixel_map(
    network, times: torch.Tensor, base: torch.Tensor, sigma: torch.Tensor | None = None
) -> PixelMap:
    """times: (B, ...) in the network's own unit, constant on every token; base: (B,), the
    sampler's."""
    return PixelMap(times, base, distinct(times, base, family_of(network).levels), sigma)


def boxes_of(conds: Sequence[Sequence[dict] | None], x: torch.Tensor) -> dict:
    """uuid -> part of the latent, of the prompts that have an area; as ComfyUI clamps it."""
    boxes, dims = {}, x.shape[2:]
    for cond in (c for group in conds if group for c in group if "area" in c):
        area = add_area_dims(list(cond["area"]), len(dims))
        half = len(area) // 2
        sizes, starts = area[:half][: len(dims)], area[half:][: len(dims)]
        ends = (min(n, s + a) for n, s, a in zip(dims, starts, sizes, strict=True))
        boxes[cond["uuid"]] = tuple(slice(s, e) for s, e in zip(starts, ends, strict=True))
    return boxes


def call_with_map(
    executor, pixels: PixelMap, boxes: dict, x, t, c_concat, c_crossattn, control, options, kwargs
):
    """The body of an APPLY_MODEL wrapper: `executor` with the map inside.

    Raises ValueError where the batch is none of whole maps, or a network cannot take them.
    """
    base = executor.class_obj
    if options.get("context_window") is not None:
        pixels = windowed(pixels, options["context_window"], base.diffusion_model)
    pixels = fitted(pixels, boxes, options, x)
    with ExitStack() as stack:
        tell(stack, base, pixels, x)
        if pixels.sigma is not None and not pixels.rows.uniform:
            levels(stack, base.model_sampling, pixels.sigma)
        elif pixels.sigma is not None:
            t = pixels.sigma.flatten(1)[:, 0].to(t)
        if not pixels.rows.uniform:
            stack.enter_context(uncompiled_run(base))
        return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def windowed(pixels: PixelMap, window, network) -> PixelMap:
    """The part of a context window: the host cuts the frames, or the batch, into several calls."""
    times = window.get_tensor(pixels.times.unsqueeze(1), dim=window.dim).squeeze(1)
    base = window.get_tensor(pixels.base, dim=0) if window.dim == 0 else pixels.base
    sigma = pixels.sigma
    if sigma is not None:
        sigma = window.get_tensor(sigma, dim=window.dim)
    return pixel_map(network, times, base, sigma)


def fitted(pixels: PixelMap, boxes: dict, options: dict, x: torch.Tensor) -> PixelMap:
    """The map over the chunks that ComfyUI put into one batch, each with its area."""
    uuids = options.get("uuids", [])
    batch = len(pixels.rows.base)
    count, rest = divmod(len(x), batch)
    parts = [boxes.get(uuid) for uuid in uuids] if len(uuids) == count else [None] * count
    sizes = {part_size(pixels.rows, box) for box in parts}
    if rest or sizes != {tuple(x.shape[2:])}:
        raise ValueError(
            f"Async Timestep has a map of times for {batch} images of {shape_text(pixels.rows)}, "
            f"but the network was called with {len(x)} of {'x'.join(map(str, x.shape[2:]))}; take "
            "the mask or region off, or the node out that splits images."
        )
    sigma = pixels.sigma
    if sigma is not None:
        cut = [sigma if box is None else sigma[(slice(None), slice(None), *box)] for box in parts]
        sigma = cut[0] if len(cut) == 1 else torch.cat(cut)
    return replace(pixels, rows=chunks(pixels.rows, parts), sigma=sigma)


def part_size(rows: Rows, box: Box | None) -> tuple[int, ...]:
    if box is None:
        return tuple(rows.index.shape[1:])
    return tuple(part.stop - part.start for part in box)


def shape_text(rows: Rows) -> str:
    return "x".join(map(str, rows.index.shape[1:]))


def tell(stack: ExitStack, base, pixels: PixelMap, x: torch.Tensor) -> None:
    """The network's time: `process_timestep` on the instance, and the family's hooks."""
    rows, network = pixels.rows, uncompiled(base.diffusion_model)
    family = family_of(network)
    original = base.process_timestep
    size = x.shape[2:]

    def process_timestep(timestep, **extra):
        told = replace(rows, base=rows.base.to(timestep), time=rows.time.to(timestep), kept={})
        if family.install is not None or rows.uniform:
            return original(told.base, **extra)
        refuse_references(extra)
        return token_times(told, size, family.patch(network), lambda ts: original(ts, **extra))

    stack.enter_context(swapped(base, "process_timestep", process_timestep))
    if family.install is not None and not rows.uniform:
        for hook in family.install(network, rows, size):
            stack.callback(hook.remove)


def refuse_references(extra: dict) -> None:
    """Wan puts reference tokens into the sequence of pixels, where a map has no times for them."""
    for name in ("reference_latent", "context_latents", "keyframe_idxs"):
        if extra.get(name) is not None:
            raise ValueError(
                f"Async Timestep found reference frames ({name}) in the conditioning, and cannot "
                "tell this video model's pixels their own times beside them; take the mask or "
                "region off, or the references out."
            )


def levels(stack: ExitStack, sampling, sigma: torch.Tensor) -> None:
    """Input scaling and denoised with one noise level per pixel, each as a sample of its own."""
    for name in ("calculate_input", "calculate_denoised"):
        stack.enter_context(swapped(sampling, name, pixelwise(getattr(sampling, name), sigma)))


def pixelwise(original: Callable[..., torch.Tensor], sigma: torch.Tensor):
    """`original(sigma (n,), tensors (n, C))` over the pixels of (B, C, ...). The sampling's own
    functions know one level per sample, so the pixels become samples."""

    def over_pixels(_, *tensors):
        flat = [t.movedim(1, -1).reshape(-1, t.shape[1]) for t in tensors]
        out = original(sigma.to(tensors[0].device).flatten(), *flat)
        shape = tensors[0].movedim(1, -1).shape
        return out.view(shape).movedim(-1, 1).contiguous()

    return over_pixels


@contextmanager
def uncompiled_run(base):
    """torch.compile ignores hooks that come after its first call: run the modules as they are.

    Raises ValueError where this torch cannot (before 2.6).
    """
    if "torch._dynamo" not in sys.modules:  # nothing here was ever compiled
        yield
        return
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is not None:
        with stance("force_eager"):
            yield
    elif any(hasattr(m, "_orig_mod") for m in base.diffusion_model.modules()):
        raise ValueError(
            f"Async Timestep found a compiled model and torch {torch.__version__}, which cannot "
            "run it uncompiled for a map of times; update torch to 2.6 or take the compile node "
            "out."
        )
    else:
        yield
