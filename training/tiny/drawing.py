"""Scenes of a grammar drawn at random, and those of them that training never showed.

    grammar = Grammar(kinds, relations, textures, name, scene)
    grammar.sample(rng, held_out=False, variety=None, weights=weights)

The order of the draws is part of what was trained: another order is another data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Pick = Callable[[Sequence], Any]
NAMES = {"single": 1, "count": 1, "pair": 2, "group": 2, "chain": 3}  # in a caption
COPIES = {"single": 1, "pair": 1, "chain": 1, "group": 2}  # of the first object; of a count drawn


@dataclass(frozen=True)
class Grammar:
    """What the scenes are drawn from. varieties: what held-out scenes have in turn (a texture, a
    ground); name(pick): an object of a caption; scene(pick, kind, objects, relation, count,
    variety or None): the scene, with `objects` and `held_out`."""

    kinds: tuple[str, ...]
    relations: tuple[str, ...]
    varieties: tuple[str, ...]
    name: Callable[[Pick], Any]
    scene: Callable[..., Any]

    def sample(
        self,
        rng: torch.Generator,
        held_out: bool | None,
        variety: str | None,
        weights: tuple[float, ...],
    ) -> Any:
        """One random scene; held_out asks for (True) or excludes (False) the held-out combinations.
        weights: relative frequency of the kinds."""

        def pick(options: Sequence) -> Any:
            return options[int(torch.randint(len(options), (1,), generator=rng))]

        while True:
            kind = self.kinds[int(torch.multinomial(torch.tensor(weights), 1, generator=rng))]
            count = {**COPIES, "count": pick((2, 3))}[kind]
            objects = tuple(self.name(pick) for _ in range(NAMES[kind]))
            if len(set(objects)) < len(objects):
                continue
            relation = pick(self.relations) if len(objects) > 1 else None
            scene = self.scene(pick, kind, objects, relation, count, variety)
            if held_out is None or scene.held_out == held_out:
                return scene

    def held_out(
        self, n: int, seed: int, compositions_only: bool, weights: tuple[float, ...]
    ) -> list[Any]:
        """n scenes that training never showed, the varieties in turn.

        Combinations are held-out ones. Single objects and counts have none: they come in their
        usual share, or not at all with compositions_only.
        """
        rng = torch.Generator().manual_seed(seed)
        shares = zip(self.kinds, weights, strict=True)
        usual = sum(w for kind, w in shares if NAMES[kind] == 1) / sum(weights)
        scenes = []
        for i in range(n):
            variety = self.varieties[i % len(self.varieties)]
            if not compositions_only and float(torch.rand((), generator=rng)) < usual:
                while len((scene := self.sample(rng, None, variety, weights)).objects) > 1:
                    pass
            else:
                scene = self.sample(rng, True, variety, weights)
            scenes.append(scene)
        return scenes
