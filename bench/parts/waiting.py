"""Which pixels wait: the methods of bench/asyndm_laboratory.py and the regions that they act in.

method = METHODS["all but the objects"]
mask = mask_of(method.where, objects, generators)  # (n, 64, 64), objects of the plain images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

DILATED, ERODED = 8, 3  # pixels of the image, which has 64; a token of the network is 8 x 8
TOKEN = 8


@dataclass(frozen=True)
class Method:
    """where: what makes the region, "" for none. strength: AsynDM's, None for a deviation.
    curve: AsynDM's. deviation: D of regional deviation, or everywhere. tpm: a file of the TPM
    Loader. more: steps. threshold, static, grow, invert: of the Region Mask, for words. layer:
    the one joint attention that words are read in, None for the nodes' own choice."""

    where: str = ""
    strength: float | None = 0.5
    curve: str = "quadratic"
    deviation: float = 0.0
    tpm: str = ""
    more: int = 0
    threshold: float = 1.0
    static: bool = False
    grow: int = 0
    invert: bool = False
    layer: int | None = None

    @property
    def one_model(self) -> bool:
        """Whether it is of the transformer: its blocks, its TPM."""
        return bool(self.tpm) or self.layer is not None

    @property
    def waits(self) -> bool:
        return self.where != "" and self.strength is not None


def told(deviation: float, where: str = "") -> Method:
    return Method(where, None, deviation=deviation)


PLAIN = "plain"
METHODS = {
    PLAIN: Method(),
    "words": Method("words"),
    "words, strength 1": Method("words", 1.0),
    "words, static": Method("words", static=True),
    "object mask": Method("objects"),
    "all but the objects": Method("inverse"),
    "dilated by 8 px": Method("dilated"),
    "eroded by 3 px": Method("eroded"),
    "ring of 8 px around them": Method("ring"),
    "all but the dilated": Method("beyond"),
    "random, same area": Method("random"),
    "shifted by half the picture": Method("shifted"),
    "all (concave)": Method("all"),
    "words, linear": Method("words", curve="linear"),
    "words, exponential": Method("words", curve="exponential"),
    "words, inverted": Method("words", invert=True),
    "words, shrunk by 2, inverted": Method("words", grow=-2, invert=True),
    "words, grown by 2": Method("words", grow=2),
    "words, shrunk by 2": Method("words", grow=-2),
    "words, last block": Method("words", layer=2),
    "words, last block, threshold 1.6": Method("words", layer=2, threshold=1.6),
    "words, strength 0.25": Method("words", 0.25),
    "words, strength 0.75": Method("words", 0.75),
    "words, threshold 0.7": Method("words", threshold=0.7),
    "words, threshold 1.3": Method("words", threshold=1.3),
    "words, threshold 1.6": Method("words", threshold=1.6),
    "all but the objects, strength 0.25": Method("inverse", 0.25),
    "all but the objects, strength 0.75": Method("inverse", 0.75),
    "all but the objects, strength 1": Method("inverse", 1.0),
    "one more step": Method(more=1),
    "ten more steps": Method(more=10),
    "D=+0.25": told(0.25),
    "D=+0.25 in the words": told(0.25, "words"),
    "D=+0.25 in the objects": told(0.25, "objects"),
    "D=+0.25 in all but the objects": told(0.25, "inverse"),
    "D=+0.25 in all but the words": Method("words", None, deviation=0.25, invert=True),
    "D=-0.25": told(-0.25),
    "D=-0.25 in all but the objects": told(-0.25, "inverse"),
    "TPM": Method(tpm="tiny.safetensors"),
}


def wider(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """(n, H, W) of 0 and 1, grown by a square of so many pixels to each side."""
    return F.max_pool2d(mask[:, None], 2 * pixels + 1, 1, pixels)[:, 0]


def mask_of(
    where: str, objects: torch.Tensor, generators: Sequence[torch.Generator]
) -> torch.Tensor:
    """(n, 64, 64) in [0, 1]: the pixels of a method's region. objects: (n, 64, 64) of 0 and 1.
    generators: one an image, for masks that are drawn."""
    if where == "random":
        return shuffled(objects, generators)
    return {
        "objects": lambda: objects,
        "inverse": lambda: 1 - objects,
        "dilated": lambda: wider(objects, DILATED),
        "eroded": lambda: 1 - wider(1 - objects, ERODED),
        "ring": lambda: wider(objects, DILATED) - objects,
        "beyond": lambda: 1 - wider(objects, DILATED),
        "shifted": lambda: objects.roll((objects.shape[1] // 2, objects.shape[2] // 2), (1, 2)),
    }[where]()


def shuffled(objects: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """The objects' share of each token of the network, dealt anew to the image's tokens."""
    share = F.avg_pool2d(objects[:, None], TOKEN)[:, 0]
    flat = share.flatten(1)
    order = torch.stack([torch.randperm(flat.shape[1], generator=g) for g in generators])
    dealt = flat.gather(1, order).view_as(share)
    return dealt.repeat_interleave(TOKEN, 1).repeat_interleave(TOKEN, 2)


PLACES = ("iou", "area", "objects", "ring", "beyond")


def places(mask: torch.Tensor, objects: torch.Tensor) -> dict[str, float]:
    """Where a mask (n, h, w) lies, any strength counted, by the finished objects (n, 64, 64) bool:
    its IoU with them, the share of the picture, of the objects, of the ring around them and of
    all beyond it that is inside. Means over the images that have objects."""
    inside = F.interpolate(mask[:, None], objects.shape[1:])[:, 0] > 0.25
    there = objects.any(2).any(1)
    inside, objects = inside[there], objects[there]
    wide = wider(objects.float(), DILATED) > 0
    where = {"objects": objects, "ring": wide & ~objects, "beyond": ~wide}
    shares = {"iou": (inside & objects).sum((1, 2)) / (inside | objects).sum((1, 2))}
    shares["area"] = inside.float().mean((1, 2))
    for name, part in where.items():
        shares[name] = (inside & part).sum((1, 2)) / part.sum((1, 2)).clamp(min=1)
    return {name: float(shares[name].mean()) for name in PLACES}
