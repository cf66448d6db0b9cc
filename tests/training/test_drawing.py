"""Both grammars' scenes are those of the plain loops with which the models were trained, draw by
draw: the data sets of a seed are for ever."""

from __future__ import annotations

import pytest
import torch

from async_timestep.training.pictures import scenes as pictures
from async_timestep.training.tiny import scenes as tiny


def picker(rng):
    return lambda options: options[int(torch.randint(len(options), (1,), generator=rng))]


def tiny_scene(rng, held_out, texture, weights):
    pick = picker(rng)
    while True:
        kind = tiny.KINDS[int(torch.multinomial(torch.tensor(weights), 1, generator=rng))]
        count = {"single": 1, "pair": 1, "chain": 1, "group": 2, "count": pick((2, 3))}[kind]
        names = {"single": 1, "count": 1, "pair": 2, "group": 2, "chain": 3}[kind]
        objects = tuple((pick(tuple(tiny.COLOURS)), pick(tiny.SHAPES)) for _ in range(names))
        if len(set(objects)) < names:
            continue
        relation = pick(tiny.RELATIONS) if names > 1 else None
        tone = pick(tuple(tiny.TONES))
        scene = tiny.Scene(kind, objects, relation, count, tone, texture or pick(tiny.TEXTURES))
        if held_out is None or scene.held_out == held_out:
            return scene


def picture_scene(rng, held_out, ground, weights):
    pick = picker(rng)
    while True:
        kind = pictures.KINDS[int(torch.multinomial(torch.tensor(weights), 1, generator=rng))]
        count = {"single": 1, "pair": 1, "group": 2, "count": pick((2, 3))}[kind]
        names = 1 if kind in ("single", "count") else 2
        objects = tuple(pick(pictures.NAMES) for _ in range(names))
        if len(set(objects)) < len(objects):
            continue
        relation = pick(pictures.RELATIONS) if len(objects) > 1 else None
        scene = pictures.Scene(kind, objects, relation, count, ground or pick(pictures.GROUNDS))
        if held_out is None or scene.held_out == held_out:
            return scene


def held_out(module, sample, varieties, n, seed, compositions_only, weights):
    rng = torch.Generator().manual_seed(seed)
    pairs = zip(module.KINDS, weights, strict=True)
    usual = sum(w for kind, w in pairs if kind in ("single", "count"))
    usual /= sum(weights)
    scenes = []
    for i in range(n):
        variety = varieties[i % len(varieties)]
        if not compositions_only and float(torch.rand((), generator=rng)) < usual:
            while len((scene := sample(rng, None, variety, weights)).objects) > 1:
                pass
        else:
            scene = sample(rng, True, variety, weights)
        scenes.append(scene)
    return scenes


GRAMMARS = [
    (tiny, tiny_scene, tiny.TEXTURES, (0.1, 0.2, 0.3, 0.2, 0.2)),
    (pictures, picture_scene, pictures.GROUNDS, (0.1, 0.3, 0.2, 0.4)),
]
NAMES = ("tiny", "pictures")


@pytest.mark.parametrize("grammar", GRAMMARS, ids=NAMES)
@pytest.mark.parametrize("wanted", [None, False, True])
@pytest.mark.parametrize("given", [False, True])
def test_scenes_are_drawn_as_ever(grammar, wanted, given):
    module, plain, varieties, other = grammar
    for seed, weights in ((0, module.KIND_WEIGHTS), (1, other)):
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        for i in range(60):
            variety = varieties[i % len(varieties)] if given else None
            found = module.sample_scene(ours, wanted, variety, weights)
            assert found == plain(theirs, wanted, variety, weights)
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("grammar", GRAMMARS, ids=NAMES)
@pytest.mark.parametrize("compositions_only", [False, True])
def test_held_out_scenes_are_those_of_ever(grammar, compositions_only):
    module, plain, varieties, other = grammar
    for weights in (module.KIND_WEIGHTS, other):
        found = module.held_out_scenes(80, 5, compositions_only, weights)
        assert found == held_out(module, plain, varieties, 80, 5, compositions_only, weights)
        assert all(scene.held_out for scene in found if len(scene.objects) > 1)
