"""The official AsynDM code (a checkout of hu-zijing/AsynDM), run unchanged on a tiny UNet.

Its modules are imported from the checkout. `asyn_sample.main` itself runs, with a random pipeline
in the place of Stable Diffusion and stand-ins for accelerate, ml_collections and CUDA; what passes
through its UNet and its DDIM step is written down. The schedules, nested in `main`, are compiled
from the file's own syntax tree.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401

from async_timestep.bench.parts.official_stubs import (
    Accelerator,
    Callable,
    Loose,
    OnCPU,
    Tokenizer,
)

SIDE, WIDTH = 64, 64
CHANNELS, HEAD = (64, 64, 128, 128), 64
STUBS = ("absl", "ml_collections", "accelerate", "accelerate.utils", "accelerate.logging")
OWN = ("model", "diffusion", "utils")


@dataclass
class Official:
    folder: Path
    sample: ModuleType  # asyn_sample
    ddim: ModuleType  # diffusion.asyn_ddim_with_logprob
    forward: object  # model.unet_2d_condition.unet_asyn_forward


def load(folder: Path) -> Official:
    """Imports the checkout. Call it before ComfyUI is imported: the names are common ones. Raises
    SystemExit where the folder is none."""
    if not (folder / "asyn_sample.py").exists():
        raise SystemExit(f"{folder} has no asyn_sample.py; give a checkout of hu-zijing/AsynDM.")
    stubs = {name: ModuleType(name) for name in STUBS}
    stubs["absl"].app, stubs["absl"].flags = None, SimpleNamespace(FLAGS=None)
    stubs["ml_collections"].ConfigDict = Loose
    stubs["ml_collections"].config_flags = SimpleNamespace(DEFINE_config_file=lambda *a: None)
    stubs["accelerate"].Accelerator = Accelerator
    stubs["accelerate.utils"].ProjectConfiguration = lambda **settings: None
    stubs["accelerate.logging"].get_logger = lambda name: None
    kept = {name: sys.modules.get(name) for name in STUBS}
    sys.modules.update(stubs)
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        sample = importlib.import_module("asyn_sample")
        sample.official_config = by_path(folder / "config" / "config.py")
    finally:
        sys.path[:] = path
        for name, module in kept.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
    ddim = sys.modules["diffusion.asyn_ddim_with_logprob"]
    for name in [n for n in sys.modules if n.split(".")[0] in OWN]:
        del sys.modules[name]
    sample.torch, sample.tqdm = OnCPU(), lambda values, **settings: values
    return Official(folder, sample, ddim, sample.unet_asyn_forward)


def by_path(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scheduler() -> DDIMScheduler:
    """SD2.1-base's."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def schedules(official: Official, steps: int, curve: str):
    """func_prev_linear and func_prev_binary as `main` would define them. curve: bin, lin, exp."""
    tree = ast.parse((official.folder / "asyn_sample.py").read_text())
    names = ("func_prev_linear", "func_prev_binary")
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name in names]
    space = {
        "torch": torch,
        "np": np,
        "pipeline": SimpleNamespace(scheduler=scheduler()),
        "config": Loose(curve_type=curve, sample=Loose(num_steps=steps)),
    }
    exec(compile(ast.Module(found, []), "asyn_sample.py", "exec"), space)  # noqa: S102
    return [space[name] for name in names]


def tiny_unet(layers: int = 2, first: bool = True, gain: float = 3.0) -> UNet2DConditionModel:
    """SD2.1's plan with few channels; random, with cross-attention that has preferences.

    first: the attention at 64 x 64, nearly all of the time and of no matter for the masks.
    """
    torch.manual_seed(0)
    unet = sd21_unet(CHANNELS, HEAD, WIDTH, layers, first)
    for name, weight in unet.named_parameters():
        if ".attn2.to_q" in name or ".attn2.to_k" in name:
            weight.data *= gain
        elif name.endswith("time_emb_proj.weight"):
            weight.data *= 4  # the time shall matter
    return unet


