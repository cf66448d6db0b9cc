"""Finds the objects of an image: segmentation by hue, labels, and a fit of the four shapes to every
piece.

Nothing is learnt and nothing is told but the image. The backgrounds are grey and the palette is
not, so the share of an object's paint in a pixel is a projection on the palette's chroma, whatever
the texture below.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from .scenes import COLOURS, SHAPES, SIZE, TONES, coverage

COLOUR_REACH = 0.30  # RGB distance up to which a piece has a palette colour at all
PAINT_CORE, PAINT_EDGE = 0.5, 0.15  # share of paint inside an object, and on its anti-aliased edge
AREA_MIN = 30.0  # pixels of paint; the smallest true object has 105
ERODE, GROW = 2, 9  # pixels: cuts the bridges where two tips touch, then grows back to the tips
SEED_MIN = 8  # pixels of an eroded piece; less is the last pixel of a star's leg, not an object
SHARPEN = 2.0  # steepness of the edges before an IoU is taken
NAMES = tuple(COLOURS)
PALETTE = torch.tensor(list(COLOURS.values()))
_TONES = torch.tensor(list(TONES.values()))


@dataclass
class Objects:
    """What was found in a batch of B images: N pieces, each with all four shapes fitted.

    owner (N,) image; colour (N,) palette index or -1; place (N, 4, 3) centre x, centre y and radius
    by shape; iou (N, 4); area (N,) in pixels; core (B, H, W) bool: every strongly coloured pixel.
    """

    owner: torch.Tensor
    colour: torch.Tensor
    place: torch.Tensor
    iou: torch.Tensor
    area: torch.Tensor
    core: torch.Tensor

    @property
    def shape(self) -> torch.Tensor:
        """Index of the best-fitting shape, (N,)."""
        return self.iou.argmax(1)


def _unit_shapes() -> tuple[torch.Tensor, torch.Tensor]:
    """Area and centroid height of every shape at radius one, measured on the renderer itself."""
    masks = coverage(
        list(SHAPES), torch.tensor([[SIZE / 2, SIZE / 2, 16.0]]).repeat(len(SHAPES), 1)
    )
    rows = torch.arange(SIZE) + 0.5 - SIZE / 2
    area = masks.sum((1, 2))
    return area / 16.0**2, (masks * rows[:, None]).sum((1, 2)) / area / 16.0


_UNIT_AREA, _UNIT_DROP = _unit_shapes()


def _smooth(images: torch.Tensor) -> torch.Tensor:
    """Binomial low-pass 1-2-1 in both axes, edges replicated; (B, C, H, W)."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    flat = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(flat, torch.outer(taps, taps)[None, None]).view_as(images)


