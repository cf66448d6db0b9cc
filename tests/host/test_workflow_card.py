"""How many images a card is given, by the real decisions of ComfyUI's own model management.

There is no card here. What is put in its place: a device of type cuda that models name, how many
bytes of it are free, and the moving of weights, which is only booked. Models have the widths of the
real ones and weights without numbers. All that is decided by bytes is ComfyUI's own code.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import comfy.controlnet
import comfy.model_management as management
import comfy.sampler_helpers
from async_timestep.harness.tiny_families import FAMILIES, new_model
from async_timestep.training.backbones.comfy.memory import (
    MARGIN,
    Memory,
    images_that_fit,
    memory_of,
    required_by,
)  # fmt: skip
from comfy.model_patcher import ModelPatcher

GIB = 2**30
CARD, META = torch.device("cuda", 0), torch.device("meta")
REAL = {  # what the published files have; the rest is as in the tiny ones
    "sdxl": {
        "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
    },
    "sd35_dual": {
        "depth": 24, "num_patches": 384**2, "pos_embed_max_size": 384,
        "x_block_self_attn_layers": list(range(13)),
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536},
        },
    },
    "flux": {
        "hidden_size": 3072, "num_heads": 24, "context_in_dim": 4096, "depth": 19,
        "depth_single_blocks": 38,
    },
}  # fmt: skip
PARAMETERS = {"sdxl": 2.57e9, "sd35_dual": 2.47e9, "flux": 11.9e9}  # of the published files
NOTHING = {"positive": [{}], "negative": [{}]}


class Booked(ModelPatcher):
    """Its weights are never moved; how many bytes of them would lie on the card is written down."""

    def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
        before = self.model.model_loaded_weight_memory
        after = min(max(before + extra_memory, 0), self.model_size())
        self.model.model_loaded_weight_memory = after
        return after - before

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return -self.partially_load(device_to, -memory_to_free)

    def detach(self, unpatch_all=True):
        self.model.model_loaded_weight_memory = 0


def booked(model: torch.nn.Module) -> Booked:
    return Booked(model, load_device=CARD, offload_device=torch.device("cpu"))


def weights_of(gib: float) -> torch.nn.Module:
    """So many bytes of weights, on no device."""
    module = torch.nn.Module()
    module.register_buffer("weight", torch.empty(int(gib * GIB), dtype=torch.uint8, device=META))
    return module


@pytest.fixture(scope="module", params=list(REAL))
def real(request, pack):
    """(family, its model in bfloat16, the shape of an empty latent of 1024 pixels a side)"""
    family = FAMILIES[request.param]
    family = replace(family, unet={**family.unet, **REAL[request.param]})
    model = new_model(family, torch.bfloat16, META)
    assert management.module_size(model) == pytest.approx(2 * PARAMETERS[request.param], rel=0.05)
    return request.param, model, (1, family.latent[1], 128, 128)


@pytest.fixture
def card(monkeypatch):
    """card(GiB, ratio) is put into this process: what a process with a card has."""
    loaded: list = []

    def put(gib: float, ratio: float = 0.0):
        def free(device=None, torch_free_too=False):
            assert device == CARD
            here = [one for one in loaded if one.device == CARD and one.model is not None]
            left = gib * GIB - sum(one.model_loaded_memory() for one in here)
            return (left, 0) if torch_free_too else left

        monkeypatch.setattr(management, "get_free_memory", free)
        monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", ratio)
        return SimpleNamespace(free=lambda: free(CARD), loaded=loaded)

    monkeypatch.setattr(management, "current_loaded_models", loaded)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    monkeypatch.setattr(management, "pytorch_attention_flash_attention", lambda: True)
    yield put
    loaded.clear()


@pytest.mark.parametrize("ratio", [0.0, 0.4])  # of ComfyUI's on NVIDIA, and on others
@pytest.mark.parametrize("gib", [3, 6, 8, 11.5, 16, 24, 80])
def test_what_is_chosen_fits_beside_the_weights(real, card, gib, ratio):
    name, network, shape = real
    network.model_loaded_weight_memory = 0
    card, model, text = card(gib, ratio), booked(network), booked(weights_of(min(gib / 2, 4.5)))
    management.load_models_gpu([text])
    assert card.free() == pytest.approx(gib * GIB - text.model_size())
    required, memory = required_by(model, NOTHING, shape), memory_of(model, NOTHING)
    assert memory.free + memory.held == pytest.approx(gib * GIB)
    count = images_that_fit(required, memory.room)

    estimate = comfy.sampler_helpers.estimate_memory(model, [count, *shape[1:]], NOTHING)
    management.load_models_gpu([model], *estimate[:1], minimum_memory_required=estimate[1])
    on_card, left = model.loaded_size(), card.free()
    assert count == 1 or left >= required(count) / MARGIN  # a pass of all of them fits
    if memory.weights <= (memory.free + memory.held - memory.reserve) / 2:
        assert on_card == model.model_size()
        assert count == 1 or left >= required(count)  # as ComfyUI's sampler wants to see it
    if count > 1:
        assert required(count + 1) > memory.room
    assert memory_of(model, NOTHING).room == pytest.approx(memory.room)  # whatever is loaded


def test_a_card_of_12_gb_samples_the_real_models(real, card):
    """More than one image of 1024 pixels at a time of each; 11.5 GiB of it are free."""
    name, network, shape = real
    card(11.5)
    model = booked(network)
    count = images_that_fit(required_by(model, NOTHING, shape), memory_of(model, NOTHING).room)
    assert count >= {"sdxl": 8, "sd35_dual": 8, "flux": 2}[name]


def test_what_lies_on_the_card_and_what_needs_it(real, card):
    """A text encoder gives way, a ControlNet stays; a model of the CPU and one that is gone are not
    asked."""
    _, network, shape = real
    network.model_loaded_weight_memory = 0
    card, model, text = card(24), booked(network), booked(weights_of(4))
    elsewhere = ModelPatcher(weights_of(7), torch.device("cpu"), torch.device("cpu"))
    elsewhere.model.model_loaded_weight_memory = elsewhere.model_size()
    dead = booked(weights_of(1))
    for one in (text, elsewhere, dead, model):
        card.loaded.append(management.LoadedModel(one))
    text.model.model_loaded_weight_memory = 3 * GIB
    model.model.model_loaded_weight_memory = 1 * GIB
    del dead, one
    assert [held.model is None for held in card.loaded] == [False, False, True, False]
    plain = memory_of(model, NOTHING)
    assert plain.held == 4 * GIB and plain.weights == model.model_size()
    assert plain.reserve == management.extra_reserved_memory()

    net = comfy.controlnet.ControlNet(weights_of(2.5), load_device=CARD)
    lora = comfy.controlnet.ControlLora({"a": torch.empty(3, 5), "b": torch.empty(7)})
    lora.set_previous_controlnet(net)
    conds = {"positive": [{"control": lora}], "negative": [{"control": lora}]}
    assert memory_of(model, conds) == replace(plain, weights=plain.weights + 2.5 * GIB)
    working = 22 * management.dtype_size(network.get_dtype())
    assert required_by(model, conds, shape)(3) == required_by(model, NOTHING, shape)(3) + working


def test_on_a_cpu_nothing_is_taken_off(real, card, monkeypatch):
    monkeypatch.setattr(management, "get_free_memory", lambda device: 5 * GIB)
    model = booked(real[1])
    model.load_device = torch.device("cpu")
    assert memory_of(model, NOTHING) == Memory(5 * GIB)
