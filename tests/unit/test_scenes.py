"""The little world: grammar, renderer, split, autoencoder and text table."""

from __future__ import annotations

import pytest
import torch

from async_timestep.training.tiny.scenes import (
    COLOURS,
    KINDS,
    MAX_OBJECTS,
    RELATIONS,
    ROUGH_STD,
    SHAPES,
    SIZE,
    TEXTURES,
    Scene,
    layout,
    parse_caption,
    render,
    rough_field,
    sample_scene,
)
from async_timestep.training.tiny.text import LENGTH, POOLED, WIDTH, TextTable, make_table
from async_timestep.training.tiny.vae import CHANNELS, LinearVAE, fit_vae


def scenes_of(n: int, seed: int = 0, **wanted) -> list[Scene]:
    rng = torch.Generator().manual_seed(seed)
    return [sample_scene(rng, **wanted) for _ in range(n)]


def test_caption_and_scene_are_the_same():
    scenes = scenes_of(500)
    assert all(parse_caption(scene.caption) == scene for scene in scenes)
    assert {scene.kind for scene in scenes} == set(KINDS)
    assert {scene.texture for scene in scenes} == set(TEXTURES)
    assert {scene.relation for scene in scenes} == {*RELATIONS, None}


@pytest.mark.parametrize(
    "caption",
    [
        "a red dog on a dark plain background",
        "a circle",
        "a pink circle on a dark plain background",
        "two red circles above a blue star above a red star on a dark plain background",
        "a red circle above a blue star left of a red star on a dark plain background",
    ],
)
def test_sentences_outside_the_grammar_are_refused(caption):
    with pytest.raises(ValueError):
        parse_caption(caption)


def test_held_out_combinations_stay_disjoint():
    shown = {scene.subject for scene in scenes_of(1500, held_out=False)}
    hidden = {scene.subject for scene in scenes_of(300, seed=1, held_out=True)}
    assert not shown & hidden
    assert all(len(parse_caption(s + " on a dark plain background").objects) > 1 for s in hidden)
    every = scenes_of(2000, seed=2)
    share = sum(s.held_out for s in every) / sum(len(s.objects) > 1 for s in every)
    assert 0.06 < share < 0.14


def test_the_background_does_not_move_a_combination_to_the_other_side():
    for scene in scenes_of(50, held_out=True):
        other = Scene(scene.kind, scene.objects, scene.relation, scene.count, "light", "striped")
        assert other.held_out


def test_layout_obeys_the_relation():
    rng = torch.Generator().manual_seed(3)
    for scene in scenes_of(300, seed=3):
        place = layout(scene, rng)
        assert place.shape == (len(scene.slots), 3)
        assert (place[:, :2] > 0).all() and (place[:, :2] < SIZE).all()
        if scene.relation is None:
            continue
        axis = 0 if scene.relation in ("left of", "right of") else 1
        sign = 1 if scene.relation in ("left of", "above") else -1
        groups = [place[: scene.count], *place[scene.count :, None]]
        for first, second in zip(groups, groups[1:], strict=False):
            step = sign * (second[:, None, axis] - first[None, :, axis])
            across = (second[:, None, 1 - axis] - first[None, :, 1 - axis]).abs()
            assert (step > across).all(), scene.caption


def test_masks_are_true():
    scenes = scenes_of(64, seed=4)
    images, masks, places = render(scenes, torch.Generator().manual_seed(4))
    assert images.shape == (64, 3, SIZE, SIZE) and masks.shape == (64, MAX_OBJECTS, SIZE, SIZE)
    assert images.min() >= 0 and images.max() <= 1
    for image, mask, place, scene in zip(images, masks, places, scenes, strict=True):
        for j in range(MAX_OBJECTS):
            if j >= len(scene.slots):
                assert mask[j].sum() == 0 and place[j].sum() == 0
                continue
            over = mask[j + 1 :].sum(0) > 0  # painted later
            inside = (mask[j] == 1) & ~over
            assert inside.sum() > 60
            paint = torch.tensor(COLOURS[scene.slots[j][0]])
            assert (image[:, inside] - paint[:, None]).abs().max() < 1e-5


def test_rendering_follows_its_generator():
    scenes = scenes_of(8, seed=5)
    one, two = (render(scenes, torch.Generator().manual_seed(6))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_rough_field_has_its_standard_deviation():
    field = rough_field(64, torch.Generator().manual_seed(7))
    assert abs(float(field.std()) / ROUGH_STD - 1) < 0.03


def test_autoencoder_round_trip(tmp_path):
    rng = torch.Generator().manual_seed(8)
    images = render([sample_scene(rng) for _ in range(400)], rng)[0]
    explained = fit_vae(images[:300], tmp_path / "vae.safetensors")
    vae = LinearVAE(tmp_path / "vae.safetensors")
    latents = vae.encode(images[300:])
    assert latents.shape == (100, CHANNELS, SIZE // 4, SIZE // 4)
    assert explained > 0.98 and 0.8 < float(latents.std()) < 1.2
    error = (vae.decode(latents) - images[300:]).square().mean((1, 2, 3))
    assert float(-10 * error.log10().mean()) > 30


def test_text_table(tmp_path):
    make_table(tmp_path / "text.safetensors", torch.Generator().manual_seed(9))
    table = TextTable(tmp_path / "text.safetensors")
    tokens, pooled = table([scene.caption for scene in scenes_of(100)] + [""])
    assert tokens.shape == (101, LENGTH, WIDTH) and pooled.shape == (101, POOLED)
    assert table.ids("two red circles") == table.ids("two red circle")  # plurals share a row
    with pytest.raises(ValueError, match="'dog'"):
        table(["a red dog on a dark plain background"])
    with pytest.raises(ValueError, match="at most"):
        table([" ".join(SHAPES * 4)])
