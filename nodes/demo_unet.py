"""The second embedded model for the Demo Model Loader: a UNet with cross-attention.

It is ComfyUI's own UNetModel and BaseModel with the discrete schedule of Stable Diffusion: one set
of weights predicts eps, the other v on that schedule rescaled to a zero terminal SNR. The loader of
ComfyUI writes the widths of such models itself (320 channels and up), so the config stands here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

import comfy.latent_formats
import comfy.model_management
import comfy.ops
import comfy.supported_models_base
import comfy.utils
from comfy.model_base import ModelType
from comfy.model_patcher import ModelPatcher

UNET = {
    "image_size": 32,
    "in_channels": 16,
    "out_channels": 16,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": 64,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}


class OneGroup(comfy.ops.disable_weight_init):
    """Layers whose GroupNorm has one group. ComfyUI's network asks for 32; at 16 x 16 cells that
    would be the mean and the spread of 512 numbers, so uncertain that it costs a twentieth of the
    noise."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def __init__(self, num_groups: int, num_channels: int, **settings):
            super().__init__(1, num_channels, **settings)


class TinyUNet(comfy.supported_models_base.BASE):
    """SD1.5's type, but for the widths, the norms, and the latents, those of the demo VAE."""

    unet_config = UNET
    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = comfy.latent_formats.SD3
    memory_usage_factor = 1.0
    custom_operations = OneGroup

    def inpaint_model(self) -> bool:
        return False  # ComfyUI takes more than four channels for a picture and its mask


class TinyUNetV(TinyUNet):
    """The same as ComfyUI takes a checkpoint that says v_pred and ztsnr."""

    sampling_settings = {"zsnr": True}

    def model_type(self, state_dict, prefix: str = "") -> ModelType:
        return ModelType.V_PREDICTION


def load_unet(path: Path, config: type[TinyUNet] = TinyUNet) -> ModelPatcher:
    """The model of a file in diffusers layout, in float32."""
    config = config(UNET)
    config.set_inference_dtype(torch.float32, None)
    state, names = load_file(path), comfy.utils.unet_to_diffusers(UNET)
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict({names[key]: value for key, value in state.items()})
    model.train(False)
    return ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
