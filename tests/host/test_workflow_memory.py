"""The images of a pass are as many as ComfyUI says fit, and how they are cut changes no number."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workflow_files import generators, loaded, module_of

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
from async_timestep.harness import graphs
from async_timestep.harness.tiny_families import load_family
from async_timestep.training.backbones.comfy.memory import (
    MARGIN,
    Memory,
    images_that_fit,
    memory_of,
    required_by,
)  # fmt: skip
from async_timestep.training.grpo.rollout import Actor, rollout
from async_timestep.training.run.config import PolicyConfig

MIB, GIB = 2**20, 2**30
OTHER = "a purple star above a green circle on a light rough background"
BYTES = st.integers(0, 200 * GIB)


@given(BYTES, BYTES, BYTES, st.integers(0, 4 * GIB), st.integers(1, 60 * GIB), BYTES,
       st.integers(1, 70_000))  # fmt: skip
def test_over_all_cards_and_models(free, held, weights, reserve, each, fixed, count):
    """In fractions, by dividing: the weights are on the card, or a half of it is for images."""
    asked = []

    def required(images: int) -> int:
        asked.append(images)
        return fixed + each * images

    whole = Fraction(free) + held - reserve
    room = whole - weights if 2 * weights <= whole else whole / 2
    wanted = min(max(math.floor((room - fixed) / each), 1), count)
    assert images_that_fit(required, Memory(free, held, weights, reserve).room, count) == wanted
    assert all(1 < images <= count for images in asked)  # one is never asked about
    assert len(asked) <= count.bit_length()


def test_a_card_of_12_gib():
    card = Memory(free=2 * GIB, held=9.4 * GIB, reserve=0.4 * GIB)
    rooms = {5: 6, 5.5: 5.5, 10: 5.5, 30: 5.5}  # SDXL stays on the card, Flux is streamed in part
    for weights, room in rooms.items():
        assert Memory(card.free, card.held, weights * GIB, card.reserve).room == room * GIB


def conds_of(positive: list, negative: list) -> dict[str, list[dict]]:
    """As a guider has them."""
    convert = comfy.sampler_helpers.convert_cond
    return {"positive": convert(positive), "negative": convert(negative)}


@pytest.fixture(scope="module", params=["sdxl", "sd35", "flux"])
def tiny(request, families, tmp_path_factory):
    """(MODEL, conds, shape of an empty latent) of a tiny file."""
    if request.param == "sdxl":
        model, *conds, latent = load_family("sdxl", tmp_path_factory.getbasetemp())
    else:
        model, *conds, latent = families[request.param]
    return model, conds_of(*conds), tuple(latent.shape)


@pytest.mark.parametrize("card", [False, True])
def test_it_is_comfyuis_own_estimate(tiny, card, monkeypatch):
    """card: with the attention that there is on a card. There is none here, so ComfyUI is told."""
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: card)
    model, conds, shape = tiny
    dtype = torch.finfo(model.model.get_dtype_inference()).bits // 8
    for size in (8, 64, 128, 256):
        required = required_by(model, conds, (*shape[:2], size, size))
        area = size * size * (0.01 * dtype if card else 0.15) * model.model.memory_usage_factor
        for count in (1, 2, 3, 16, 64):
            both, one = comfy.sampler_helpers.estimate_memory(
                model, [count, shape[1], size, size], conds
            )
            assert required(count) == pytest.approx(MARGIN * one)
            assert required(2 * count) == pytest.approx(MARGIN * both)
            assert required(count) == pytest.approx(MARGIN * count * area * MIB)
            room = required(count) * (1 + 1e-9)
            assert images_that_fit(required, room) == count
            assert images_that_fit(required, room * 0.99) == max(count - 1, 1)


def test_reference_pictures_count_for_every_image(families, monkeypatch):
    """What ComfyUI's sampler asks for a batch that it is given, with and without references."""
    model, positive, negative, latent = families["flux"]
    references = {"reference_latents": [torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 12, 8)]}
    with_both = [[text[0], {**text[1], **references}] for text in (positive[0], negative[0])]
    asked, network = defaultdict(list), model.model
    own = network.memory_required
    batches = (1, 3)

    def spied(shape, cond_shapes={}):  # noqa: B006 - as it is called
        asked[shape[0]].append(own(shape, cond_shapes=cond_shapes))
        return own(shape, cond_shapes=cond_shapes)

    for conds in ((positive, negative), [[one] for one in with_both]):
        required = required_by(model, conds_of(*conds), (1, 16, 8, 8))
        for count in batches:
            asked.clear()
            with monkeypatch.context() as patch:
                patch.setattr(network, "memory_required", spied)
                noise = latent.repeat(count, 1, 1, 1) + 1.0
                comfy.sample.sample(
                    model, noise, 1, 3.0, "euler", "simple", *conds, noise, disable_pbar=True
                )
            # the loader asks with the references of one image, the sampler with those of all
            assert MARGIN * max(asked[2 * count]) == pytest.approx(required(2 * count))
    assert required(1) == pytest.approx(required_by(model, conds_of(positive, negative),
                                                    (1, 16, 15, 15))(1) * 224 / 225)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pack):
    return loaded(tmp_path_factory.mktemp("graph"), graphs.stock())


def test_on_a_cpu_nothing_is_cut_while_there_is_memory(whole):
    found = memory_of(whole.model, whole.guider.original_conds)
    assert found == Memory(found.free) and found.room == found.free
    assert GIB / 4 < found.room <= psutil.virtual_memory().total
    assert whole.most >= 8
    assert whole.parts(whole.encode([OTHER, graphs.PROMPT] * 4)) == [list(range(8))]


def test_parts_of_a_batch_are_the_whole_batch(whole, tmp_path):
    shape = tuple(whole.latent.shape)
    required = required_by(whole.model, whole.guider.original_conds, shape)
    batch = images_that_fit(required, required(3))
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
