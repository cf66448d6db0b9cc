"""Random-weight tiny models of many diffusion families, each with conditioning and an empty latent.

A family's file has ComfyUI's own layout, so it is the state dict of ComfyUI's own network. Where
ComfyUI's model detection takes so small a file, its loader loads it; where detection writes the
widths itself (`hard_coded` says which), the family's model class is built with small ones.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .tiny_models import conditioning, scrambled


@dataclass(frozen=True)
class Family:
    """What makes one tiny model; `supported` names its class in `comfy.supported_models`."""

    supported: str
    network: str  # the class of its diffusion_model
    unet: dict  # as ComfyUI's detection would fill it in, with small numbers
    latent: tuple[int, ...]
    context: int
    pooled: int | None = None
    hard_coded: str = ""  # what keeps a small file from loading; empty where the loader is used
    metadata: dict[str, str] = field(default_factory=dict)
    more: dict[str, tuple[int, ...]] = field(default_factory=dict)  # other random conditions
    tokens: int = 7
    masked: bool = False  # the text encoder gives an attention mask


IMAGE, VIDEO = (1, 16, 8, 8), (1, 16, 3, 8, 8)
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}
MMDIT = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None,
    "adm_in_channels": 2048, "num_patches": 256, "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128},
    },
}  # fmt: skip
FLUX = {  # one head: the rotary axes fix its width
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "hidden_size": 128, "num_heads": 1,
    "context_in_dim": 64, "vec_in_dim": 768, "mlp_ratio": 4.0, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True,
    "txt_ids_dims": [],
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "cap_feat_dim": 64,
    "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2, "qk_norm": True, "ffn_dim_multiplier": 1.0,
}  # fmt: skip
# LTXV's files tell the loader their widths
LTXV = {"num_attention_heads": 2, "attention_head_dim": 64, "caption_channels": 64}

# fmt: off
FAMILIES = {
    "sd21": Family("SD20", "UNetModel", {
        **UNET, "model_channels": 320, "num_res_blocks": [1], "channel_mult": [1],
        "transformer_depth": [1], "transformer_depth_output": [1, 1],
        "transformer_depth_middle": -2, "context_dim": 1024, "adm_in_channels": None,
    }, (1, 4, 4, 4), 1024),
    "sdxl": Family("SDXL", "UNetModel", {
        **UNET, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
        "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
        "transformer_depth_middle": 1, "context_dim": 64, "num_classes": "sequential",
        "adm_in_channels": 2816,
    }, (1, 4, 8, 8), 64, 1280, "320 channels and lists of depths; the smallest has 121 MB"),
    "sd3": Family("SD3", "OpenAISignatureMMDITWrapper", MMDIT, IMAGE, 64, 2048),
    "sd35_dual": Family("SD3", "OpenAISignatureMMDITWrapper", {
        **MMDIT, "qk_norm": "rms", "x_block_self_attn_layers": [0],
    }, IMAGE, 64, 2048),
    "flux": Family("Flux", "Flux", {
        **FLUX, "image_model": "flux", "guidance_embed": True,
    }, IMAGE, 64, 768),
    "chroma": Family("Chroma", "Chroma", {
        **FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64,
        "out_dim": 128, "hidden_dim": 64, "n_layers": 2, "vec_in_dim": None,
    }, IMAGE, 64, 768, "widths 3072 and 5120 of the approximator"),
    "qwen_image": Family("QwenImage", "QwenImageTransformer2DModel", {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "num_attention_heads": 1,
        "joint_attention_dim": 64,
    }, (1, 16, 1, 8, 8), 64, None, "24 heads of 128"),
    "wan": Family("WAN21_T2V", "WanModel", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 256, "num_heads": 1,
        "num_layers": 2,
    }, VIDEO, 4096),
    "ltxv": Family("LTXV", "LTXVModel", {
        **LTXV, "image_model": "ltxv", "num_layers": 2, "cross_attention_dim": 128,
    }, (1, 128, 3, 4, 4), 64, metadata={"config": json.dumps({"transformer": LTXV})}, masked=True),
    "lumina2": Family("Lumina2", "NextDiT", {
        **LUMINA, "dim": 192, "n_kv_heads": 1, "axes_dims": [32, 32, 32],
        "axes_lens": [300, 512, 512],
    }, IMAGE, 64, None, "heads and axes only for widths 2304 and 3840"),
    "z_image": Family("ZImage", "NextDiT", {
        **LUMINA, "dim": 256, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "rope_theta": 256.0,
        "axes_lens": [1536, 512, 512], "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }, IMAGE, 64, None, "width 3840"),
    "hunyuan_video": Family("HunyuanVideo", "HunyuanVideo", {
        **{key: FLUX[key] for key in FLUX if key != "txt_ids_dims"},
        "image_model": "hunyuan_video", "patch_size": [1, 2, 2], "theta": 256,
        "guidance_embed": True, "byt5": False, "meanflow": False, "use_cond_type_embedding": False,
        "vision_in_dim": None, "meanflow_sum": False,
    }, VIDEO, 64, 768),
    "auraflow": Family("AuraFlow", "MMDiT", {
        "max_seq": 64, "cond_seq_dim": 64, "n_double_layers": 1, "n_layers": 3, "dim": 128,
        "n_heads": 2, "global_conddim": 128,
    }, (1, 4, 8, 8), 64, None, "widths 3072 and 2048"),
    "pixart": Family("PixArtSigma", "PixArtMS", {
        "image_model": "pixart_sigma", "num_heads": 2, "patch_size": 2, "hidden_size": 128,
        "in_channels": 4, "depth": 2, "model_max_length": 7, "micro_condition": False,
        "caption_channels": 64,
    }, (1, 4, 36, 36), 64, None, "width 1152; latents under 34 x 34 divide by zero"),
    "cosmos_predict2": Family("CosmosT2IPredict2", "MiniTrainDIT", {
        "image_model": "cosmos_predict2", "max_img_h": 240, "max_img_w": 240, "max_frames": 128,
        "in_channels": 16, "out_channels": 16, "patch_spatial": 2, "patch_temporal": 1,
        "model_channels": 128, "num_blocks": 2, "num_heads": 2, "concat_padding_mask": True,
        "crossattn_emb_channels": 64, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
        "use_adaln_lora": True, "adaln_lora_dim": 32, "rope_enable_fps_modulation": False,
    }, VIDEO, 64, None, "10 blocks of 16 heads, 30 MB at least"),
    "hidream": Family("HiDream", "HiDreamImageTransformer2DModel", {
        "image_model": "hidream", "attention_head_dim": 128, "num_attention_heads": 1,
        "axes_dims_rope": [64, 32, 32], "caption_channels": [64, 64], "in_channels": 16,
        "out_channels": 16, "patch_size": 2, "llama_layers": [0, 1], "num_layers": 1,
        "num_single_layers": 1, "text_emb_dim": 64, "num_routed_experts": 2,
    }, IMAGE, 64, 64, "everything", more={"conditioning_llama3": (1, 2, 5, 64)}),
    "omnigen2": Family("Omnigen2", "OmniGen2Transformer2DModel", {
        "image_model": "omnigen2", "axes_dim_rope": [16, 24, 24], "axes_lens": [1024, 1664, 1664],
        "hidden_size": 128, "in_channels": 16, "num_attention_heads": 2, "num_kv_heads": 1,
        "num_layers": 2, "num_refiner_layers": 1, "text_feat_dim": 64, "timestep_scale": 1000.0,
    }, IMAGE, 64, None, "everything", masked=True),
    "ernie": Family("ErnieImage", "ErnieImageModel", {
        "image_model": "ernie", "hidden_size": 128, "num_attention_heads": 1, "num_layers": 2,
        "ffn_hidden_size": 256, "text_in_dim": 64,
    }, (1, 128, 8, 8), 64, None, "everything"),
    "flux2": Family("Flux2", "Flux", {
        **FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1,
        "vec_in_dim": None, "axes_dim": [32, 32, 32, 32], "theta": 2000, "mlp_ratio": 3.0,
        "qkv_bias": False, "ops_bias": False, "global_modulation": True, "mlp_silu_act": True,
        "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3],
        "guidance_embed": True,
    }, (1, 128, 8, 8), 64, 768, tokens=128),  # ComfyUI fills up to 512 with zeros: 7 would drown
}
# fmt: on


PARAMS = {
    "Flux": ("comfy.ldm.flux.model", "FluxParams"),
    "Chroma": ("comfy.ldm.chroma.model", "ChromaParams"),
    "HunyuanVideo": ("comfy.ldm.hunyuan_video.model", "HunyuanVideoParams"),
}


def new_model(
    family: Family, dtype: torch.dtype = torch.float32, device: torch.device | None = None
):
    """The family's BaseModel, its weights not yet set."""
    import comfy.supported_models

    module, params = PARAMS.get(family.network, (None, None))
    unet = dict(family.unet)
    if module:  # an older host's network knows fewer settings, and has these fixed
        known = fields(getattr(importlib.import_module(module), params))
        unet = {k: unet[k] for k in unet if k in {"image_model", *(f.name for f in known)}}
    config = getattr(comfy.supported_models, family.supported)(unet)
    config.set_inference_dtype(dtype, None)
    return config.get_model({}, "", device=device)


