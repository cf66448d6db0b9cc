"""Captioned scenes: the little world that the embedded text-to-image model was trained on.

A scene is one to three coloured shapes on one of eight backgrounds, and its caption says all of
it, in the manner of T2I-CompBench (attribute binding, spatial relation, count): "two red
circles above a blue star on a dark rough background". Everything is rendered from signed
distances, so the true mask of every object is known.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass

import torch

from .drawing import Grammar, Pick

SIZE = 64  # pixels, square
COLOURS = {
    "red": (0.87, 0.16, 0.16),
    "green": (0.13, 0.65, 0.27),
    "blue": (0.15, 0.35, 0.90),
    "yellow": (0.95, 0.79, 0.12),
    "purple": (0.58, 0.20, 0.78),
    "cyan": (0.10, 0.74, 0.80),
}
SHAPES = ("circle", "square", "triangle", "star")
RELATIONS = ("left of", "right of", "above", "below")
TONES = {"dark": (0.13, 0.15, 0.20), "light": (0.90, 0.89, 0.85)}
TEXTURES = ("plain", "striped", "dotted", "rough")
KINDS = ("single", "pair", "count", "group", "chain")
KIND_WEIGHTS = (0.15, 0.30, 0.15, 0.20, 0.20)
MAX_OBJECTS = 3
ROUGH_STD, ROUGH_BLUR = (
    0.10,
    1.8,
)  # standard deviation of the rough texture in [0, 1] units; blur in pixels
AREA = {
    "circle": 1.0,
    "square": 0.82,
    "triangle": 1.18,
    "star": 1.28,
}  # radius factor: shapes look equally large


@dataclass(frozen=True)
class Scene:
    """What a caption says. `objects`: (colour, shape) in caption order; `count`: copies of the
    first object.
    """

    kind: str
    objects: tuple[tuple[str, str], ...]
    relation: str | None
    count: int
    tone: str
    texture: str

    @property
    def slots(self) -> tuple[tuple[str, str], ...]:
        """(colour, shape) of every object drawn, copies written out, in layout order."""
        return (self.objects[0],) * self.count + self.objects[1:]

    @property
    def subject(self) -> str:
        """The caption without its background: what makes a combination."""
        names = [f"{colour} {shape}" for colour, shape in self.objects]
        first = (
            f"a {names[0]}"
            if self.count == 1
            else f"{('two', 'three')[self.count - 2]} {names[0]}s"
        )
        return first + "".join(f" {self.relation} a {name}" for name in names[1:])

    @property
    def caption(self) -> str:
        return f"{self.subject} on a {self.tone} {self.texture} background"

    @property
    def held_out(self) -> bool:
        """True for the tenth of all two- and three-object combinations that training never
        shows.
        """
        return len(self.objects) > 1 and zlib.crc32(self.subject.encode()) % 10 == 0


def drawn(pick: Pick, kind, objects, relation, count, texture) -> Scene:
    return Scene(kind, objects, relation, count, pick(tuple(TONES)), texture or pick(TEXTURES))


GRAMMAR = Grammar(
    KINDS, RELATIONS, TEXTURES, lambda pick: (pick(tuple(COLOURS)), pick(SHAPES)), drawn
)


def sample_scene(
    rng: torch.Generator,
    held_out: bool | None = None,
    texture: str | None = None,
    weights: tuple[float, ...] = KIND_WEIGHTS,
) -> Scene:
    """One random scene; `held_out` asks for (True) or excludes (False) the held-out combinations.

    weights: relative frequency of the KINDS.
    """
    return GRAMMAR.sample(rng, held_out, texture, weights)


def held_out_scenes(
    n: int,
    seed: int,
    compositions_only: bool = False,
    weights: tuple[float, ...] = KIND_WEIGHTS,
) -> list[Scene]:
    """`n` scenes that training never showed, a quarter of each texture, in turn.

    Pairs, groups and chains are held-out combinations. Single objects and counts have no held-out
    combinations; they come in their usual share, or not at all with `compositions_only`.
    weights: relative frequency of the KINDS.
    """
    return GRAMMAR.held_out(n, seed, compositions_only, weights)


_CAPTION = re.compile(
    r"^(a|two|three) (\w+) (\w+?)s?(?: (left of|right of|above|below) a (\w+) (\w+))?"
    r"(?: (left of|right of|above|below) a (\w+) (\w+))?"
    r" on a (dark|light) (plain|striped|dotted|rough) background$"
)


def parse_caption(caption: str) -> Scene:
    """The scene of a caption. Raises ValueError on a sentence outside the grammar."""
    found = _CAPTION.match(caption.strip())
    if not found:
        raise ValueError(
            f"{caption!r} is not a scene caption; expected for example "
            "'two red circles above a blue star on a dark rough background'."
        )
    number, c1, s1, r1, c2, s2, r2, c3, s3, tone, texture = found.groups()
    objects = tuple((c, s) for c, s in ((c1, s1), (c2, s2), (c3, s3)) if c)
    for colour, shape in objects:
        if colour not in COLOURS or shape not in SHAPES:
            raise ValueError(
                f"'{colour} {shape}' is not an object; colours are {', '.join(COLOURS)} "
                f"and shapes {', '.join(SHAPES)}."
            )
    count = ("a", "two", "three").index(number) + 1
    kind = {(1, 1): "single", (2, 1): "pair", (3, 1): "chain", (2, 2): "group"}.get(
        (len(objects), count), "count" if len(objects) == 1 else ""
    )
    if not kind or (r2 and r2 != r1):
        raise ValueError(
            f"{caption!r} mixes a count or two relations in a way that the scenes do not have."
        )
    return Scene(kind, objects, r1, count, tone, texture)


def layout(scene: Scene, rng: torch.Generator) -> torch.Tensor:
    """Where the objects are: (slots, 3) of centre x, centre y, radius in pixels, with jitter."""
    axis, sign = (0, 1) if scene.relation in ("left of", "right of", None) else (1, 1)
    if scene.relation in ("right of", "below"):
        sign = -1  # the first-named object lies on the far side
    half = SIZE / 2
    place = {
        "single": [(0, 0)],
        "pair": [(-15, 0), (15, 0)],
        "chain": [(-20, 0), (0, 0), (20, 0)],
        "group": [(-15, -15), (-15, 15), (15, 0)],
        "count": [(-15, 0), (15, 0)] if scene.count == 2 else [(-20, 0), (0, 0), (20, 0)],
    }[scene.kind]
    jitter, radius = {
        "single": (5, 15),
        "pair": (2.5, 11),
        "chain": (1.2, 7.6),
        "group": (2, 9.5),
        "count": (2.5, 11) if scene.count == 2 else (1.2, 7.6),
    }[scene.kind]
    if scene.kind == "chain" or (scene.kind == "count" and scene.count == 3):
        across = 6.0  # a row of three may wander across its own axis
    else:
        across = jitter
    rows = []
    for along, side in place:
        step = (torch.rand(3, generator=rng) * 2 - 1).tolist()
        point = [sign * along + jitter * step[0], side + across * step[1]]
        x, y = point if axis == 0 else point[::-1]
        rows.append((half + x, half + y, radius * (1 + 0.06 * step[2])))
    return torch.tensor(rows)


def distance(shape: str, x: torch.Tensor, y: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Signed distance in pixels (negative inside) of a shape of size r around the origin, y
    pointing down.
    """
    r = r * AREA[shape]
    if shape == "circle":
        return (x * x + y * y).sqrt() - r
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - r
    if shape == "triangle":  # equilateral, apex up; three half-planes
        slope = 3**0.5 / 2
        y = y - 0.12 * r
        return torch.maximum(slope * x.abs() - y / 2 - r / 2, y - r / 2)
    # five-pointed star: fold the plane into half a point; the line goes through tip and notch
    tip, notch = (
        torch.tensor([0.0, 1.0]),
        0.48 * torch.tensor([math.sin(math.pi / 5), math.cos(math.pi / 5)]),
    )
    normal = torch.tensor([tip[1] - notch[1], notch[0] - tip[0]])
    normal = normal / normal.norm()
    angle = torch.remainder(torch.atan2(x, -y) + math.pi / 5, 2 * math.pi / 5) - math.pi / 5
    length = (x * x + y * y).sqrt()
    return length * angle.sin().abs() * normal[0] + (length * angle.cos() - r) * normal[1]


