"""The exact judge of the laboratory: finds the objects of an image and compares them with a caption.

    from training.tiny.score import score_images
    score_images(images, ["a red circle above a blue star on a dark rough background", ...])["strict"].mean()

Nothing is learnt and nothing is told but the image: `find_objects` segments it by hue, labels what it finds and fits
the four shapes to every piece; `score_images` matches the pieces with the slots of the caption. The backgrounds are
grey and the palette is not, so the share of an object's paint in a pixel is a projection on the palette's chroma.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from tpm.noise import noise_residual

from .scenes import _BACKDROPS, COLOURS, SHAPES, SIZE, TEXTURES, TONES, Scene, coverage, parse_caption

# the reward: iou (0..1) has weight one, the others as here; foreign is a share of the image's pixels
RELATION_WEIGHT, BACKGROUND_WEIGHT, CLEAN_WEIGHT, COUNT_WEIGHT = 0.5, 0.5, 0.5, 0.5
FOREIGN_WEIGHT = 2.0
IOU_RIGHT = 0.75  # a slot is right from this IoU on (and with the right colour and best shape)
COLOUR_REACH = 0.30  # RGB distance up to which a piece has a palette colour at all
PAINT_CORE, PAINT_EDGE = 0.5, 0.15  # share of paint of a pixel inside an object, and on its anti-aliased edge
AREA_MIN = 30.0  # pixels of paint; the smallest true object has 105
RELATION_MARGIN = 4.0  # pixels between two centres
SEED_MIN = 8  # pixels of an eroded piece
SHARPEN = 3.0
ERODE, GROW = 2, 9  # pixels: cuts the bridges where two tips touch, then grows back to the tips
PSNR_ZERO, PSNR_ONE = 12.0, 30.0  # dB where closeness is 0 and 1
ROUGH_REAL = 0.0844  # low-passed texture std of rendered rough backgrounds (test_score.py measures it)
NAMES = tuple(COLOURS)
_PALETTE = torch.tensor(list(COLOURS.values()))
_TONES = torch.tensor(list(TONES.values()))


@dataclass
class Objects:
    """What was found in a batch; N pieces, each with all four shapes fitted.

    owner (N,) image, colour (N,) palette index or -1, place (N, 4, 3) centre x, y and radius a shape, iou (N, 4),
    paint (N,) pixels. `dark` (B,) says the tone that was seen, `stray` (B, H, W) bool strong colour in no piece.
    """

    owner: torch.Tensor
    colour: torch.Tensor
    place: torch.Tensor
    iou: torch.Tensor
    paint: torch.Tensor
    dark: torch.Tensor
    stray: torch.Tensor

    @property
    def shape(self) -> torch.Tensor:
        """Index of the best-fitting shape, (N,)."""
        return self.iou.argmax(1)


def _unit_shapes() -> tuple[torch.Tensor, torch.Tensor]:
    """Area and centroid height of every shape at radius one, measured on the renderer itself."""
    place = torch.tensor([[SIZE / 2, SIZE / 2, 16.0]]).repeat(len(SHAPES), 1)
    masks = coverage(list(SHAPES), place)
    rows = torch.arange(SIZE) + 0.5 - SIZE / 2
    area = masks.sum((1, 2))
    return area / 16.0**2, (masks * rows[:, None]).sum((1, 2)) / area / 16.0


_UNIT_AREA, _UNIT_DROP = _unit_shapes()


def _smooth(images: torch.Tensor) -> torch.Tensor:
    """Binomial low-pass 1-2-1 in both axes, edges replicated; (B, C, H, W)."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    flat = F.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(flat, torch.outer(taps, taps)[None, None]).view_as(images)