def random_weights(network: torch.nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """`scrambled`, with gains near one in every norm, and linear layers twice as strong: through
    `scrambled` alone, gates stay so near zero that some networks hardly hear the text.
    """
    state = scrambled(network, seed)
    for name, part in network.named_modules():
        key = f"{name}.weight"
        if "Norm" in type(part).__name__ and key in state and "norm" not in key:
            state[key] = state[key] + 1
        elif key in state and state[key].ndim == 2:
            state[key] = state[key] * 2
    return state


def load_family(name: str, folder: Path) -> tuple:
    """(ModelPatcher, positive, negative, empty latent); the file is written where it is missing."""

    family, path = FAMILIES[name], Path(folder) / f"tiny_{name}.safetensors"
    if not path.exists():
        network = new_model(family).diffusion_model
        seed = 100 + list(FAMILIES).index(name)
        save_file(random_weights(network, seed), path, metadata=family.metadata or None)
    patcher = None if family.hard_coded else loaded(path)
    if patcher is None:
        patcher = built(family, load_file(path))
    conds = [conditioning(s, family.context, family.pooled, family.tokens) for s in (11, 12)]
    for seed, [[tokens, extra]] in enumerate(conds):
        rng = torch.Generator().manual_seed(seed)
        extra |= {key: torch.randn(shape, generator=rng) for key, shape in family.more.items()}
        if family.masked:
            extra["attention_mask"] = torch.ones(tokens.shape[:2], dtype=torch.long)
    return (patcher, *conds, torch.zeros(family.latent))


def loaded(path: Path):
    """By the host's loader; None where that of an older host wants the real file's widths."""
    import comfy.sd

    try:
        return comfy.sd.load_diffusion_model(str(path), {"dtype": torch.float32})
    except (RuntimeError, ValueError):
        return None


def built(family: Family, state: dict[str, torch.Tensor]):
    """The family's model class around a state dict in ComfyUI's own layout."""
    import comfy.model_management
    import comfy.model_patcher

    model = new_model(family)
    model.load_model_weights(state, "")
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


BUILDERS: dict[str, Callable[[Path], tuple]] = {
    name: partial(load_family, name) for name in FAMILIES
}
