"""The exact judge of the laboratory: compares the objects that are found in an image with its
caption. Nothing in it is learnt.

    captions = ["a red circle above a blue star on a dark rough background"]
    score_images(images, captions)["strict"]  # (B,)

Real scenes score 2.98 of 3, a shuffled caption 0.6.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F

from ...report.noise import noise_residual
from .find import NAMES, PALETTE, Objects, find_objects
from .scenes import SHAPES, TEXTURES, TONES, Scene, backdrop, coverage, parse_caption

# reward = iou + the weighted parts - the weighted share of foreign colour; at most 3
RELATION_WEIGHT, BACKGROUND_WEIGHT, CLEAN_WEIGHT, COUNT_WEIGHT = 0.5, 0.5, 0.5, 0.5
FOREIGN_WEIGHT = 2.0
IOU_RIGHT = 0.70  # a slot is right from this IoU on (with the right colour and best shape)
RELATION_MARGIN = 4.0  # pixels between two centres
PIECES_MAX = 5  # the largest pieces of an image that are matched with the slots
PSNR_ZERO, PSNR_ONE = 12.0, 30.0  # dB at which closeness is 0 and 1
ROUGH_REAL = 0.0872  # low-passed texture std of rendered rough backgrounds (n = 2000)
TONE_REACH = 0.25  # error of a rough background's mean colour that makes it worth nothing
_BACKDROPS = {(tone, texture): backdrop(tone, texture) for tone in TONES for texture in TEXTURES}


def _match(colours: list[int], ious: list[list[float]], scene: Scene) -> list[int]:
    """Which piece fills each slot (-1: none): of the asked colour, largest sum of IoU with the
    asked shapes."""
    table = []
    for colour, shape in scene.slots:
        c, s = NAMES.index(colour), SHAPES.index(shape)
        row = [iou[s] if found == c else 0.0 for found, iou in zip(colours, ious, strict=True)]
        table.append(row + [0.0] * len(scene.slots))  # a slot may stay empty
    best = max(
        itertools.permutations(range(len(table[0])), len(table)),
        key=lambda order: sum(row[j] for row, j in zip(table, order, strict=True)),
    )
    return [j if row[j] > 0 else -1 for row, j in zip(table, best, strict=True)]


def relation_share(scene: Scene, chosen: list[int], centres: list[list[float]]) -> float:
    """Share of the object pairs of neighbouring groups that lie as the caption says; a missing one
    is wrong.

    "left of": the centre lies further left, by more than it lies higher or lower and by
    RELATION_MARGIN at least.
    """
    axis = 0 if scene.relation in ("left of", "right of") else 1
    sign = 1 if scene.relation in ("left of", "above") else -1
    groups = [chosen[: scene.count], *[[j] for j in chosen[scene.count :]]]
    results = []
    for first, second in itertools.pairwise(groups):
        for i, j in itertools.product(first, second):
            good = i >= 0 and j >= 0
            if good:
                step = [b - a for a, b in zip(centres[i], centres[j], strict=True)]
                good = sign * step[axis] > max(abs(step[1 - axis]), RELATION_MARGIN)
            results.append(float(good))
    return sum(results) / len(results)


def _judge(objects: Objects, scenes: list[Scene]) -> tuple[dict[str, torch.Tensor], list, list]:
    """The parts of the score that follow from the objects alone; and, by image, the other and the
    matched pieces."""
    parts = {name: [] for name in ("iou", "relation", "count", "attributes", "strict")}
    pieces, others, matched = [[] for _ in scenes], [], []
    for row in objects.area.argsort(descending=True).tolist():
        pieces[int(objects.owner[row])].append(row)
    iou, shape, colour = objects.iou.tolist(), objects.shape.tolist(), objects.colour.tolist()
    centre = objects.place[:, 0, :2].tolist()  # a circle's centre is the centroid
    for scene, mine in zip(scenes, pieces, strict=True):
        large = mine[:PIECES_MAX]
        chosen = _match([colour[r] for r in large], [iou[r] for r in large], scene)
        fits, right = [], []
        for j, (_, name) in zip(chosen, scene.slots, strict=True):
            s = SHAPES.index(name)
            fits.append(iou[large[j]][s] if j >= 0 else 0.0)
            right.append(j >= 0 and fits[-1] >= IOU_RIGHT and shape[large[j]] == s)
        count = len(mine) == len(right)
        relation = (
            relation_share(scene, chosen, [centre[r] for r in large])
            if scene.relation
            else float(count)
        )
        for name, value in (
            ("iou", sum(fits) / len(fits)),
            ("relation", relation),
            ("count", count),
            ("attributes", sum(right) / len(right)),
            ("strict", count and all(right) and relation == 1),
        ):
            parts[name].append(float(value))
        matched.append([large[j] for j in chosen if j >= 0])
        others.append([r for r in mine if r not in matched[-1]])
    return {name: torch.tensor(values) for name, values in parts.items()}, others, matched


def _paint(
    objects: Objects, orders: list[list[int]], image: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paints pieces over (B, 3, H, W) in the given order; also returns their joint coverage (B, H,
    W)."""
    image, cover = image.clone(), torch.zeros_like(image[:, 0])
    for turn in range(max(map(len, orders), default=0)):
        rows = torch.tensor([order[turn] for order in orders if len(order) > turn])
        shape, owner = objects.shape[rows], objects.owner[rows]
        masks = coverage([SHAPES[k] for k in shape.tolist()], objects.place[rows, shape])
        paint = torch.where(objects.colour[rows, None] < 0, 0.5, PALETTE[objects.colour[rows]])
        image[owner] += masks[:, None] * (paint[:, :, None, None] - image[owner])
        cover[owner] = torch.maximum(cover[owner], masks)
    return image, cover