def coverage(shapes: list[str], place: torch.Tensor) -> torch.Tensor:
    """Anti-aliased masks (n, SIZE, SIZE) in [0, 1] of n objects placed at (n, 3) centre x,
    centre y, radius.
    """
    grid = torch.arange(SIZE, device=place.device) + 0.5
    masks = torch.zeros(len(shapes), SIZE, SIZE, device=place.device)
    for shape in SHAPES:  # one pass a shape, over all its objects at once
        rows = [i for i, name in enumerate(shapes) if name == shape]
        if rows:
            cx, cy, r = place[rows].unbind(1)
            x = grid[None, None, :] - cx[:, None, None]
            y = grid[None, :, None] - cy[:, None, None]
            masks[rows] = (0.5 - distance(shape, x, y, r[:, None, None])).clamp(0, 1)
    return masks


def rough_field(count: int, rng: torch.Generator) -> torch.Tensor:
    """Gaussian texture (count, SIZE, SIZE): white noise blurred by ROUGH_BLUR pixels, standard
    deviation ROUGH_STD.
    """
    reach = 6
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / ROUGH_BLUR) ** 2)
    taps = taps / taps.square().sum().sqrt()  # keeps white noise at unit variance along one axis
    noise = torch.randn(count, 1, SIZE + 2 * reach, SIZE + 2 * reach, generator=rng)
    noise = torch.nn.functional.conv2d(noise, taps.view(1, 1, 1, -1))
    return ROUGH_STD * torch.nn.functional.conv2d(noise, taps.view(1, 1, -1, 1))[:, 0]