def paint_maps(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hue (B, H, W) palette index, its share of paint there (B, H, W), and dark (B,): where the background is dark."""
    chroma = images - images.mean(1, keepdim=True)
    grey = chroma.square().sum(1) < 0.12**2
    light = (images.mean(1) * grey).sum((1, 2)) / grey.sum((1, 2)).clamp(min=1)
    dark = light < 0.55
    tint = torch.where(dark[:, None], _TONES[0] - _TONES[0].mean(), _TONES[1] - _TONES[1].mean())
    pure = (_PALETTE - _PALETTE.mean(1, keepdim=True))[None] - tint[:, None]  # (B, colours, 3)
    length = pure.norm(dim=2)
    along = torch.einsum("bchw,bkc->bkhw", chroma - tint[:, :, None, None], pure / length[..., None])
    strength, hue = along.max(1)
    share = strength / length.gather(1, hue.flatten(1)).view_as(strength)
    return hue, share.clamp(0, 1), dark


def _label(core: torch.Tensor, hue: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Seeds: pieces of one colour eroded by ERODE pixels, which parts shapes whose tips touch.

    Returns the label map (B, H, W), 0 for none, and the number of labels.
    """
    painted = torch.where(core, hue + 1, 0)
    for _ in range(ERODE):  # a pixel stays where its four neighbours are of its own colour
        m = F.pad(painted, (1, 1, 1, 1))
        around = (m[:, 2:, 1:-1], m[:, :-2, 1:-1], m[:, 1:-1, 2:], m[:, 1:-1, :-2])
        painted = painted * torch.stack([side == painted for side in around]).all(0)
    cross = np.zeros((3, 3, 3), bool)
    cross[1] = ndimage.generate_binary_structure(2, 1)  # images of the batch do not touch
    labels, n = ndimage.label((painted > 0).numpy(), cross)
    large = np.bincount(labels.ravel(), minlength=n + 1) >= SEED_MIN  # not the last pixel of a star's leg
    large[0] = False
    labels = np.where(large, np.cumsum(large), 0)[labels]
    return torch.from_numpy(labels), int(large.sum())


def _grow(seeds: torch.Tensor, n: int, hue: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Grows seeds over `near` pixels of their own hue; where two of one hue meet, the nearer centre takes the pixel."""
    first = torch.full((n + 1,), -1)
    first[seeds.flatten()] = hue.flatten()
    first[0] = -1
    grown, passable = seeds.float(), torch.where(near, hue, -2)
    for _ in range(GROW):
        wider = F.max_pool2d(grown[:, None], 3, 1, 1)[:, 0]
        grown = torch.where((grown == 0) & (first[wider.long()] == passable), wider, grown)
    grown = grown.long()
    count = torch.bincount(seeds.flatten(), minlength=n + 1).clamp(min=1)
    grid = torch.arange(SIZE) + 0.5
    x = torch.bincount(seeds.flatten(), grid.expand(seeds.shape).flatten(), n + 1) / count
    y = torch.bincount(seeds.flatten(), grid[:, None].expand(seeds.shape).flatten(), n + 1) / count
    owner = torch.zeros(n + 1, dtype=torch.long)
    owner[seeds.flatten()] = torch.arange(len(seeds)).repeat_interleave(SIZE * SIZE)
    for i, j in _twins(owner, first, n):
        pair = (grown[owner[i]] == i) | (grown[owner[i]] == j)
        nearer = (grid - x[i]) ** 2 + (grid[:, None] - y[i]) ** 2 < (
            (grid - x[j]) ** 2 + (grid[:, None] - y[j]) ** 2)
        grown[owner[i]] = torch.where(pair, torch.where(nearer, i, j), grown[owner[i]])
    return grown


def _twins(owner: torch.Tensor, first: torch.Tensor, n: int) -> list[tuple[int, int]]:
    """Pairs of labels of one image and one hue."""
    key = (owner * len(NAMES) + first).tolist()
    groups: dict[int, list[int]] = {}
    for label in range(1, n + 1):
        groups.setdefault(key[label], []).append(label)
    return [pair for group in groups.values() for pair in itertools.combinations(group, 2)]


def find_objects(images: torch.Tensor) -> Objects:
    """Segments (B, 3, 64, 64) in [0, 1] and fits shapes. Raises ValueError on another size."""
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"Scenes are (B, 3, {SIZE}, {SIZE}) images, not {tuple(images.shape)}.")
    hue, smooth_share, dark = paint_maps(_smooth(images))
    raw_hue, share, _ = paint_maps(images)
    core = smooth_share > PAINT_CORE
    seeds, n = _label(core, hue)
    member = _grow(seeds, n, hue, torch.maximum(smooth_share, share) > PAINT_EDGE)
    share = torch.where((member > 0), share, 0.0)
    solid, grid = (seeds > 0).float(), torch.arange(SIZE) + 0.5
    values = torch.stack([share, share * grid, share * grid[:, None], solid,
                          *(images * solid[:, None]).unbind(1)], -1)
    sums = torch.zeros(n + 1, 7).index_add_(0, member.flatten(), values.flatten(0, 2))
    owner = torch.zeros(n + 1, dtype=torch.long)
    owner[member.flatten()] = torch.arange(len(images)).repeat_interleave(SIZE * SIZE)
    kept = sums[:, 0] >= AREA_MIN
    kept[0] = False
    stray = core & ~kept[member]
    sums, owner, rows = sums[kept], owner[kept], kept.nonzero()[:, 0]
    gap, colour = torch.cdist(sums[:, 4:] / sums[:, 3:4].clamp(min=1), _PALETTE).min(1)
    colour = torch.where(gap < COLOUR_REACH, colour, -1)
    place, iou = _fit(share[owner] * (member[owner] == rows[:, None, None]), sums)
    return Objects(owner, colour, place, iou, sums[:, 0], dark, stray)


def _fit(paint: torch.Tensor, sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Fits each shape to (N, H, W) by area and centroid: place (N, 4, 3) and IoU (N, 4)."""
    n, s = len(sums), len(SHAPES)
    radius = (sums[:, :1] / _UNIT_AREA).sqrt()  # (N, 4)
    centre = sums[:, 1:3] / sums[:, :1]
    place = torch.stack([centre[:, :1].expand(n, s), centre[:, 1:] - _UNIT_DROP * radius, radius], -1)
    shapes = coverage(list(SHAPES) * n, place.view(-1, 3)).view(n, s, SIZE, SIZE)
    return place, iou_of(paint[:, None], shapes)


def _sharp(cover: torch.Tensor) -> torch.Tensor:
    """Steeper edges: the blur of the autoencoder is not a fault of the shape."""
    return (SHARPEN * (cover - 0.5) + 0.5).clamp(0, 1)


def iou_of(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of two coverages in [0, 1] over the last two axes, edges sharpened."""
    a, b = _sharp(a), _sharp(b)
    return torch.minimum(a, b).sum((-1, -2)) / torch.maximum(a, b).sum((-1, -2)).clamp(min=1e-6)
