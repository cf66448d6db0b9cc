"""Which weights a MODEL has, by a few of them: a file says on which it was made."""

from __future__ import annotations

import hashlib
from typing import Protocol

import torch

from comfy.model_patcher import ModelPatcher

TENSORS, VALUES = 8, 256


class Made(Protocol):
    """What the metadata of a TPM file and of a schedule file both say."""

    model_family: str
    base_model: str
    weights_sha256: str


def weights_sha256(model: ModelPatcher) -> str:
    """Of 256 values each of 8 matrices of the network, as they are in its file: without LoRAs, and
    in bfloat16, so that float32, float16 and bfloat16 copies of one model have one hash. "" where
    they cannot be read: a pack's own quantized weights, or weights that are not there yet."""
    parameters = dict(model.model.diffusion_model.named_parameters())
    names = [n for n, p in parameters.items() if p.ndim > 1 and p.is_floating_point()]
    names = sorted(names)[:: max(len(names) // TENSORS, 1)][:TENSORS]
    digest = hashlib.sha256()
    try:
        for name in names:
            plain = name.replace("_orig_mod.", "")  # of a compiled network
            kept = model.backup.get(f"diffusion_model.{plain}")  # a LoRA is in its place
            weight = parameters[name] if kept is None else kept.weight
            values = weight.detach().reshape(-1)[:VALUES].float().bfloat16()
            digest.update(plain.encode())
            digest.update(values.view(torch.int16).cpu().numpy().tobytes())
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return ""  # tensors of a class of their own
    return digest.hexdigest() if names else ""


def weights_warning(what: str, meta: Made, family: str, model: ModelPatcher) -> str | None:
    """One sentence where a model is of the file's family but has other weights. what: the file, in
    words. None too where one of both has no hash."""
    if meta.model_family != family or not meta.weights_sha256:
        return None
    if weights_sha256(model) in ("", meta.weights_sha256):
        return None
    return (
        f"{what} was made on {meta.base_model} and runs here on other weights of {family}, or on "
        "the same in a coarser precision, where nobody has measured it; load that model, or "
        "compare its images with deviation_scale 0."
    )
