"""Which preset family a loaded model belongs to."""

from __future__ import annotations

import comfy.model_base
from comfy.model_patcher import ModelPatcher

FAMILY_KEY = "async_timestep_family"  # attachment of a model whose family cannot be read off it


def model_family(model: ModelPatcher) -> str:
    """`flux1_dev`, `sd35_medium`, or ComfyUI's own name for the model in lower case (untuned).

    Flux.1-dev is the Flux network that embeds guidance (schnell does not); SD3.5-medium is the SD3
    network with a second self-attention in its image blocks (SD3 and SD3.5-large have none).
    """
    attached = model.get_attachment(FAMILY_KEY)
    if attached is not None:
        return attached
    base, network = model.model, model.model.diffusion_model
    if type(base) is comfy.model_base.Flux and network.params.guidance_embed:
        return "flux1_dev"
    if type(base) is comfy.model_base.SD3 and network.joint_blocks[0].x_block.x_block_self_attn:
        return "sd35_medium"
    return type(base.model_config).__name__.lower()
