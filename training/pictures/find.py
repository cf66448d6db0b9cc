"""Finds the objects of a picture: the nearest drawing at every place, the best explained first.

Nothing is learnt and nothing is told but the picture. A drawing T with the coverage M, laid over a
picture I whose ground has the colour B, takes away the error sum M (|I - B|^2 - |I - T|^2), its
gain: a correlation inside the mask. It explains the share 1 - sum M |I - T|^2 / sum M |T - B|^2, 1
where it fits. Searched at half size by gain, then moved by single pixels at full size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .scenes import LARGE, SIZE, SMALL
from .sprites import NAMES, sprites

EXPLAINED, EXPLAINED_HALF = 0.62, 0.20  # shares from which on a drawing is found, and looked at
OBJECTS_MOST = 6  # an image is searched for so many
APART = 0.6  # of the mean size: two objects' centres are at least as far apart
OVERLAP = 0.15  # share of an object that may lie on another one
REACH = 2  # pixels of the second search
SIZES = (SMALL, LARGE)


@dataclass
class Found:
    """N objects in a batch: image (N,), index of the name (N,), left edge, top edge and size in
    pixels (N, 3), share explained (N,)."""

    owner: torch.Tensor
    name: torch.Tensor
    place: torch.Tensor
    share: torch.Tensor


@functools.cache
def _kernels(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Covered colours (objects, 3, size, size) and coverage (objects, 1, size, size)."""
    colour, cover = sprites(size)
    return colour * cover[:, None], cover[:, None]


def ground_colour(images: torch.Tensor) -> torch.Tensor:
    """Median colour (B, 3): objects cover less than half of a picture."""
    return images.flatten(2).median(2).values


def _gains(half: torch.Tensor, ground: torch.Tensor, size: int):
    """(gain, name) of the best drawing at every place of its left upper corner, (B, h, w)."""
    paint, cover = _kernels(size)
    rest = half - ground[:, :, None, None]
    along = (rest * ground[:, :, None, None]).sum(1, keepdim=True)
    fit = F.conv2d(rest, paint) - F.conv2d(along, cover)  # sum M (T - B) (I - B)
    there = F.conv2d(rest.square().sum(1, keepdim=True), cover)  # sum M |I - B|^2
    energy = _energy(ground, paint, cover)[:, :, None, None]
    share = (2 * fit - there) / energy
    best, name = torch.where(share > EXPLAINED_HALF, 2 * fit - energy, -1.0).max(1)
    return best, name


