"""Captioned pictures: objects with a name, in relations and counts, on a ground of random texture.

"a cat left of an apple on grass", "two owls above a car on water", "three crowns on cloth": a
caption says all that is in a picture but the jitter of the layout and the ground's texture. The
true mask of every object is known.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import torch

from ..tiny.drawing import Grammar, Pick
from .grounds import GROUNDS, cut
from .sprites import NAMES, article, plural, sprites

SIZE = 128  # pixels, square
LARGE, SMALL = 64, 44  # pixels of an object alone, and of one of several
RELATIONS = ("left of", "right of", "above", "below")
KINDS = ("single", "pair", "count", "group")
KIND_WEIGHTS = (0.15, 0.45, 0.15, 0.25)
MAX_OBJECTS = 3
JITTER = {"single": 8, "pair": 5, "count": 4, "group": 4}  # pixels, in x and in y
PLACES = {  # centres against the picture's; the first object of a relation is on the left
    ("single", 1): ((0, 0),),
    ("pair", 1): ((-30, 0), (30, 0)),
    ("count", 2): ((-30, 0), (30, 0)),
    ("count", 3): ((-29, 27), (29, 27), (0, -27)),
    ("group", 2): ((-30, -28), (-30, 28), (30, 0)),
}
WORDS = ("a", "two", "three")


@dataclass(frozen=True)
class Scene:
    """What a caption says. objects: names in caption order; count: copies of the first."""

    kind: str
    objects: tuple[str, ...]
    relation: str | None
    count: int
    ground: str

    @property
    def slots(self) -> tuple[str, ...]:
        """The name of every object drawn, copies written out, in layout order."""
        return (self.objects[0],) * self.count + self.objects[1:]

    @property
    def subject(self) -> str:
        """The caption without its ground: what makes a combination."""
        name = self.objects[0]
        first = article(name) if self.count == 1 else f"{WORDS[self.count - 1]} {plural(name)}"
        return first + "".join(f" {self.relation} {article(name)}" for name in self.objects[1:])

    @property
    def caption(self) -> str:
        return f"{self.subject} on {self.ground}"

    @property
    def held_out(self) -> bool:
        """True for the tenth of all combinations of two names that training never shows."""
        return len(self.objects) > 1 and zlib.crc32(self.subject.encode()) % 10 == 0


def drawn(pick: Pick, kind, objects, relation, count, ground) -> Scene:
    return Scene(kind, objects, relation, count, ground or pick(GROUNDS))


GRAMMAR = Grammar(KINDS, RELATIONS, GROUNDS, lambda pick: pick(NAMES), drawn)


def sample_scene(
    rng: torch.Generator,
    held_out: bool | None = None,
    ground: str | None = None,
    weights: tuple[float, ...] = KIND_WEIGHTS,
) -> Scene:
    """One random scene; `held_out` asks for (True) or excludes (False) the held-out combinations.

    weights: relative frequency of the KINDS.
    """
    return GRAMMAR.sample(rng, held_out, ground, weights)


def held_out_scenes(
    n: int, seed: int, compositions_only: bool = False, weights: tuple[float, ...] = KIND_WEIGHTS
) -> list[Scene]:
    """`n` scenes that training never showed, the grounds in turn.

    Pairs and groups are held-out combinations. Single objects and counts have none; they come in
    their usual share, or not at all with `compositions_only`.
    """
    return GRAMMAR.held_out(n, seed, compositions_only, weights)


_CAPTION = re.compile(
    rf"^(an?|two|three) (\w+)(?: ({'|'.join(RELATIONS)}) an? (\w+))? on ({'|'.join(GROUNDS)})$"
)
_SINGULAR = {plural(name): name for name in NAMES}


def parse_caption(caption: str) -> Scene:
    """The scene of a caption. Raises ValueError on a sentence outside the grammar."""
    found = _CAPTION.match(caption.strip())
    if not found:
        raise ValueError(
            f"{caption!r} is not a caption of the pictures; expected for example "
            "'two cats left of an apple on grass'."
        )
    number, first, relation, second, ground = found.groups()
    count = 1 if number.startswith("a") else WORDS.index(number) + 1
    objects = (first if count == 1 else _SINGULAR.get(first, first), *([second] if second else []))
    for name in objects:
        if name not in NAMES:
            raise ValueError(f"{name!r} is not an object; the objects are {', '.join(NAMES)}.")
    kind = {(1, 1): "single", (2, 1): "pair", (1, 2): "count", (1, 3): "count", (2, 2): "group"}
    if (len(objects), count) not in kind:
        raise ValueError(f"{caption!r} has four objects; a picture has at most {MAX_OBJECTS}.")
    return Scene(kind[len(objects), count], objects, relation, count, ground)


def layout(scene: Scene, rng: torch.Generator) -> list[tuple[int, int, int]]:
    """Left edge, top edge and size in pixels of every slot, with jitter."""
    places, jitter = PLACES[scene.kind, scene.count], JITTER[scene.kind]
    size = LARGE if scene.kind == "single" else SMALL
    shift = torch.randint(-jitter, jitter + 1, (len(places), 2), generator=rng).tolist()
    sign = -1 if scene.relation in ("right of", "below") else 1
    rows = []
    for (x, y), (dx, dy) in zip(places, shift, strict=True):
        x, y = sign * x, y
        if scene.relation in ("above", "below"):
            x, y = y, x
        corner = (SIZE - size) // 2
        rows.append((corner + x + dx, corner + y + dy, size))
    return rows


def render(
    scenes: list[Scene], rng: torch.Generator, with_masks: bool = True
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Draws scenes. Returns images (n, 3, SIZE, SIZE) in [0, 1], the true masks of the objects (n,
    MAX_OBJECTS, SIZE, SIZE) or None, and places (n, MAX_OBJECTS, 3) of centre x, centre y, size;
    the rows of objects that are not there are zero."""
    images = torch.empty(len(scenes), 3, SIZE, SIZE)
    masks = torch.zeros(len(scenes), MAX_OBJECTS, SIZE, SIZE) if with_masks else None
    places = torch.zeros(len(scenes), MAX_OBJECTS, 3)
    for i, scene in enumerate(scenes):
        images[i] = cut(scene.ground, SIZE, rng)
        for j, (name, place) in enumerate(zip(scene.slots, layout(scene, rng), strict=True)):
            x, y, size = place
            colour, cover = (part[NAMES.index(name)] for part in sprites(size))
            images[i, :, y : y + size, x : x + size].lerp_(colour, cover.expand_as(colour))
            if masks is not None:
                masks[i, j, y : y + size, x : x + size] = cover
            places[i, j] = torch.tensor([x + size / 2, y + size / 2, size])
    return images, masks, places
