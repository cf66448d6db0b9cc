"""Other packs' nodes from a checkout, and the models that the comparisons run on.

A checkout is imported as ComfyUI would import it and is never changed. Nothing of it is kept here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from async_timestep.bench.parts.random_models import cut_sd35, prompt, random_tpm
from async_timestep.harness.host import ROOT
from async_timestep.harness.in_process import pack

PROMPT = "two red circles above a blue star on a dark rough background"


@dataclass
class Setup:
    """A model and what to sample with it. channels, pooled: of a TPM that fits."""

    title: str
    model: object  # ModelPatcher
    positive: list
    negative: list
    latent: torch.Tensor
    cfg: float
    steps: int = 8
    tpm: object = None  # a policy


def import_checkout(folder: Path, name: str) -> ModuleType:
    """A pack's own package. Raises SystemExit where the folder is none."""
    start = Path(folder).resolve() / "__init__.py"
    if not start.exists():
        raise SystemExit(f"{folder} has no __init__.py; give the folder of a checkout of the pack.")
    spec = importlib.util.spec_from_file_location(
        name, start, submodule_search_locations=[str(start.parent)]
    )
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def commit(folder: Path) -> str:
    """The checkout's commit, read from its own files; empty where there are none."""
    git = Path(folder) / ".git"
    with contextlib.suppress(OSError):
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head[:7]
        with contextlib.suppress(OSError):
            return (git / head[5:]).read_text().strip()[:7]
        for line in (git / "packed-refs").read_text().splitlines():
            if line.endswith(head[5:]):
                return line[:7]
    return ""


def embedded() -> Setup:
    """The model that comes with the pack, with its own TPM."""
    demo = pack("nodes.demo")
    clip = demo.load_demo_clip()
    encode = lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))  # noqa: E731
    path = ROOT / "training" / "tiny" / "tpm" / "tiny.safetensors"
    policy = pack("tpm.learned").TPMPolicy(*pack("tpm.checkpoint").load_tpm(path), name=path.name)
    return Setup(
        "Embedded model, SD3.5 type, 3.8 M parameters, cfg 3",
        demo.load_demo_model(),
        encode(PROMPT),
        encode(""),
        torch.zeros(1, 16, 16, 16),
        3.0,
        tpm=policy,
    )


def wide() -> Setup:
    """SD3.5-medium's width: its network dominates the time of a step."""
    import comfy.samplers

    model, text = cut_sd35(2), prompt(4096, 32)
    sampling = model.get_model_object("model_sampling")
    grid = comfy.samplers.calculate_sigmas(sampling, "simple", 8)
    return Setup(
        "DiT of SD3.5-medium's width, 2 blocks, random weights, fp32, 64 + 32 tokens, cfg 1",
        model,
        text,
        text,
        torch.zeros(1, 16, 16, 16),
        1.0,
        tpm=random_tpm(grid),
    )


def flux(folder: Path) -> Setup:
    """A Flux of two blocks of each kind; `folder` keeps its file."""
    from async_timestep.harness.tiny_families import load_family

    return Setup("Tiny Flux, random weights", *load_family("flux", folder), 1.0)


def unet() -> Setup:
    """SD's UNet plan, eps prediction, on the noise table that SD1.5 and SDXL share."""
    from async_timestep.bench.parts import official_side as side

    torch.manual_seed(0)
    network = side.sd21_unet((64, 64, 128, 128), 64, 768, 1)
    rng = torch.Generator().manual_seed(2)
    conds = [[[torch.randn(1, 77, 768, generator=rng), {}]] for _ in range(2)]
    return Setup(
        "UNet, SD's plan, eps prediction, random weights, fp32, cfg 3",
        side.as_comfy(network),
        *conds,
        torch.zeros(1, 4, 16, 16),
        3.0,
    )


def sigmas_of(setup: Setup, steps: int, scheduler: str = "simple") -> torch.Tensor:
    import comfy.samplers

    sampling = setup.model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)


def sample(setup: Setup, model=None, sampler=None, sigmas=None, callback=None, **more):
    """Latents of one run by ComfyUI's own entry for a SAMPLER; what the peers print is dropped."""
    import comfy.sample
    import comfy.samplers

    sampler = sampler or comfy.samplers.sampler_object("euler")
    sigmas = sigmas_of(setup, setup.steps) if sigmas is None else sigmas
    latent = more.pop("latent", setup.latent)
    positive = more.pop("positive", setup.positive)
    noise = comfy.sample.prepare_noise(latent, 5)
    with contextlib.redirect_stdout(io.StringIO()):
        return comfy.sample.sample_custom(
            (model or setup.model).clone(), noise, more.pop("cfg", setup.cfg), sampler, sigmas,
            positive, setup.negative, latent, callback=callback, disable_pbar=True, seed=5, **more,
        )  # fmt: skip


def central(setup: Setup) -> torch.Tensor:
    """A MASK of the latent's height and width: white in the middle quarter."""
    mask = torch.zeros(1, *setup.latent.shape[-2:])
    edge = mask.shape[-1] // 4
    mask[..., edge:-edge, edge:-edge] = 1
    return mask


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over largest value of b."""
    return float((a - b).abs().max() / b.abs().max())
