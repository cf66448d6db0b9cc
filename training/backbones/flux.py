"""Flux.1-dev as a backbone, from its diffusers layout."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ...tpm.families import FLUX1_DEV
from .diffusers_common import DiffusersBackbone


def exponential_grid(steps: int, mu: float) -> Tensor:
    """The default grid of diffusers' Flux pipeline, (steps + 1,) float32 from 1 to 0.

    t' = e^mu / (e^mu + 1/t - 1) on t = 1, 1 - 1/K, .., 1/K, in float32 as there. ComfyUI's `simple`
    scheduler gives the same with ModelSamplingFlux at the same size.
    """
    t = np.linspace(1.0, 1 / steps, steps).astype(np.float32)
    shifted = math.exp(mu) / (math.exp(mu) + (1 / t - 1))
    return torch.cat([torch.from_numpy(shifted).float(), torch.zeros(1)])


def mu_of(tokens: int, base: int, most: int, base_shift: float, max_shift: float) -> float:
    """Shift exponent, linear in the number of image tokens: 0.63 at 512 px, 1.15 at 1024 px."""
    slope = (max_shift - base_shift) / (most - base)
    return tokens * slope + (base_shift - slope * base)


def pack(x: Tensor) -> Tensor:
    """Latents (B, C, h, w) as image tokens (B, h w / 4, 4 C): one of 2 x 2 cells, channel first."""
    batch, channels, height, width = x.shape
    cells = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: (B, h w / 4, 4 C) -> (B, C, h, w)."""
    batch, _, packed = tokens.shape
    cells = tokens.reshape(batch, height // 2, width // 2, packed // 4, 2, 2)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, packed // 4, height, width)


class Flux(DiffusersBackbone):
    """`Flux(config, device, offload_text=False)`; the interface is that of `Backbone`.

    What "guidance 5" means for a model without a negative prompt is an interpretation of the paper.
    guidance_mode "embedded": one pass, the value is fed to the guidance embedding. "cfg": true CFG
    with that scale, two passes as one batch, the embedding at 1.0 (what the pipeline gives for
    guidance_scale=1, true_cfg_scale=guidance): guiding a model that is guided already would count
    twice. T5 runs in bf16 where the rest is fp16, which clips its activations. Raises ValueError of
    one sentence for a setting or a folder that cannot be used.
    """

    family, license, hub_id = FLUX1_DEV.name, FLUX1_DEV.license, FLUX1_DEV.hub_id
    pipeline_class = "FluxPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    tokens_like_comfyui, tokens_like_diffusers = 256, 512

    def __init__(self, config, device: torch.device, offload_text: bool = False):
        self.exact_time: Tensor | None = None
        super().__init__(config, device, offload_text)

    def text_dtypes(self) -> dict[str, torch.dtype]:
        return {"text_encoder_2": torch.bfloat16} if self.config.precision == "fp16" else {}

    @property
    def cfg(self) -> bool:
        return self.config.guidance_mode == "cfg" and self.guidance != 1.0

    def check_model(self) -> None:
        super().check_model()
        self.check_scheduler(use_dynamic_shifting=True, time_shift_type="exponential")
        found = self.transformer.config
        if found.in_channels != 4 * self.latent_channels or not found.guidance_embeds:
            raise ValueError(
                f"The transformer of {self.source} has in_channels {found.in_channels} and "
                f"guidance_embeds {found.guidance_embeds}, expected {4 * self.latent_channels} and "
                f"True; set backbone.path to a {self.hub_id}."
            )
        # here, before a compiler looks at the network: it would not see a hook that came later
        self.transformer.time_text_embed.register_forward_pre_hook(self.tell_exact_time)

    def tell_exact_time(self, module: nn.Module, inputs: tuple) -> tuple:
        """Puts the float32 time in the place of the one that diffusers rounds to the network's
        precision: in bf16 0.5 and 0.5002 would be the same time. ComfyUI keeps float32 as well."""
        return inputs if self.exact_time is None else (self.exact_time, *inputs[1:])

    def split_of_pooled(self) -> tuple[int, ...]:
        return (self.pooled_dim,)

    def sigmas(self, steps: int) -> Tensor:
        known = self.pipe.scheduler.config
        mu = mu_of(
            self.latent_size[0] * self.latent_size[1] // 4,
            known.get("base_image_seq_len", 256),
            known.get("max_image_seq_len", 4096),
            known.get("base_shift", 0.5),
            known.get("max_shift", 1.15),
        )
        return exponential_grid(steps, mu)

    def encode_parts(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        tokens, pooled, _ = self.pipe.encode_prompt(
            prompts, prompts, device=self.device, max_sequence_length=length
        )
        return tokens, pooled

    def forward(self, x: Tensor, t_star: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = (torch.arange(n // 2, device=x.device) for n in (height, width))
        places = torch.cartesian_prod(rows, columns).float()
        time = 1000 * t_star / 1000  # the pipeline's detour, for the same last bit
        guidance = 1.0 if self.config.guidance_mode == "cfg" else self.guidance
        self.exact_time = time * 1000
        try:
            v = self.transformer(
                pack(x),
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=time,
                guidance=torch.full((len(x),), guidance, device=x.device),
                img_ids=torch.nn.functional.pad(places, (1, 0)),
                txt_ids=torch.zeros(tokens.shape[1], 3, device=x.device),
                return_dict=False,
            )[0]
        finally:
            self.exact_time = None
        return unpack(v, height, width)
