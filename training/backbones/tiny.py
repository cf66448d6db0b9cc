"""The embedded model of training/tiny as a backbone: no download, seconds on a CPU."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...tpm.families import TINY
from ..run.config import BackboneConfig
from ..run.distributed import first_line
from ..tiny.backbone import FILES, WEIGHTS, TinyBackbone, simple_sigmas
from ..tiny.text import POOLED
from ..tiny.vae import CHANNELS, PATCH
from .sampling import Tokens, VelocityBackbone

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_weights(path: str) -> TinyBackbone:
    """The model of a folder, or the embedded one. Raises ValueError on other files."""
    try:
        return TinyBackbone(Path(path) if path else WEIGHTS)
    except Exception as error:  # missing, cut off, or of another network: each has its own
        raise ValueError(
            f"backbone.path is {path!r}, where the embedded model cannot be read from "
            f"({first_line(error)}), expected a folder with {', '.join(FILES)}, or empty for those "
            "of the repository."
        ) from error


class TinyFlow(VelocityBackbone):
    """`TinyFlow(BackboneConfig(), device)`; the interface is that of `Backbone`."""

    family, license = TINY.name, TINY.license
    base_model = "async-timestep embedded demo model"
    latent_channels, pooled_dim, pooled_split = CHANNELS, POOLED, (POOLED,)

    def __init__(
        self, config: BackboneConfig, device: torch.device, offload_text: bool = False
    ):  # it has no text encoder to move
        self.guidance, self.resolution, self.device = config.guidance, config.resolution, device
        self.latent_size = (config.resolution // PATCH,) * 2
        self.batch, self.decode_batch = config.batch, config.decode_batch
        self.model = load_weights(config.path)
        self.dtype = DTYPES[config.precision]
        self.model.network.to(device)
        if config.compile:
            self.model.network.compile()
        self.empty = self._encode([""])

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        return tuple(part.to(self.device) for part in self.model.text(prompts))

    def encode(self, prompts: list[str]) -> Tokens:
        return Tokens(tuple(prompts), *self._encode(prompts))

    def noise(self, generators: list[torch.Generator]) -> Tensor:
        shape = (CHANNELS, *self.latent_size)
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(self.device)

    def sigmas(self, steps: int) -> Tensor:
        return simple_sigmas(steps)

    def velocity(self, x: Tensor, t_star: Tensor, conditioning: Tokens) -> Tensor:
        cond = (conditioning.tokens, conditioning.pooled)
        if self.guidance == 1.0:
            return self.network(x, t_star, *cond)
        both = [
            torch.cat([own, empty.expand_as(own)])
            for own, empty in zip(cond, self.empty, strict=True)
        ]
        v, uncond = self.network(torch.cat([x, x]), torch.cat([t_star, t_star]), *both).chunk(2)
        return uncond + self.guidance * (v - uncond)

    def network(self, x: Tensor, t_star: Tensor, tokens: Tensor, pooled: Tensor) -> Tensor:
        low = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=low):
            return self.model.network(
                x,
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                timestep=1000 * t_star,
                return_dict=False,
            )[0].float()

    def group(self, prompt: str) -> str:
        """The texture of a scene, which is where a deviation matters; "" of other prompts."""
        words = prompt.split()
        return words[-2] if words[-1:] == ["background"] and len(words) > 1 else ""

    def decode(self, x: Tensor) -> Tensor:
        return self.model.vae.decode(x.cpu()).to(self.device)