def _energy(ground: torch.Tensor, paint: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    """sum M |T - B|^2 of every ground colour (B, 3) and drawing, (B, objects)."""
    squares = (paint.square() / cover.clamp(min=1e-4)).sum((1, 2, 3))
    energy = squares - 2 * ground @ paint.sum((2, 3)).T
    return energy + ground.square().sum(1, keepdim=True) * cover.sum((1, 2, 3))


def find_objects(images: torch.Tensor) -> Found:
    """Objects of (B, 3, 128, 128) images in [0, 1], best explained first within an image. Raises
    ValueError on another size."""
    if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
        raise ValueError(f"Pictures are (B, 3, {SIZE}, {SIZE}), not {tuple(images.shape)}.")
    half, ground = F.avg_pool2d(images, 2), ground_colour(images)
    columns = []
    for size in SIZES:
        gain, name = _gains(half, ground, size // 2)
        rows = torch.arange(gain.shape[1])
        y, x = (2 * part.flatten() for part in torch.meshgrid(rows, rows, indexing="ij"))
        place = torch.stack([x, y, torch.full_like(x, size)], 1)
        columns.append((gain.flatten(1), name.flatten(1), place))
    gain, name = (torch.cat([column[k] for column in columns], 1) for k in range(2))
    place = torch.cat([column[2] for column in columns])
    centre = place[:, :2] + place[:, 2:] / 2
    none = torch.zeros(0, dtype=torch.long)
    found = [(none, none, none.view(0, 1).expand(0, 3))]
    for _ in range(OBJECTS_MOST):
        value, k = gain.max(1)
        owner = (value > 0).nonzero()[:, 0]
        if not len(owner):
            break
        k = k[owner]
        found.append((owner, name[owner, k], place[k]))
        gap = (centre[None] - centre[k, None]).abs().amax(2)
        near = gap < APART * (place[None, :, 2] + place[k, None, 2]) / 2
        gain[owner] = torch.where(near, -1.0, gain[owner])
    owner, name, place = (torch.cat([turn[k] for turn in found]) for k in range(3))
    place, share = _moved(images, ground, owner, name, place)
    kept = share > EXPLAINED
    return _apart(Found(owner[kept], name[kept], place[kept], share[kept]))


def masks_of(found: Found) -> torch.Tensor:
    """The coverage of every found object in its picture, (N, SIZE, SIZE)."""
    masks = torch.zeros(len(found.owner), SIZE, SIZE)
    for row, (name, (x, y, size)) in enumerate(
        zip(found.name.tolist(), found.place.tolist(), strict=True)
    ):
        masks[row, y : y + size, x : x + size] = sprites(size)[1][name]
    return masks


def _apart(found: Found) -> Found:
    """Without those that lie with more than OVERLAP of their coverage on objects of larger gain."""
    masks, kept, taken = masks_of(found), [], {}
    for row, owner in enumerate(found.owner.tolist()):
        there = taken.get(owner, torch.zeros(SIZE, SIZE))
        if float(torch.minimum(masks[row], there).sum() / masks[row].sum()) <= OVERLAP:
            kept.append(row)
            taken[owner] = torch.maximum(there, masks[row])
    return Found(found.owner[kept], found.name[kept], found.place[kept], found.share[kept])


def windows(images: torch.Tensor, owner: torch.Tensor, place: torch.Tensor, size: int, more: int):
    """Parts (N, 3, size + 2 more, size + 2 more) of the images around the places; their edges are
    repeated."""
    wide = F.pad(images, (more,) * 4, mode="replicate")
    steps = torch.arange(size + 2 * more)
    y = (place[:, 1, None] + steps)[:, :, None]
    x = (place[:, 0, None] + steps)[:, None, :]
    return wide.permute(0, 2, 3, 1)[owner[:, None, None], y, x].permute(0, 3, 1, 2)


def _moved(images, ground, owner, name, place) -> tuple[torch.Tensor, torch.Tensor]:
    """The places with the smallest error within REACH pixels, and the shares explained there, of
    means of 2 x 2 pixels, which noise moves less."""
    place, share = place.clone(), torch.zeros(len(owner))
    for size in SIZES:
        rows = (place[:, 2] == size).nonzero()[:, 0]
        if not len(rows):
            continue
        paint, cover = (part[name[rows]] for part in _kernels(size))
        around = windows(images, owner[rows], place[rows], size, REACH)
        shifts = [(dx, dy) for dy in range(2 * REACH + 1) for dx in range(2 * REACH + 1)]
        errors = []
        for dx, dy in shifts:
            part = around[:, :, dy : dy + size, dx : dx + size]
            errors.append((cover * part.square() - 2 * paint * part).sum((1, 2, 3)))
        moved = place[rows, :2] + torch.tensor(shifts)[torch.stack(errors).argmin(0)] - REACH
        place[rows, :2] = moved.clamp(min=0, max=SIZE - size)
        part = windows(images, owner[rows], place[rows], size, 0)
        gap = 4 * F.avg_pool2d(cover * part - paint, 2).square().sum((1, 2, 3))
        share[rows] = 1 - gap / _energy(ground, *_kernels(size))[owner[rows], name[rows]]
    return place, share


def names_of(found: Found) -> list[str]:
    return [NAMES[k] for k in found.name.tolist()]
