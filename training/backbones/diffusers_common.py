"""What SD3.5 and Flux share: loading a diffusers pipeline, prompts, noise, batches, pixels.

Only the pipeline's parts are used, never its sampling loop: the trainer integrates on its own grid
and tells the network times of its own. Latents are (B, 16, h, w) float32 between the steps, where
diffusers' pipelines round them to the network's precision after every step; in fp32 the trainer's
loop without deviation gives the pipeline's latents bit for bit.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from ..run.config import BackboneConfig
from ..run.offline import offline
from .sampling import Tokens, VelocityBackbone

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_pipeline(
    class_name: str, hub_id: str, config: BackboneConfig, dtypes: dict, needed: tuple[str, ...]
):
    """A diffusers pipeline on the CPU, from config.path (folder or hub id) or else from `hub_id`,
    in the hub's cache: the network is not asked.

    dtypes: part -> torch.dtype, with the key "default". needed: parts that a folder may lack in
    diffusers' eyes. Raises ValueError of one sentence when the folder or the hub does not give such
    a pipeline.
    """
    import diffusers

    source, folder = config.path or hub_id, Path(config.path or hub_id)
    where = f"backbone.path is {source!r}" + ("" if config.path else ", its default")
    wanted = f"expected a folder in diffusers layout that holds a {class_name}, or a hub id of one"
    if folder.is_dir():
        index = folder / "model_index.json"
        if not index.is_file():
            raise ValueError(f"{where}, a folder without model_index.json, {wanted}.")
        parts = None
        with contextlib.suppress(OSError, ValueError, RecursionError):
            parts = json.loads(index.read_text("utf-8"))
        if not isinstance(parts, dict):
            raise ValueError(f"{where}, a folder whose model_index.json holds no parts, {wanted}.")
        if (found := parts.get("_class_name")) != class_name:
            raise ValueError(f"{where}, a folder that holds a {found}, {wanted}.")
        if missing := [name for name in needed if not is_part(parts.get(name))]:
            raise ValueError(
                f"{where}, a folder without {', '.join(missing)}, expected all of "
                f"{', '.join(needed)} to read prompts; use a complete copy of {hub_id}."
            )
    try:
        with (
            offline(),
            warnings.catch_warnings(),
        ):  # new releases call it dtype, but still take the old name
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(diffusers, class_name).from_pretrained(
                source, torch_dtype=dtypes, local_files_only=True
            )
    except Exception as error:  # hub, network, json and diffusers each have their own
        lines = str(error).strip().splitlines()
        found = shortened(lines[0] if lines else type(error).__name__)
        raise ValueError(
            f"{where}, and could not be loaded ({found}), {wanted} in its cache; accept its "
            "licence on the hub, log in and fetch it with `python training/prepare.py --fetch`, or "
            "download it and set backbone.path to its folder."
        ) from error


def is_part(made: object) -> bool:
    """Whether an entry of model_index.json names a class: of a part that is left out none."""
    return isinstance(made, list) and any(made)


def shortened(text: str, most: int = 160) -> str:
    """The beginning of somebody else's message, to go into a sentence of ours."""
    text = text.strip().rstrip(".")
    return text if len(text) <= most else text[: most - 3] + "..."