def sd21_unet(channels, head: int, width: int, layers: int, first: bool = True):
    crosses = [first, True, True, False]
    heads = tuple(c // head for c in channels)
    return UNet2DConditionModel(
        sample_size=SIDE, block_out_channels=channels, layers_per_block=layers,
        down_block_types=["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in crosses],
        up_block_types=["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in reversed(crosses)],
        attention_head_dim=heads, cross_attention_dim=width, use_linear_projection=True,
    ).eval().requires_grad_(False)  # fmt: skip


def comfy_config(unet: UNet2DConditionModel) -> dict:
    """The same plan in ComfyUI's words."""
    channels, layers = unet.config.block_out_channels, unet.config.layers_per_block
    depths = [int("Cross" in block) for block in unet.config.down_block_types]
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True,
        "use_linear_in_transformer": True, "legacy": False, "use_temporal_attention": False,
        "model_channels": channels[0], "channel_mult": [c // channels[0] for c in channels],
        "num_res_blocks": [layers] * 4, "context_dim": unet.config.cross_attention_dim,
        "transformer_depth": [d for d in depths for _ in range(layers)],
        "transformer_depth_output": [d for d in depths for _ in range(layers + 1)],
        "transformer_depth_middle": 1, "adm_in_channels": None,
    }  # fmt: skip


def as_comfy(unet: UNet2DConditionModel, dtype: torch.dtype = torch.float32):
    """ComfyUI's ModelPatcher with the same weights."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils

    plan = comfy_config(unet)
    config = comfy.supported_models.SD20(plan)
    config.unet_config["num_head_channels"] = (
        unet.config.block_out_channels[0] // unet.config.attention_head_dim[0]
    )
    config.set_inference_dtype(dtype, None)
    base, names = config.get_model({}, ""), comfy.utils.unet_to_diffusers(plan)
    state = {names[key]: value.clone() for key, value in unet.state_dict().items()}
    base.diffusion_model.load_state_dict(state)  # strict
    base.diffusion_model.requires_grad_(False)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


@dataclass
class Recording:
    """What passed through one official run, one entry per step."""

    noise: torch.Tensor  # the initial latents
    t: list = field(default_factory=list)  # (B, 64, 64), rounded
    t_prev: list = field(default_factory=list)
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    x0: list = field(default_factory=list)
    fresh: list = field(default_factory=list)  # the step's noise
    maps: list = field(default_factory=list)  # (B, 256, items)
    masks: list = field(default_factory=list)  # thresholded, (B, 256, items)
    decoded: list = field(default_factory=list)  # the latents of its pictures: plain's, AsynDM's


def run(
    official: Official, unet, texts, steps, eta, item_idx, item_k, mask=0, noise=None, guidance=5.0
) -> Recording:
    """`asyn_sample.main` from first to last line, with its plain picture where there is a `noise`.
    texts: (negative, positive) (1, 77, C), the positive one of each image where they have own."""
    module, plain = official.sample, noise is not None
    if noise is None:
        noise = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(77))
    count = len(noise)
    config = module.official_config.get_config()
    config.mixed_precision, config.dev_id, config.allow_tf32 = "no", 0, False
    config.item_idx, config.item_k, config.static_mask = item_idx, item_k, mask
    config.generate_base, config.generate_base2 = int(plain), 0
    config.sample.guidance_scale = guidance
    config.sample.num_steps, config.sample.eta, config.sample.batch_size = steps, eta, count
    config.prompt = "words"
    record = Recording(noise)

    part = SimpleNamespace(requires_grad_=lambda flag: None, to=lambda *a, **k: None)
    tokenizer = Tokenizer()

    def text_encoder(ids):
        text = texts[int(ids[0, 0])]
        return [text if len(text) == len(ids) else text.repeat(len(ids), 1, 1)]

    encoder = Callable(text_encoder)
    pipeline = SimpleNamespace(
        vae=part,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        set_progress_bar_config=lambda **settings: None,
        vae_scale_factor=8,
        prepare_latents=lambda *a: noise.clone(),
        prepare_extra_step_kwargs=lambda gs, eta: {"eta": eta, "generator": gs},
    )

    def forward(*args, **kwargs):
        out, extra = official.forward(*args, **kwargs)
        record.maps.append(extra["cross_mask"].clone())
        record.masks.append(extra["cross_mask"])  # `main` thresholds this one in place
        return out, extra

    def step(self, model_output, t, t_prev, sample, **kwargs):
        out = official.ddim.asyn_ddim_step_with_logprob(
            self, model_output, t, t_prev, sample, **kwargs
        )
        values = (t[:, 0], t_prev[:, 0], sample, out[0], out[2])
        for kept, value in zip(
            (record.t, record.t_prev, record.before, record.after, record.x0), values, strict=True
        ):
            kept.append(value.clone())
        return out

    def draw(shape, **kwargs):
        record.fresh.append(ORIGINAL(shape, **kwargs))
        return record.fresh[-1]

    def decode(pipeline, latents, *settings):
        record.decoded.append(latents.clone())
        return images

    load_pipeline = SimpleNamespace(from_pretrained=lambda *a, **k: pipeline)
    images = torch.zeros(count, 3, 8, 8)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config.save_path = folder
        for owner, name, value in (
            (module, "FLAGS", Loose(config=config)),
            (module, "StableDiffusionPipeline", load_pipeline),
            (module, "unet_asyn_forward", forward),
            (module, "asyn_ddim_step_with_logprob", step),
            (module, "latents_decode", decode),
            (official.ddim, "randn_tensor", draw),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        module.main(None)
    return record


ORIGINAL = diffusers.utils.torch_utils.randn_tensor
