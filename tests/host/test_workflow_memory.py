"""The images of a pass are as many as ComfyUI says fit, and how they are cut changes no number."""

from __future__ import annotations

import psutil
import pytest
import torch
from workflow_files import generators, loaded, module_of

from async_timestep.harness import graphs
from async_timestep.training.backbones.comfy.memory import (
    MARGIN,
    beside_weights,
    images_that_fit,
    largest_batch,
    room_for_images,
)  # fmt: skip
from async_timestep.training.grpo.rollout import Actor, rollout
from async_timestep.training.run.config import PolicyConfig

GIB = 2**30
OTHER = "a purple star above a green circle on a light rough background"


@pytest.mark.parametrize(
    ("free", "count", "wanted"),
    [(100, 64, 9), (99, 64, 8), (1e9, 64, 64), (1e9, 1, 1), (20, 64, 1), (19, 64, 1), (0, 64, 1),
     (-5, 64, 1)],
)  # fmt: skip
def test_the_largest_batch_that_fits(free, count, wanted):
    asked = []

    def required(images: int) -> float:
        asked.append(images)
        return 10 + 10 * images

    assert largest_batch(required, free, count) == wanted
    assert all(1 < images <= count for images in asked)


def test_a_card_of_12_gib():
    assert beside_weights(11 * GIB, 5 * GIB) == 6 * GIB  # SDXL stays on the card
    assert beside_weights(11 * GIB, 10 * GIB) == 5.5 * GIB  # a part of Flux is streamed
    assert beside_weights(11 * GIB, 30 * GIB) == 5.5 * GIB


def test_it_is_the_models_own_estimate(families):
    model, _, _, latent = families["sd15"]
    for count in (1, 3, 8):
        free = MARGIN * model.model.memory_required([count, *latent.shape[1:]])
        assert images_that_fit(model, tuple(latent.shape), free) == count
        assert images_that_fit(model, tuple(latent.shape), free * 0.99) == max(count - 1, 1)
    large = (1, 4, 128, 128)  # a picture of 1024 pixels takes more
    assert images_that_fit(model, large, free) < images_that_fit(model, tuple(latent.shape), free)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pack):
    return loaded(tmp_path_factory.mktemp("graph"), graphs.stock())


def test_on_a_cpu_nothing_is_cut_while_there_is_memory(whole):
    room = room_for_images(whole.model)
    assert GIB / 4 < room <= psutil.virtual_memory().total
    assert whole.most >= 8
    assert whole.parts(whole.encode([OTHER, graphs.PROMPT] * 4)) == [list(range(8))]


def test_parts_of_a_batch_are_the_whole_batch(whole, tmp_path):
    free = MARGIN * whole.model.model.memory_required([3, *whole.latent.shape[1:]])
    batch = images_that_fit(whole.model, tuple(whole.latent.shape), free)
    parts = loaded(tmp_path, graphs.stock(), batch=batch)
    module, config = module_of(whole), PolicyConfig()
    prompts = [OTHER, graphs.PROMPT] * 4
    assert parts.parts(parts.encode(prompts)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    found = []
    for one in (whole, parts):
        actor = Actor(module, config, generators(8, 100))
        noise = one.noise(generators(8))
        found.append(rollout(one, actor, one.encode(prompts), noise, one.sigmas(4)))
    (x, a), (y, b) = found
    assert torch.allclose(x, y, atol=1e-4)
    for name in ("x", "v", "t", "t_star", "pooled", "raw", "r"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-4), name