class DiffusersBackbone(VelocityBackbone):
    """The interface of `Backbone` over a diffusers pipeline; a family adds its grid and its call.

    The transformer runs in config.precision, the autoencoder in float32 (in fp16 it overflows),
    the text encoders in config.precision unless the family says otherwise. All is frozen.
    offload_text: the text encoders stay on the CPU and visit the device for each `encode`.
    """

    family: str
    hub_id: str
    license: str
    pipeline_class: str
    text_encoders: tuple[str, ...]
    tokens_like_comfyui: int  # max_sequence_length of T5 with match_comfyui
    tokens_like_diffusers: int
    latent_channels = 16

    def __init__(self, config: BackboneConfig, device: torch.device, offload_text: bool = False):
        self.config, self.device, self.offload_text = config, device, offload_text
        self.guidance, self.resolution = config.guidance, config.resolution
        self.check_config()
        self.dtype = DTYPES[config.precision]
        self.pipe = self.load()
        self.transformer, self.vae = self.pipe.transformer, self.pipe.vae
        # a folder's name is of no use to the reader of a TPM file
        named = config.path and not Path(config.path).is_dir()
        self.base_model = config.path if named else self.hub_id
        self.check_model()
        self.latent_size = (config.resolution // self.pipe.vae_scale_factor,) * 2
        self.pooled_dim = self.transformer.config.pooled_projection_dim
        self.pooled_split = self.split_of_pooled()
        for module in self.pipe.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).train(False)
        # where accelerate is missing, diffusers leaves SD3's transformer in float32
        nn.Module.to(self.transformer, device, self.dtype)
        self.vae.to(device)
        if not offload_text:
            self.move_text(device)
        self.empty: tuple[Tensor, Tensor] | None = None  # tokens, pooled of "", one row each
        if config.compile:
            self.transformer.compile()

    def load(self):
        """The pipeline, on the CPU."""
        dtypes = {"default": self.dtype, "vae": torch.float32, **self.text_dtypes()}
        return load_pipeline(
            self.pipeline_class, self.hub_id, self.config, dtypes, self.text_encoders
        )

    # --- what a family says

    def text_dtypes(self) -> dict[str, torch.dtype]:
        """Text encoders that do not run in config.precision."""
        return {}

    def split_of_pooled(self) -> tuple[int, ...]:
        """Widths of the vectors that `pooled` is made of."""
        raise NotImplementedError

    def sigmas(self, steps: int) -> Tensor:
        raise NotImplementedError

    def encode_parts(self, prompts: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, W) and pooled (B, P) from the pipeline's own encode_prompt."""
        raise NotImplementedError

    def forward(self, x: Tensor, t_star: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        """One pass of the transformer, in its precision: (B, 16, h, w) at times t_star (B,)."""
        raise NotImplementedError

    @property
    def cfg(self) -> bool:
        """True when two passes are combined."""
        return self.guidance != 1.0

    # --- checks

    def check_config(self) -> None:
        """Raises ValueError for a resolution that cannot be cut into patches."""
        if self.resolution % 16 or self.resolution < 16:
            raise ValueError(
                f"backbone.resolution is {self.resolution}, expected a multiple of 16; "
                "512 is the paper's."
            )

    def check_model(self) -> None:
        """Raises ValueError for a pipeline whose latents or grid are not the family's."""
        channels = self.vae.config.latent_channels
        if channels != self.latent_channels:
            raise ValueError(
                f"The autoencoder of {self.source} has {channels} latent channels, {self.family} "
                f"has {self.latent_channels}; set backbone.path to a {self.hub_id}."
            )
        self.check_scheduler(shift_terminal=None, use_karras_sigmas=False, invert_sigmas=False)
        self.check_scheduler(use_exponential_sigmas=False, use_beta_sigmas=False)

    def check_scheduler(self, **wanted) -> None:
        """Raises ValueError where the scheduler of the folder draws another grid than `sigmas`."""
        for name, value in wanted.items():
            found = self.pipe.scheduler.config.get(name, value)
            if found != value and (found or value):
                raise ValueError(
                    f"The scheduler of {self.source} has {name} {found!r}, expected {value!r} for "
                    f"{self.family}; use the scheduler folder of {self.hub_id}."
                )

    @property
    def source(self) -> str:
        return self.config.path or self.hub_id

    # --- the interface

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tokens:
        """Prompts through the pipeline's own encode_prompt; pooled is float32, as the TPM reads it.

        With config.match_comfyui, T5 is padded to the length that ComfyUI pads a short prompt to,
        not to diffusers' default: neither masks the padding, so its length changes the image. T5
        tokens beyond it are cut off, where ComfyUI would lengthen the sequence.
        """
        own = self.tokens_like_comfyui if self.config.match_comfyui else self.tokens_like_diffusers
        if self.offload_text:
            self.move_text(self.device)
        try:
            tokens, pooled = self.encode_parts(prompts, own)
        finally:
            if self.offload_text:
                self.move_text(torch.device("cpu"))
        return Tokens(tuple(prompts), tokens.to(self.dtype), pooled.float())

    def move_text(self, device: torch.device) -> None:
        for name in self.text_encoders:
            getattr(self.pipe, name).to(device)

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        """(B, 16, h, w): what the pipeline draws with these CPU generators."""
        shape = (self.latent_channels, *self.latent_size)
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

    @torch.no_grad()
    def velocity(self, x: Tensor, t_star: Tensor, conditioning: Tokens) -> Tensor:
        """v* (B, 16, h, w) float32 at the told times t_star (B,) in [0, 1].

        With CFG both halves are one batch, in the pipeline's order (empty prompt first), and are
        combined in float32. At most config.batch images a pass, twice that with CFG.
        """
        if self.cfg and self.empty is None:
            empty = self.encode([""])
            self.empty = empty.tokens, empty.pooled
        size = self.config.batch or len(x)
        parts = (x, t_star.float(), conditioning.tokens, conditioning.pooled)
        pieces = zip(*(part.split(size) for part in parts), strict=True)
        return torch.cat([self.guided(*piece) for piece in pieces])

    def guided(self, x: Tensor, t_star: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        """The velocity of one forward pass, guided where there is CFG."""
        if self.cfg:
            tokens, pooled = (
                torch.cat([empty.expand_as(own), own])
                for empty, own in zip(self.empty, (tokens, pooled), strict=True)
            )
            x, t_star = torch.cat([x, x]), torch.cat([t_star, t_star])
        v = self.forward(x.to(self.dtype), t_star, tokens, pooled.to(self.dtype)).float()
        if not self.cfg:
            return v
        uncond, cond = v.chunk(2)
        return uncond + self.guidance * (cond - uncond)

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) float32 in [0, 1], config.decode_batch at a time."""
        scale, shift = self.vae.config.scaling_factor, self.vae.config.shift_factor
        latents = x.to(self.device).float() / scale + shift
        pieces = [
            self.vae.decode(piece.to(self.vae.dtype), return_dict=False)[0].float()
            for piece in latents.split(self.config.decode_batch or len(x))
        ]
        return (torch.cat(pieces) * 0.5 + 0.5).clamp(0, 1)