def paint_maps(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hue (B, H, W) as a palette index, and the share of that paint in the pixel (B, H, W) in [0,
    1]."""
    chroma = images - images.mean(1, keepdim=True)
    grey = chroma.square().sum(1) < 0.12**2
    light = (images.mean(1) * grey).sum((1, 2)) / grey.sum((1, 2)).clamp(min=1)
    tone = _TONES[(light > 0.55).long()]  # the backgrounds are only almost grey
    tint = tone - tone.mean(1, keepdim=True)
    pure = (PALETTE - PALETTE.mean(1, keepdim=True))[None] - tint[:, None]  # (B, colours, 3)
    length = pure.norm(dim=2)
    flat = (chroma - tint[:, :, None, None]).flatten(2)
    strength, hue = torch.bmm(pure / length[..., None], flat).max(1)
    share = (strength / length.gather(1, hue)).clamp(0, 1)
    return hue.view_as(grey), share.view_as(light[:, None, None] * grey)


def _seeds(painted: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Pieces of one colour, eroded by ERODE pixels: this parts shapes whose tips touch.

    `painted` (B, H, W): 0 or 1 + hue. Returns the label map (B, H, W), 0 for none, and the number
    of labels.
    """
    for _ in range(ERODE):  # a pixel stays where its four neighbours are of its own colour
        m = F.pad(painted, (1, 1, 1, 1))
        around = (m[:, 2:, 1:-1], m[:, :-2, 1:-1], m[:, 1:-1, 2:], m[:, 1:-1, :-2])
        for side in around:
            painted = torch.where(side == m[:, 1:-1, 1:-1], painted, 0)
    cross = np.zeros((3, 3, 3), bool)
    cross[1] = ndimage.generate_binary_structure(2, 1)  # images of the batch do not touch
    labels, n = ndimage.label((painted > 0).numpy(), cross)
    large = np.bincount(labels.ravel(), minlength=n + 1) >= SEED_MIN
    large[0] = False
    return torch.from_numpy(np.where(large, np.cumsum(large), 0)[labels]), int(large.sum())


def _grow(seeds: torch.Tensor, n: int, hue: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Grows the labels over `near` pixels of their own hue; where two meet, the nearer centre has
    the pixel."""
    owner, y, x = seeds.nonzero().unbind(1)
    label = seeds[owner, y, x]
    first = torch.full((n + 1,), -1)
    first[label] = hue[owner, y, x]
    grown, passable = seeds.float(), torch.where(near, hue, -2)
    for _ in range(GROW):
        wider = F.max_pool2d(grown[:, None], 3, 1, 1)[:, 0]
        grown = torch.where((grown == 0) & (first[wider.long()] == passable), wider, grown)
    grown = grown.long()
    home = torch.zeros(n + 1, dtype=torch.long)
    home[label] = owner
    count = torch.bincount(label, minlength=n + 1)
    cx, cy = (torch.bincount(label, v.float(), n + 1) / count for v in (x, y))
    groups: dict[tuple[int, int], list[int]] = {}
    for i, key in enumerate(zip(home[1:].tolist(), first[1:].tolist(), strict=True), start=1):
        groups.setdefault(key, []).append(i)
    grid = torch.arange(SIZE)
    for (image, _), twins in groups.items():
        for i, j in itertools.combinations(twins, 2):
            both = (grown[image] == i) | (grown[image] == j)
            to_i = (grid - cx[i]) ** 2 + (grid[:, None] - cy[i]) ** 2
            to_j = (grid - cx[j]) ** 2 + (grid[:, None] - cy[j]) ** 2
            grown[image] = torch.where(both, torch.where(to_i < to_j, i, j), grown[image])
    return grown


def find_objects(images: torch.Tensor) -> Objects:
    """Segments (B, 3, 64, 64) in [0, 1] and fits the shapes. Raises ValueError on another size."""
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"Scenes are (B, 3, {SIZE}, {SIZE}) images, not {tuple(images.shape)}.")
    hue, smooth_share = paint_maps(_smooth(images))
    share = paint_maps(images)[1]
    core = smooth_share > PAINT_CORE
    seeds, n = _seeds(torch.where(core, hue + 1, 0))
    label = _grow(seeds, n, hue, torch.maximum(smooth_share, share) > PAINT_EDGE)
    home, y, x = label.nonzero().unbind(1)
    row = label[home, y, x]
    weight, solid = share[home, y, x], (seeds[home, y, x] > 0).float()
    # one sum a label: paint, its first moments, and the colour of the solid inside
    colour = images[home, :, y, x] * solid[:, None]
    values = torch.stack(
        [weight, weight * (x + 0.5), weight * (y + 0.5), solid, *colour.unbind(1)], 1
    )
    sums = torch.zeros(n + 1, 7).index_add_(0, row, values)
    owner = torch.zeros(n + 1, dtype=torch.long)
    owner[row] = home
    kept = (sums[:, 0] >= AREA_MIN).nonzero()[:, 0]
    sums, owner = sums[kept], owner[kept]
    gap, colour = torch.cdist(sums[:, 4:] / sums[:, 3:4].clamp(min=1), PALETTE).min(1)
    colour = torch.where(gap < COLOUR_REACH, colour, -1)
    paint = share[owner] * (label[owner] == kept[:, None, None])
    place, iou = _fit(paint, sums)
    return Objects(owner, colour, place, iou, sums[:, 0], core)


def _fit(paint: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fits each shape to (N, H, W) by area and centroid: place (N, 4, 3) and IoU (N, 4)."""
    n, s = len(sums), len(SHAPES)
    radius = (sums[:, :1] / _UNIT_AREA).sqrt()  # (N, 4)
    centre = sums[:, 1:3] / sums[:, :1]
    place = torch.stack(
        [centre[:, :1].expand(n, s), centre[:, 1:] - _UNIT_DROP * radius, radius], -1
    )
    shapes = coverage(list(SHAPES) * n, place.view(-1, 3)).view(n, s, SIZE, SIZE)
    return place, soft_iou(paint[:, None], shapes)


def soft_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of two coverages in [0, 1] over the last two axes.

    Edges are made steeper first: the blur of the autoencoder is not a fault of the shape.
    """
    a, b = ((SHARPEN * (cover - 0.5) + 0.5).clamp(0, 1) for cover in (a, b))
    return torch.minimum(a, b).sum((-1, -2)) / torch.maximum(a, b).sum((-1, -2)).clamp(min=1e-6)
