"""The official AsynDM code on the embedded UNet: its numbers for 64 x 64 latents become those of
16 x 16, and the rest of its `main` stays as it is.

    official = fitted(official_side.load(checkout))
"""

from __future__ import annotations

import ast

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from async_timestep.bench.parts import official_side as side
from async_timestep.training.tiny.unet import TinyUNet

NUMBERS = (  # latent cells, channels, and the side of the attentions that are read
    ("64*64", "16*16"),
    ("(64,64)", "(16,16)"),
    (", 4, 64, 64", ", 16, 16, 16"),
    (", 64, 64", ", 16, 16"),
    ("'used_layer_size':16", "'used_layer_size':8"),
)
READ = 8


def fitted(official: side.Official) -> side.Official:
    """Its `main` for this model's sizes. Raises SystemExit where a number is not in its text."""
    text = (official.folder / "asyn_sample.py").read_text()
    for old, new in NUMBERS:
        if old not in text:
            raise SystemExit(
                f"asyn_sample.py has no {old!r}, expected the released code; give an unchanged "
                "checkout of hu-zijing/AsynDM."
            )
        text = text.replace(old, new)
    found = [n for n in ast.parse(text).body if getattr(n, "name", "") == "main"]
    exec(compile(ast.Module(found, []), "asyn_sample.py", "exec"), vars(official.sample))  # noqa: S102
    return official


def trained_unet() -> torch.nn.Module:
    """The embedded UNet in diffusers' class, with the attention that the official code reads."""
    network = TinyUNet().network
    network.set_attn_processor(AttnProcessor2_0())
    network.register_to_config(sample_size=16)
    return network


def masks_of(theirs: side.Recording, steps: int) -> list[torch.Tensor]:
    """(B, 16, 16) of every evaluation of the AsynDM run, as the step after it uses them."""
    found = []
    for mask in theirs.masks[-steps:]:
        cells = mask.amax(2).view(-1, 1, READ, READ).float()
        found.append(torch.nn.functional.interpolate(cells, (16, 16))[:, 0])
    return found
