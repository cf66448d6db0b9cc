"""The pictures: captions, layouts and true masks; and the exact judge, which passes rendered ones,
notices every single fault, and falls with noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from async_timestep.training.pictures.find import find_objects, names_of
from async_timestep.training.pictures.grounds import GROUNDS, TILE, cut, tile
from async_timestep.training.pictures.scenes import (
    LARGE,
    RELATIONS,
    SIZE,
    SMALL,
    Scene,
    held_out_scenes,
    parse_caption,
    render,
    sample_scene,
)
from async_timestep.training.pictures.score import FOREIGN_MOST, score_images
from async_timestep.training.pictures.sprites import NAMES, plural, sprites

N = 48


@pytest.fixture(scope="module")
def world():
    rng = torch.Generator().manual_seed(0)
    scenes = [sample_scene(rng) for _ in range(N)]
    return scenes, render(scenes, rng)[0], [scene.caption for scene in scenes]


def scores_of(scene: Scene, caption: str, seed: int = 1) -> dict[str, float]:
    images = render([scene], torch.Generator().manual_seed(seed))[0]
    return {name: float(value) for name, value in score_images(images, [caption]).items()}


# Scenes


def test_captions_and_scenes_are_the_same_thing():
    rng = torch.Generator().manual_seed(1)
    for _ in range(300):
        scene = sample_scene(rng)
        assert parse_caption(scene.caption) == scene
    assert parse_caption("two butterflies above an apple on sand").objects == ("butterfly", "apple")
    assert parse_caption("a unicorn on cloth").caption == "a unicorn on cloth"


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a cat beside an apple on grass", "not a caption of the pictures"),
        ("a spoon on grass", "'spoon' is not an object; the objects are apple, lemon"),
        ("three cats left of an apple on sand", "has four objects; a picture has at most 3"),
    ],
)
def test_a_caption_outside_the_grammar(caption, said):
    with pytest.raises(ValueError, match=said):
        parse_caption(caption)


def test_a_tenth_of_the_combinations_is_held_out_whatever_their_ground():
    rng = torch.Generator().manual_seed(2)
    pairs = [s for s in (sample_scene(rng) for _ in range(3000)) if len(s.objects) == 2]
    share = sum(scene.held_out for scene in pairs) / len(pairs)
    assert 0.07 < share < 0.13
    assert all(replace(s, ground="sand").held_out == s.held_out for s in pairs)
    assert not any(sample_scene(rng, held_out=False).held_out for _ in range(300))
    shown = held_out_scenes(60, seed=3, compositions_only=True)
    assert all(scene.held_out for scene in shown)
    assert {scene.ground for scene in shown} == set(GROUNDS)


def test_masks_are_where_the_objects_are_and_never_overlap():
    rng = torch.Generator().manual_seed(3)
    scenes = [sample_scene(rng) for _ in range(N)]
    images, masks, places = render(scenes, rng)
    assert images.min() >= 0 and images.max() <= 1
    for scene, image, mask, place in zip(scenes, images, masks, places, strict=True):
        n = len(scene.slots)
        assert float(mask[:n].sum((1, 2)).min()) > 300 and not mask[n:].any()
        assert float(mask.sum(0).max()) <= 1 + 1e-5
        for name, own, (x, y, size) in zip(scene.slots, mask, place, strict=False):
            assert int(size) == (LARGE if n == 1 else SMALL)
            colour, _ = sprites(int(size))
            left, top = int(x - size / 2), int(y - size / 2)
            window = slice(top, top + int(size)), slice(left, left + int(size))
            solid = own[window] > 0.999
            there = image[:, window[0], window[1]]
            assert torch.allclose(there[:, solid], colour[NAMES.index(name)][:, solid], atol=0.01)


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_first_object_lies_where_the_caption_says(relation):
    scene = Scene("group", ("cat", "apple"), relation, 2, "sand")
    places = render([scene], torch.Generator().manual_seed(4))[2][0]
    axis = 0 if relation in ("left of", "right of") else 1
    sign = 1 if relation in ("left of", "above") else -1
    assert (sign * (places[2, axis] - places[:2, axis]) > 40).all()


def test_grounds_repeat_without_a_seam_and_differ_in_every_picture():
    for ground in GROUNDS:
        part = tile(ground)
        assert part.shape == (3, TILE, TILE) and part.min() >= 0 and part.max() <= 1
        seam = (part[:, :, 0] - part[:, :, -1]).abs().mean()
        inside = (part[:, :, 1:] - part[:, :, :-1]).abs().mean((0, 1))
        assert seam < 2 * inside.max(), ground
        rng = torch.Generator().manual_seed(5)
        assert not torch.equal(cut(ground, SIZE, rng), cut(ground, SIZE, rng))


# The judge


def test_true_pictures_are_right(world):
    _, images, captions = world
    scores = score_images(images, captions)
    assert all(value.shape == (N,) and value.isfinite().all() for value in scores.values())
    assert scores["strict"].min() == 1 and scores["ground"].min() == 1
    assert scores["iou"].min() > 0.9 and scores["foreign"].max() < 0.002
    assert scores["background"].mean() > 0.97 and scores["reward"].mean() > 2.9
    assert abs(float(scores["texture_std"].mean()) - 1) < 0.1


def test_every_object_is_found_on_every_ground():
    rng = torch.Generator().manual_seed(6)
    for start in range(0, len(NAMES), 2):
        pair = NAMES[start : start + 2]
        scenes = [Scene("pair", pair, "left of", 1, ground) for ground in GROUNDS]
        found = find_objects(render(scenes, rng)[0])
        assert sorted(names_of(found)) == sorted(pair * len(GROUNDS))


def test_other_captions_are_wrong(world):
    scenes, images, captions = world
    order = [(i + 1) % N for i in range(N)]
    same = [scenes[i].subject == scenes[j].subject for i, j in enumerate(order)]
    assert not any(same)
    assert score_images(images, [captions[j] for j in order])["strict"].max() == 0


FAULTS = {
    "another object": ("a cat left of an apple on sand", "a cat left of a lemon on sand"),
    "the other way round": ("a cat left of an apple on sand", "a cat right of an apple on sand"),
    "one too few": ("two cats on sand", "three cats on sand"),
    "one too many": ("two cats left of an apple on sand", "a cat left of an apple on sand"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_fault_is_noticed(fault):
    shown, asked = FAULTS[fault]
    right, wrong = (scores_of(parse_caption(shown), caption) for caption in (shown, asked))
    assert right["strict"] == 1 and wrong["strict"] == 0
    assert wrong["reward"] < right["reward"] - 0.2


def test_another_ground_costs_the_background_alone():
    scene = parse_caption("a cat left of an apple on sand")
    scores = scores_of(scene, replace(scene, ground="gravel").caption)
    assert scores["strict"] == 1 and scores["ground"] == 0 and scores["background"] < 0.3


def test_what_is_no_object_is_foreign():
    scene = parse_caption("a cat left of an apple on sand")
    images = render([scene], torch.Generator().manual_seed(7))[0]
    images[:, :, :24, :] = torch.tensor([0.1, 0.2, 0.9])[:, None, None]
    scores = score_images(images, [scene.caption])
    assert scores["foreign"] > FOREIGN_MOST and scores["strict"] == 0 and scores["count"] == 1


def test_it_falls_smoothly_with_noise(world):
    _, images, captions = world
    images, captions = images[:24], captions[:24]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(8))
    rows = [
        score_images((images + std * noise).clamp(0, 1), captions) for std in (0, 0.1, 0.2, 0.4)
    ]
    for name in ("iou", "reward", "clean"):
        values = [float(row[name].mean()) for row in rows]
        assert values == sorted(values, reverse=True), name
    assert float(rows[1]["iou"].mean()) > 0.85 and float(rows[-1]["iou"].mean()) < 0.4
    assert float(rows[1]["fine_std"].mean()) > 2  # noise is not texture


def test_a_flat_ground_is_seen():
    scene = parse_caption("a cat left of an apple on gravel")
    images, masks, _ = render([scene], torch.Generator().manual_seed(9))
    outside = masks.sum(1, keepdim=True) == 0
    mean = images.mean((2, 3), keepdim=True)
    flat = torch.where(outside, mean + 0.5 * (images - mean), images)
    before, after = (score_images(x, [scene.caption]) for x in (images, flat))
    assert 0.4 < float(after["texture_std"] / before["texture_std"]) < 0.6
    assert after["background"] < before["background"] - 0.3


def test_what_it_does_not_take():
    with pytest.raises(ValueError, match="1 images were given with 2 captions"):
        score_images(torch.zeros(1, 3, SIZE, SIZE), ["a cat on sand"] * 2)
    with pytest.raises(ValueError, match=r"Pictures are \(B, 3, 128, 128\)"):
        score_images(torch.zeros(1, 3, 64, 64), ["a cat on sand"])


def test_plurals():
    assert [plural(name) for name in ("cat", "fox", "strawberry")] == [
        "cats", "foxes", "strawberries",
    ]  # fmt: skip