def _blur(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Gaussian low-pass (sigma 1 pixel) of (B, C, H, W), over the pixels where `weight` (B, H, W)
    is one."""
    taps = torch.exp(-0.5 * torch.arange(-3.0, 4.0) ** 2)
    taps = taps / taps.sum()

    def low(x):
        x = F.conv2d(x.flatten(0, 1)[:, None], taps.view(1, 1, 1, -1), padding=(0, 3))
        return F.conv2d(x, taps.view(1, 1, -1, 1), padding=(3, 0))

    weight = weight[:, None]
    return low(images * weight).view_as(images) / low(weight).clamp(min=1e-3)


def closeness(error: torch.Tensor) -> torch.Tensor:
    """Mean squared error -> [0, 1], linear in PSNR between PSNR_ZERO and PSNR_ONE dB."""
    psnr = -10 * error.clamp(min=1e-8).log10()
    return ((psnr - PSNR_ZERO) / (PSNR_ONE - PSNR_ZERO)).clamp(0, 1)


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Mean of (B, H, W) over a mask (B, H, W); zero where the mask is empty."""
    return (values * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)


def _score(images: torch.Tensor, scenes: list[Scene]) -> dict[str, torch.Tensor]:
    objects = find_objects(images)
    parts, others, matched = _judge(objects, scenes)
    ground = torch.stack([_BACKDROPS[scene.tone, scene.texture] for scene in scenes])
    rough = torch.tensor([scene.texture == "rough" for scene in scenes])
    parsed, extra = _paint(objects, others, ground)
    parsed, asked = _paint(objects, matched, parsed)
    wide = F.max_pool2d(
        torch.stack([asked, torch.maximum(asked, extra)], 1), 3, 1, 1
    )  # plus a pixel
    parts["foreign"] = (objects.core & (wide[:, 0] < 0.01)).float().mean((1, 2))
    outside = (wide[:, 1] < 0.01).float()
    low = _blur(images, outside)
    grey = low.mean(1)
    spread = (grey - _mean(grey, outside)[:, None, None]).square()
    parts["texture_std"] = _mean(spread, outside).sqrt()
    error = (images - ground).square().mean(1)
    shift = torch.stack([_mean(images[:, c] - ground[:, c], outside).abs() for c in range(3)]).amax(
        0
    )
    texture = (1 - (parts["texture_std"] / ROUGH_REAL - 1).abs()).clamp(0, 1)
    texture = texture * (1 - shift / TONE_REACH).clamp(0, 1)
    parts["background"] = torch.where(rough, texture, closeness(_mean(error, outside)))
    # a rough texture has no one truth: there, clean asks only that nothing finer than the low-pass
    # is in it
    truth = torch.where(rough[:, None, None, None] & (outside > 0)[:, None], low, parsed)
    known = torch.where(
        rough[:, None, None], (outside > 0) | (torch.maximum(asked, extra) > 0.99), True
    )
    parts["clean"] = closeness(_mean((truth - images).square().mean(1), known))
    parts["noise"] = noise_residual(images.movedim(1, -1))[0].float()
    parts["reward"] = reward_of(parts)
    return parts


def reward_of(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum of a judge's parts (B,), at most 3."""
    return (
        parts["iou"]
        + RELATION_WEIGHT * parts["relation"]
        + BACKGROUND_WEIGHT * parts["background"]
        + CLEAN_WEIGHT * parts["clean"]
        + COUNT_WEIGHT * parts["count"]
        - FOREIGN_WEIGHT * parts["foreign"]
    )


def score_images(
    images: torch.Tensor, captions: list[str], chunk: int = 32
) -> dict[str, torch.Tensor]:
    """Scores (B, 3, 64, 64) images in [0, 1] against their captions; every value is (B,) float32.

    iou         mean over the asked slots of the matched object's IoU with the asked shape, or 0
    relation    share of the asked relations that hold; of a caption without one: the same as count
    count       1 when as many objects are found as asked
    attributes  share of the slots with the right colour, best shape and IoU >= IOU_RIGHT
    strict      1 when count, all attributes and all relations are right: strict attribute accuracy
    background  closeness to the asked background; `rough` is judged by its texture_std and tone
    clean       closeness (PSNR) to the re-rendered parse on the asked background
    foreign     share of the pixels with strong colour that belongs to no object asked for
    texture_std standard deviation of the low-passed background
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