def backdrop(tone: str, texture: str) -> torch.Tensor:
    """The deterministic part of a background, (3, SIZE, SIZE); `rough` is a plain tone with
    room for its texture.
    """
    grid = torch.arange(SIZE) + 0.5
    x, y = grid[None, :], grid[:, None]
    sign = 1.0 if tone == "dark" else -1.0
    pattern = torch.zeros(SIZE, SIZE)
    if texture == "striped":
        pattern = 0.16 * ((torch.remainder(x + y, 8.0) - 4).abs() - 1.5).clamp(0, 1)
    if texture == "rough":
        pattern = torch.full_like(pattern, 0.16)
    if texture == "dotted":
        px, py = torch.remainder(x, 8.0) - 4, torch.remainder(y, 8.0) - 4
        pattern = 0.26 * (2.0 - (px * px + py * py).sqrt()).clamp(0, 1)
    return torch.tensor(TONES[tone])[:, None, None] + sign * pattern


BACKDROPS = {(tone, texture): backdrop(tone, texture) for tone in TONES for texture in TEXTURES}


def render(
    scenes: list[Scene], rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws scenes. Returns images (n, 3, SIZE, SIZE) in [0, 1], true object masks (n,
    MAX_OBJECTS, SIZE, SIZE) and places (n, MAX_OBJECTS, 3); unused object rows are zero."""
    places = torch.zeros(len(scenes), MAX_OBJECTS, 3)
    owner, shapes, colours = [], [], []
    for i, scene in enumerate(scenes):
        places[i, : len(scene.slots)] = layout(scene, rng)
        for j, (colour, shape) in enumerate(scene.slots):
            owner.append((i, j))
            shapes.append(shape)
            colours.append(COLOURS[colour])
    i, j = torch.tensor(owner).unbind(1)
    masks = torch.zeros(len(scenes), MAX_OBJECTS, SIZE, SIZE)
    masks[i, j] = coverage(shapes, places[i, j])
    paint = torch.zeros(len(scenes), MAX_OBJECTS, 3)
    paint[i, j] = torch.tensor(colours)
    image = torch.stack([BACKDROPS[s.tone, s.texture] for s in scenes])
    rough = [k for k, s in enumerate(scenes) if s.texture == "rough"]
    if rough:
        image[rough] = image[rough] + rough_field(len(rough), rng)[:, None]
    for k in range(MAX_OBJECTS):
        cover = masks[:, k, None]
        image = image * (1 - cover) + paint[:, k, :, None, None] * cover
    return image.clamp(0, 1), masks, places
