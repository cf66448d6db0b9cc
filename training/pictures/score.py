"""The exact judge of the pictures: compares the objects and the ground that are found in a picture
with its caption. Nothing in it is learnt.

    score_images(images, ["a cat left of an apple on grass"])["strict"]  # (B,)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...report.noise import noise_residual
from ..tiny.score import closeness, relation_share, reward_of
from .find import SIZES, Found, find_objects, masks_of, names_of, windows
from .ground_statistics import features, likeness, natural, nearest_ground, strangeness
from .grounds import GROUNDS
from .scenes import SIZE, Scene, parse_caption
from .sprites import sprites

# reward = iou + the weighted parts - the weighted share of what is foreign; at most 3
IOU_RIGHT = 0.70  # an object is right from this IoU on
FOREIGN_MOST = 0.03  # share of the pixels of a strictly right picture that belong to nothing
MATCH_REACH = 0.30  # RGB distance at which a pixel is a drawing's by e^-1
RING = 6  # pixels around a drawing where what is not ground counts against its IoU
WIDE = 3  # pixels that an object reaches beyond its drawing


def _joined(masks: torch.Tensor, owner: torch.Tensor, images: int) -> torch.Tensor:
    """The coverage by all objects of an image, WIDE pixels wider, (images, SIZE, SIZE)."""
    cover = torch.zeros(images, SIZE, SIZE)
    for mask, k in zip(masks, owner.tolist(), strict=True):
        cover[k] = torch.maximum(cover[k], mask)
    return F.max_pool2d(cover, 2 * WIDE + 1, 1, WIDE)


def _fits(images: torch.Tensor, found: Found, strange: torch.Tensor):
    """IoU (N,) of every found object, and the mean squared error (N,) inside it.

    Intersection: the covered pixels that have the drawing's colour, as means of 3 x 3. Union: all
    covered pixels, and what is strange to the ground around them, but for two pixels of edge.
    """
    iou, error = torch.zeros(len(found.owner)), torch.zeros(len(found.owner))
    for size in SIZES:
        rows = (found.place[:, 2] == size).nonzero()[:, 0]
        if not len(rows):
            continue
        colour, cover = (part[found.name[rows]] for part in sprites(size))
        owner, place = found.owner[rows], found.place[rows]
        gap = (windows(images, owner, place, size, 0) - colour) * cover[:, None]
        error[rows] = gap.square().mean(1).sum((1, 2)) / cover.square().sum((1, 2))
        soft = F.avg_pool2d(gap, 3, 1, 1) / F.avg_pool2d(cover, 3, 1, 1).clamp(min=0.2)[:, None]
        match = torch.exp(-soft.square().sum(1) / MATCH_REACH**2)
        around = windows(strange[:, None], owner, place, size, RING)[:, 0]
        wide = F.max_pool2d(F.pad(cover, (RING,) * 4), 5, 1, 2)
        more = (around * (1 - wide)).sum((1, 2))
        iou[rows] = (cover * match).sum((1, 2)) / (cover.sum((1, 2)) + more)
    return iou, error


def _judge(found: Found, iou: list[float], scenes: list[Scene]):
    """The parts of the score that follow from the objects alone, and by image the objects asked
    for."""
    parts = {name: [] for name in ("iou", "relation", "count", "attributes", "strict")}
    pieces, matched = [[] for _ in scenes], []
    for row, owner in enumerate(found.owner.tolist()):
        pieces[owner].append(row)
    names = names_of(found)
    centres = (found.place[:, :2] + found.place[:, 2:] / 2).tolist()
    for scene, mine in zip(scenes, pieces, strict=True):
        free, chosen = sorted(mine, key=lambda row: -iou[row]), []
        for name in scene.slots:  # copies are alike: the best first is the best of all ways
            row = next((row for row in free if names[row] == name), -1)
            chosen.append(row)
            if row >= 0:
                free.remove(row)
        fits = [iou[row] if row >= 0 else 0.0 for row in chosen]
        right, count = [fit >= IOU_RIGHT for fit in fits], len(mine) == len(chosen)
        relation = relation_share(scene, chosen, centres) if scene.relation else float(count)
        for name, value in (
            ("iou", sum(fits) / len(fits)),
            ("relation", relation),
            ("count", count),
            ("attributes", sum(right) / len(right)),
            ("strict", count and all(right) and relation == 1),
        ):
            parts[name].append(float(value))
        matched.append([row for row in chosen if row >= 0])
    return {name: torch.tensor(values) for name, values in parts.items()}, matched


def _score(images: torch.Tensor, scenes: list[Scene]) -> dict[str, torch.Tensor]:
    found, n = find_objects(images), len(images)
    masks = masks_of(found)
    outside = (_joined(masks, found.owner, n) < 0.01).float()
    colour, bands = features(images, outside)
    nearest = nearest_ground(colour, bands)
    strange = strangeness(images, nearest)
    iou, error = _fits(images, found, strange)
    parts, matched = _judge(found, iou.tolist(), scenes)
    clean = torch.zeros(n)
    for k, rows in enumerate(matched):
        if rows:
            clean[k] = closeness(error[rows]).mean()
    rows = torch.tensor(sum(matched, []), dtype=torch.long)
    asked = _joined(masks[rows], found.owner[rows], n)
    parts["foreign"] = (strange * (asked < 0.01)).mean((1, 2))
    parts["strict"] = parts["strict"] * (parts["foreign"] <= FOREIGN_MOST)
    ground = torch.tensor([GROUNDS.index(scene.ground) for scene in scenes])
    parts["ground"] = (nearest == ground).float()
    parts["background"] = likeness(colour, bands, ground)
    real = natural().bands[ground].exp2()
    parts["texture_std"] = (bands[:, 1:3].square().sum(1) / real[:, 1:3].square().sum(1)).sqrt()
    parts["fine_std"] = bands[:, 0] / real[:, 0]
    parts["clean"] = clean
    parts["noise"] = noise_residual(images.movedim(1, -1))[0].float()
    parts["reward"] = reward_of(parts)
    return parts


def score_images(
    images: torch.Tensor, captions: list[str], chunk: int = 16
) -> dict[str, torch.Tensor]:
    """Scores (B, 3, 128, 128) images in [0, 1] against their captions; every value is (B,) float32.

    iou         mean over the asked objects of the found one's IoU with its drawing, or 0
    relation    share of the asked relations that hold; of a caption without one: the same as count
    count       1 when as many objects are found as asked
    attributes  share of the asked objects that are there with an IoU >= IOU_RIGHT
    strict      1 when count, all objects and all relations are right, and less than FOREIGN_MOST of
                the picture is neither an object nor ground
    background  likeness to the asked ground, in colour and in the strength of its detail by size
    ground      1 when the asked ground is the nearest of all
    clean       closeness (PSNR) of the objects asked for to their drawings
    foreign     share of the pixels that are neither an object asked for nor of the ground's colours
    texture_std strength of the detail of 1 to 4 pixels in the ground, 1 as in true ones
    fine_std    the same of all finer detail
    noise       high-frequency noise of report.noise, beside the reward and never a part of it
    reward      iou + 0.5 (relation + background + clean + count) - 2 foreign

    Raises ValueError on a caption outside the grammar, another image size, or lengths that differ.
    """
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images were given with {len(captions)} captions.")
    scenes = [parse_caption(caption) for caption in captions]
    images = images.detach().float().cpu()
    rows = range(0, len(scenes), chunk)
    parts = [_score(images[i : i + chunk], scenes[i : i + chunk]) for i in rows]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
