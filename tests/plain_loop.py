"""Algorithm 2 once more, by hand: what the trainer's loop and ComfyUI's are both compared with."""

from __future__ import annotations

import torch

from async_timestep.training.tiny.backbone import TinyBackbone


@torch.no_grad()
def plain_loop(model: TinyBackbone, captions: list[str], noise, sigmas, guidance: float,
               deviation: float = 0.0, lying: bool = False) -> torch.Tensor:  # fmt: skip
    """Latents (B, 16, h, w) of the embedded model by Euler (Eq. 6 and 9), the captions and empty
    ones as one batch; lying: the velocity is scaled by t*/t as well."""
    tokens, pooled = model.text(captions + [""] * len(captions))
    x = noise * sigmas[0]
    for k in range(len(sigmas) - 1):
        t = told = float(sigmas[k])
        if k > 0:
            told = max(t + deviation * (t - float(sigmas[k - 1])), 1e-3)
        v, empty = model.network(
            x.repeat(2, 1, 1, 1),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=torch.full((2 * len(x),), 1000 * told),
            return_dict=False,
        )[0].chunk(2)
        v = empty + guidance * (v - empty)
        x = x + (float(sigmas[k + 1]) - t) * (told / t if lying else 1.0) * v
    return x
