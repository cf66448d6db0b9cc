"""The exact judge on rendered scenes: right ones pass, and every single fault is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from async_timestep.training.evaluation.accuracy import picture, table
from async_timestep.training.tiny.find import NAMES, find_objects
from async_timestep.training.tiny.scenes import (
    COLOURS,
    SHAPES,
    TEXTURES,
    Scene,
    held_out_scenes,
    parse_caption,
    render,
    sample_scene,
)
from async_timestep.training.tiny.score import ROUGH_REAL, score_images
from async_timestep.training.tiny.scorer import SceneScorer, ScorerNetwork
from async_timestep.training.tiny.train_scorer import export, wrong_scenes
from async_timestep.training.tiny.vae import LinearVAE, fit_vae

N = 160


@pytest.fixture(scope="module")
def world():
    rng = torch.Generator().manual_seed(0)
    scenes = [sample_scene(rng) for _ in range(N)]
    return scenes, render(scenes, rng)[0], [scene.caption for scene in scenes]


@pytest.fixture(scope="module")
def vae(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    fit_vae(world[1], path)
    return LinearVAE(path)


def strict(scenes: list[Scene], captions: list[str]) -> float:
    images = render(scenes, torch.Generator().manual_seed(1))[0]
    return float(score_images(images, captions)["strict"].mean())


def test_real_scenes_are_right(world):
    _, images, captions = world
    scores = score_images(images, captions)
    assert scores["strict"].mean() >= 0.99
    assert scores["iou"].mean() > 0.98 and scores["foreign"].max() < 0.002
    assert scores["background"].mean() > 0.95 and scores["clean"].mean() > 0.98
    assert all(value.shape == (N,) and value.isfinite().all() for value in scores.values())


def test_autoencoder_round_trip_is_right(world, vae):
    _, images, captions = world
    scores = score_images(vae.decode(vae.encode(images)), captions)
    assert scores["strict"].mean() >= 0.97 and scores["reward"].mean() > 2.8


def test_shuffled_captions_are_wrong(world):
    _, images, captions = world
    scores = score_images(images, captions[1:] + captions[:1])
    assert scores["strict"].mean() < 0.03 and scores["reward"].mean() < 1.2


def test_noise_lowers_the_reward_and_shows_in_its_column(world):
    _, images, captions = world
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    clean, noisy = (score_images(x, captions) for x in (images, (images + noise).clamp(0, 1)))
    assert (noisy["reward"] < clean["reward"] - 0.1).all()
    assert noisy["noise"].mean() > clean["noise"].mean() + 0.01
    assert noisy["strict"].mean() > 0.95  # what is there is still seen


def test_swapped_colours_are_wrong(world):
    pairs = [
        s for s in world[0] if s.kind in ("pair", "group") and s.objects[0][0] != s.objects[1][0]
    ]
    swapped = []
    for scene in pairs:
        (c1, s1), (c2, s2) = scene.objects
        swapped.append(replace(scene, objects=((c2, s1), (c1, s2))))
    assert len(pairs) > 20
    assert strict(pairs, [s.caption for s in pairs]) == 1
    assert strict(swapped, [s.caption for s in pairs]) == 0


def test_a_missing_or_an_extra_object_is_wrong():
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    two = [Scene("count", (name,), None, 2, "dark", "rough") for name in names]
    three = [Scene("count", (name,), None, 3, "dark", "rough") for name in names]
    assert strict(two, [s.caption for s in two]) == 1
    assert strict(three, [s.caption for s in three]) >= 0.95  # tips of stars may touch
    assert strict(two, [s.caption for s in three]) == 0
    assert strict(three, [s.caption for s in two]) == 0


def test_every_single_fault_is_noticed(world):
    """One thing changed in the picture: strict is 0; for the background, its own part falls."""
    right, wrong = [], []
    for scene in world[0][:60]:
        for other in wrong_scenes(scene)[::5]:
            right.append(scene)
            wrong.append(other)
    scores = score_images(
        render(wrong, torch.Generator().manual_seed(3))[0], [s.caption for s in right]
    )
    background = torch.tensor(
        [(a.tone, a.texture) != (b.tone, b.texture) for a, b in zip(right, wrong, strict=True)]
    )
    assert scores["strict"][~background].mean() < 0.01
    assert scores["background"][background].max() < 0.8


def test_the_real_rough_texture_is_the_measure(world):
    scenes, images, captions = world
    rough = torch.tensor([scene.texture == "rough" for scene in scenes])
    measured = score_images(images, captions)["texture_std"][rough].mean()
    assert abs(float(measured) / ROUGH_REAL - 1) < 0.05
    flat = [replace(s, texture="plain") for s in scenes if s.texture == "rough"]
    images = render(flat, torch.Generator().manual_seed(4))[0]
    asked = [replace(s, texture="rough").caption for s in flat]
    assert score_images(images, asked)["background"].max() < 0.1


def test_relation_is_judged_apart_from_the_rest():
    scene = parse_caption("a red circle above a blue star on a dark rough background")
    other = replace(scene, relation="below")
    scores = score_images(render([other], torch.Generator().manual_seed(5))[0], [scene.caption])
    assert (scores["relation"], scores["attributes"], scores["count"]) == (0, 1, 1)
    assert scores["strict"] == 0


def parse_image(image: torch.Tensor) -> list[dict]:
    """What is seen in one image (3, 64, 64) in [0, 1], largest first: colour, shape, iou, x, y,
    radius (pixels)."""
    objects = find_objects(image[None])
    found = []
    for row in objects.area.argsort(descending=True).tolist():
        shape, colour = int(objects.shape[row]), int(objects.colour[row])
        x, y, radius = objects.place[row, shape].tolist()
        found.append(
            {
                "colour": NAMES[colour] if colour >= 0 else "none",
                "shape": SHAPES[shape],
                "iou": float(objects.iou[row, shape]),
                "x": x,
                "y": y,
                "radius": radius,
            }
        )
    return found


def test_parse_image_names_what_it_sees():
    scene = parse_caption("two red circles above a blue star on a light dotted background")
    image = render([scene], torch.Generator().manual_seed(6))[0][0]
    found = sorted((f["colour"], f["shape"]) for f in parse_image(image))
    assert found == [("blue", "star"), ("red", "circle"), ("red", "circle")]


def test_empty_and_grey_images_have_no_objects():
    images = torch.stack(
        [torch.zeros(3, 64, 64), torch.full((3, 64, 64), 0.5), torch.ones(3, 64, 64)]
    )
    scores = score_images(images, ["a red circle on a dark plain background"] * 3)
    assert scores["iou"].sum() == 0 and scores["count"].sum() == 0
    assert all(value.isfinite().all() for value in scores.values())


def test_the_batch_does_not_change_a_score(world):
    _, images, captions = world
    whole = score_images(images[:40], captions[:40], chunk=40)
    parts = score_images(images[:40], captions[:40], chunk=7)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_wrong_input_is_refused(world):
    _, images, captions = world
    with pytest.raises(ValueError, match="captions"):
        score_images(images[:2], captions[:1])
    with pytest.raises(ValueError, match="64"):
        score_images(torch.zeros(1, 3, 32, 32), captions[:1])
    with pytest.raises(ValueError, match="not a scene caption"):
        score_images(images[:1], ["a dog"])


def test_held_out_prompts_and_their_report(world):
    scenes = held_out_scenes(64, seed=1)
    assert all(s.held_out for s in scenes if len(s.objects) > 1)
    assert [s.texture for s in scenes[:4]] == list(TEXTURES)
    assert all(len(s.objects) > 1 for s in held_out_scenes(32, seed=2, compositions_only=True))
    text = table(score_images(world[1][:32], world[2][:32]), world[0][:32])
    assert "strict" in text and "all" in text
    assert picture(world[1][:3], world[2][:3], columns=2).width == 2 * (128 + 6) + 6


def test_wrong_scenes_differ_and_stay_in_the_grammar(world):
    for scene in world[0][:40]:
        others = wrong_scenes(scene)
        assert scene not in others and len(set(others)) > 5
        assert all(parse_caption(other.caption) == other for other in others)


def test_scorer_file_round_trip(world, tmp_path):
    torch.manual_seed(0)
    network = ScorerNetwork(40)
    export(network, tmp_path, {"vocabulary": '{"": 0, "red": 2, "circle": 3, "a": -1}'})
    path = tmp_path / "scorer.safetensors"
    assert path.stat().st_size < 2 * 2**20
    cosine = SceneScorer(path)(world[1][:4], ["a red circle"] * 4)
    assert cosine.shape == (4,) and (cosine.abs() <= 1).all()
    with pytest.raises(ValueError, match="'dog'"):
        SceneScorer(path)(world[1][:1], ["a dog"])
