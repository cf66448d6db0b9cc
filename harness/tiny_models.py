"""Random-weight models, as small as ComfyUI's own loaders accept, and conditioning to go with
them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SD15 = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [0, 0],
    "transformer_depth_middle": -2, "num_heads": 8, "use_spatial_transformer": True,
    "context_dim": 768,
}  # fmt: skip


def scrambled(module: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """A state dict in which nothing is zero: zero-initialised outputs would hide the timestep."""
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in module.state_dict().items():
        fan = tensor[0].numel() if tensor.ndim > 1 else 1
        noise = torch.randn(tensor.shape, generator=rng)
        gain = 1.0 if tensor.ndim == 1 and "norm" in name and name.endswith("weight") else 0.0
        state[name] = (gain + noise * (0.7 / fan**0.5 if tensor.ndim > 1 else 0.05)).half()
    return state


SD35_DIFFUSERS = dict(
    num_layers=2,
    attention_head_dim=64,
    num_attention_heads=2,
    joint_attention_dim=64,
    caption_projection_dim=128,
    pooled_projection_dim=2048,
    pos_embed_max_size=64,
    dual_attention_layers=(0,),
    qk_norm="rms_norm",
)
FLUX_DIFFUSERS = dict(
    patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=128,
    num_attention_heads=1, joint_attention_dim=64, pooled_projection_dim=768, guidance_embeds=True,
)  # fmt: skip


def write_models(folder: Path) -> dict[str, Path]:
    """sd35 and flux in diffusers layout, sd15 in its original layout."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    sd35, flux = SD3Transformer2DModel(**SD35_DIFFUSERS), FluxTransformer2DModel(**FLUX_DIFFUSERS)
    unet = UNetModel(
        **SD15, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    files = {}
    for name, module, seed in (("sd35", sd35, 1), ("flux", flux, 2), ("sd15", unet, 3)):
        files[name] = folder / f"tiny_{name}.safetensors"
        state = scrambled(module, seed)
        if name == "sd35":
            state["pos_embed.pos_embed"] = sd35.state_dict()["pos_embed.pos_embed"].half()
        save_file(state, files[name])
    return files


def write_checkpoint(folder: Path, unet: Path) -> Path:
    """A checkpoint of SD1.5's layout: the tiny net, a tiny autoencoder, and CLIP-L in its real
    size, 250 MB, since ComfyUI writes its widths itself."""
    import comfy.clip_model
    import comfy.ops
    import comfy.sd1_clip
    from comfy.taesd.taesd import TAESD

    config = Path(comfy.sd1_clip.__file__).with_name("sd1_clip_config.json")
    clip = comfy.clip_model.CLIPTextModel(
        json.loads(config.read_text()), torch.float32, "cpu", comfy.ops.disable_weight_init
    )
    vae = TAESD(latent_channels=4)
    parts = {
        "model.diffusion_model.": load_file(unet),
        "cond_stage_model.transformer.": scrambled(clip, 4),
        "first_stage_model.": {**scrambled(vae, 5), "vae_scale": torch.ones(())},
    }
    state = {f"{place}{key}": v for place, part in parts.items() for key, v in part.items()}
    path = folder / "tiny_checkpoint.safetensors"
    save_file(state, path)
    return path


def load_families(files: dict[str, Path]) -> dict[str, tuple]:
    """family -> (model, positive, negative, empty latent); `vpred` is the SD1.5 net with v
    prediction.

    The SD1.5 net cannot be made small, so it is held in float32 (no cast at each call) on 4 x 4
    latents.
    """
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    models = {name: comfy.sd.load_diffusion_model(str(files[name])) for name in ("sd35", "sd15")}
    models["flux"] = load_flux(files["flux"])
    models["sd15"] = comfy.sd.load_diffusion_model(str(files["sd15"]), {"dtype": torch.float32})
    models["vpred"] = ModelSamplingDiscrete().patch(models["sd15"], "v_prediction", False)[0]
    shapes = {
        "sd35": (64, 2048, 16),
        "flux": (64, 768, 16),
        "sd15": (768, None, 4),
        "vpred": (768, None, 4),
    }
    out = {}
    for name, model in models.items():
        width, pooled, channels = shapes[name]
        conds = [conditioning(seed, width, pooled) for seed in (11, 12)]
        size = 4 if channels == 4 else 8
        out[name] = (model, *conds, torch.zeros(1, channels, size, size))
    return out


def load_flux(path: Path):
    """By the host's loader, or by its own parts where that of an older host wants width 3072."""
    import comfy.model_detection
    import comfy.sd

    from .tiny_families import FAMILIES, FLUX, built

    try:
        return comfy.sd.load_diffusion_model(str(path))
    except (RuntimeError, ValueError):
        state = comfy.model_detection.convert_diffusers_mmdit(load_file(path), "")
        unet = {**FAMILIES["flux"].unet, **FLUX, "depth": 1, "depth_single_blocks": 1}
        return built(replace(FAMILIES["flux"], unet=unet), state)


def conditioning(seed: int, width: int, pooled: int | None, tokens: int = 7) -> list:
    rng = torch.Generator().manual_seed(seed)
    extra = {} if pooled is None else {"pooled_output": torch.randn(1, pooled, generator=rng)}
    return [[torch.randn(1, tokens, width, generator=rng), extra]]
