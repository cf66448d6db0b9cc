"""Stable Diffusion 3.5 medium as a backbone, from its diffusers layout."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from ...tpm.families import SD35_MEDIUM
from .diffusers_common import DiffusersBackbone


def shifted_grid(steps: int, shift: float, table: int = 1000) -> Tensor:
    """The default grid of diffusers' SD3 pipeline, (steps + 1,) float32 from 1 to 0.

    t' = shift t / (1 + (shift - 1) t) on evenly spaced t from 1 to the smallest time of the table,
    which is itself shifted already: diffusers shifts twice, and so does ComfyUI's `normal`
    scheduler. It is computed here, so that a later diffusers cannot move the grid of a TPM.
    """
    smallest = np.float32(1) / np.float32(table)
    smallest = np.float32(shift) * smallest / (np.float32(1) + np.float32(shift - 1) * smallest)
    t = np.linspace(float(table), float(smallest) * table, steps) / table
    return torch.cat([torch.from_numpy(shift * t / (1 + (shift - 1) * t)).float(), torch.zeros(1)])


class SD35(DiffusersBackbone):
    """`SD35(config, device, offload_text=False)`; the interface is that of `Backbone`.

    Raises ValueError of one sentence for a setting or a folder that cannot be used. Loading warns
    where pooled cannot be the vector that ComfyUI feeds: diffusers takes CLIP-L's after its text
    projection, ComfyUI the one before, and only the published identity makes them the same.
    """

    family, license, hub_id = SD35_MEDIUM.name, SD35_MEDIUM.license, SD35_MEDIUM.hub_id
    pipeline_class = "StableDiffusion3Pipeline"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    tokens_like_comfyui, tokens_like_diffusers = 77, 256

    def check_config(self) -> None:
        super().check_config()
        if self.config.guidance_mode != "cfg":
            raise ValueError(
                f"backbone.guidance_mode is {self.config.guidance_mode!r}, which only flux1_dev "
                "has; set it to cfg for sd35_medium."
            )

    def check_model(self) -> None:
        super().check_model()
        self.check_scheduler(use_dynamic_shifting=False)
        weight = self.pipe.text_encoder.text_projection.weight.detach().float()
        square = weight.shape[0] == weight.shape[1]
        error = float((weight - torch.eye(len(weight))).abs().max()) if square else float("inf")
        if error > 1e-3:
            logging.warning(
                "The CLIP-L text projection of %s is off the identity by %.3g, expected that of "
                "%s: the pooled vector that the TPM reads will differ from ComfyUI's.",
                self.source,
                error,
                self.hub_id,
            )

    def split_of_pooled(self) -> tuple[int, ...]:
        clips = (self.pipe.text_encoder, self.pipe.text_encoder_2)  # CLIP-L, CLIP-G
        return tuple(clip.config.projection_dim for clip in clips)

    def sigmas(self, steps: int) -> Tensor:
        scheduler = self.pipe.scheduler.config
        return shifted_grid(steps, scheduler.shift, scheduler.num_train_timesteps)

    def encode_parts(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            prompts,
            prompts,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        return tokens, pooled

    def forward(self, x: Tensor, t_star: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        return self.transformer(
            x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=1000 * t_star,  # stays float32 up to the sinusoids
            return_dict=False,
        )[0]
