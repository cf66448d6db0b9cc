"""What a ground looks like in numbers: colour, the strength of its detail by size, its palette.

Measured on cuts of the textures themselves; a picture is compared with that where no object is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .grounds import GROUNDS, TILE, cut, tile
from .scenes import SIZE

BLURS = (
    1.0,
    2.0,
    4.0,
    8.0,
)  # pixels; a band of detail lies between two of them, or below the first
CUTS = 48  # of each texture, for what is natural
BINS = 16  # a channel, of the table of colours
TONE_REACH = 0.25  # error of the mean colour that makes a ground worth nothing
NEAR, FAR = 0.07, 0.20  # RGB distance from a ground's nearest colour: its own, and not its own


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian low-pass of (B, C, H, W), zero outside."""
    reach = int(2.5 * sigma + 0.5)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    taps = taps / taps.sum()
    flat = F.conv2d(images.flatten(0, 1)[:, None], taps.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(flat, taps.view(1, 1, -1, 1), padding=(reach, 0)).view_as(images)


def features(images: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean colour (B, 3) and standard deviation of the grey in each band of detail (B, 4), over the
    pixels where `weight` (B, H, W) is one; a blur sees these alone."""
    total = weight.sum((1, 2)).clamp(min=1)
    colour = (images * weight[:, None]).sum((2, 3)) / total[:, None]
    grey, bands = images.mean(1, keepdim=True), []
    weight = weight[:, None]
    last = grey
    for sigma in BLURS:
        share = blur(weight, sigma)
        low = blur(grey * weight, sigma) / share.clamp(min=1e-3)
        band = (last - low) * weight
        bands.append((band.square().sum((1, 2, 3)) / total).sqrt())
        last = low
    return colour, torch.stack(bands, 1)


@dataclass
class Natural:
    """By ground: mean colour and its deviation between cuts, both (6, 3); log2 of the bands and its
    deviation, both (6, 4); distance of every colour from the ground's nearest (6, BINS^3)."""

    colour: torch.Tensor
    colour_sd: torch.Tensor
    bands: torch.Tensor
    bands_sd: torch.Tensor
    distance: torch.Tensor


@functools.cache
def natural() -> Natural:
    """Measured on the textures, once a process."""
    rng, rows = torch.Generator().manual_seed(1), []
    centres = (torch.arange(BINS) + 0.5) / BINS
    cube = torch.cartesian_prod(centres, centres, centres)
    for ground in GROUNDS:
        images = torch.stack([cut(ground, SIZE, rng) for _ in range(CUTS)])
        colour, bands = features(images, torch.ones(CUTS, SIZE, SIZE))
        bands = bands.log2()
        soft = F.avg_pool2d(tile(ground)[None], 3, 1, 1, count_include_pad=False)[0]
        few = soft.flatten(1).T[torch.randperm(TILE**2, generator=rng)[:3000]]
        nearest = torch.cdist(cube, few).amin(1)
        rows.append((colour.mean(0), colour.std(0), bands.mean(0), bands.std(0), nearest))
    return Natural(*(torch.stack(column) for column in zip(*rows, strict=True)))


def nearest_ground(colour: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """Index of the ground that features are nearest to, (B,)."""
    known = natural()
    tone = (colour[:, None] - known.colour).square() / (0.05 + known.colour_sd).square()
    detail = bands.clamp(min=1e-4).log2()[:, None] - known.bands
    detail = detail.square() / (0.5 + known.bands_sd).square()
    return (tone.sum(2) + detail.sum(2)).argmin(1)


def likeness(colour: torch.Tensor, bands: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """How like the asked ground (B,) features are, (B,) in [0, 1]: product of the tone's and the
    bands' likeness; what varies between true cuts costs nothing."""
    known = natural()
    off = (colour - known.colour[ground]).abs() - 2 * known.colour_sd[ground]
    tone = (1 - off.clamp(min=0).amax(1) / TONE_REACH).clamp(min=0)
    off = (bands.clamp(min=1e-4).log2() - known.bands[ground]).abs() - 2 * known.bands_sd[ground]
    return tone * (1 - off.clamp(min=0)).clamp(min=0).mean(1)


def strangeness(images: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """(B, H, W) in [0, 1]: 0 where a ground (B,) has such a colour, 1 where it has none like it.
    Pixels are taken as means of 3 x 3, which noise moves less."""
    soft = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    r, g, b = (soft * BINS).long().clamp(0, BINS - 1).unbind(1)
    distance = natural().distance[ground[:, None, None], (r * BINS + g) * BINS + b]
    return ((distance - NEAR) / (FAR - NEAR)).clamp(0, 1)
