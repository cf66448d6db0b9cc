"""The Region Mask and the AsynDM nodes through a real server: what a user sees, right and wrong."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from async_timestep.harness import graphs
from async_timestep.harness import graphs_regions as regions


def pictures(server, graph: dict) -> list[np.ndarray]:
    outputs = server.run(graph)["preview"]["images"]
    return [np.asarray(Image.open(io.BytesIO(server.fetch(entry)))) for entry in outputs]


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [regions.asyndm_words, regions.asyndm_mask])
def test_strength_zero_is_the_stock_picture_and_half_is_not(server, make):
    stock = pictures(server, graphs.stock(steps=regions.STEPS))
    assert same(pictures(server, make(strength=0.0)), stock)
    assert not same(pictures(server, make()), stock)


def test_deviation_scale_zero_with_a_region_is_the_stock_picture(server):
    stock = pictures(server, graphs.stock())
    assert same(pictures(server, regions.regional_detail(scale=0.0)), stock)
    regional = pictures(server, regions.regional_detail())
    assert not same(regional, stock)
    assert not same(regional, pictures(server, graphs.async_ksampler()))


def test_the_sampler_node_is_the_ksampler_node(server):
    graph = regions.asyndm_words(batch=1)
    whole = pictures(server, graph)
    wired = graph["sampler"]["inputs"]
    graph |= {
        "schedule": graphs.node(
            "BasicScheduler", model=["loader", 0], scheduler="simple", steps=regions.STEPS,
            denoise=1.0,
        ),
        "method": graphs.node(
            "AsynDMSampler", region=["region", 0], strength=0.5, sampler="euler", eta=0.0
        ),
        "sampler": graphs.node(
            "SamplerCustom", model=["loader", 0], add_noise=True, noise_seed=1, cfg=wired["cfg"],
            positive=["positive", 0], negative=["negative", 0], sampler=["method", 0],
            sigmas=["schedule", 0], latent_image=["latent", 0],
        ),
    }  # fmt: skip
    graph["plot"]["inputs"]["trace"] = ["method", 1]
    assert same(pictures(server, graph), whole)


def changed(make, place: str, **inputs) -> dict:
    graph = make()
    graph[place]["inputs"] |= inputs
    return graph


NO_CLIP = regions.region_mask("words", text=["prompt", 0], words="red circles")
WRONG = {
    "an unknown word": (
        changed(regions.asyndm_words, "region", words="red circles, dog"),
        "found no word 'dog' in the prompt; its words are: two, red",
    ),
    "no words": (changed(regions.asyndm_words, "region", words=" , "), "type words of the prompt"),
    "a strength that is no number": (
        changed(regions.asyndm_words, "region", words="star:lots"),
        "write a number from 0 to 2 behind the colon",
    ),
    "no clip": ({**regions.asyndm_words(), "region": NO_CLIP}, "connect the CLIP and the same"),
    "an empty text": (changed(regions.asyndm_words, "region", text=" "), "found an empty text"),
    "no mask": (
        {**regions.asyndm_mask(), "region": regions.region_mask("mask")},
        "found no mask; connect a MASK",
    ),
    "a mask and a region": (
        changed(regions.regional_detail, "sampler", mask=["black", 0])
        | {"black": regions.asyndm_mask()["black"]},
        "Both a mask and a region are connected",
    ),
    "a patch under AsynDM": (
        changed(regions.asyndm_words, "sampler", model=["patch", 0])
        | {"patch": graphs.model_patch()["patch"]},
        "take the patch",
    ),
    "two prompts": (
        changed(regions.asyndm_words, "sampler", positive=["both", 0])
        | {
            "both": graphs.node(
                "ConditioningCombine",
                conditioning_1=["positive", 0],
                conditioning_2=["negative", 0],
            )
        },
        "several positive prompts",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_gets_one_sentence(server, name):
    graph, sentence = WRONG[name]
    with pytest.raises(RuntimeError) as caught:
        server.run(graph)
    assert sentence in str(caught.value), caught.value


def test_a_strength_of_its_own_for_a_word(server):
    both = pictures(server, regions.asyndm_words(words="red circles, blue star", batch=1))
    less = pictures(server, regions.asyndm_words(words="red circles:0, blue star", batch=1))
    star = pictures(server, regions.asyndm_words(words="blue star", batch=1))
    assert same(less, star), "no strength is as good as not named"
    assert not same(both, less)
    weak = pictures(server, regions.asyndm_words(words="blue star:0.4", batch=1))
    whole = pictures(server, regions.asyndm_words(words="blue star", batch=1, strength=0.2))
    assert same(weak, whole), "0.4 of 0.5 is 0.2, from the first step on"


def test_an_inverted_half_is_the_other_half(server):
    """Upper half is white in the graph; a mask from ComfyUI's own nodes is the other half."""
    inverted = pictures(server, changed(regions.asyndm_mask, "region", invert=True))
    lower = changed(regions.asyndm_mask, "mask", y=64)
    assert same(inverted, pictures(server, lower))
    assert not same(inverted, pictures(server, regions.asyndm_mask()))


def test_a_grown_half_is_a_larger_half(server):
    """The picture has 16 x 16 latent pixels of 8 x 8; a half that grows by 2 ends 16 lower."""
    grown = pictures(server, changed(regions.asyndm_mask, "region", grow=2))
    larger = changed(regions.asyndm_mask, "white", height=80)
    assert same(grown, pictures(server, larger))
    both = pictures(server, changed(regions.asyndm_mask, "region", grow=2, invert=True))
    below = changed(regions.asyndm_mask, "white", height=48)
    below["mask"]["inputs"]["y"] = 80
    assert same(both, pictures(server, below)), "grown first, then inverted"


@pytest.mark.parametrize("make", [regions.asyndm_words, regions.regional_detail])
def test_words_turned_round_and_grown(server, make):
    plain = pictures(server, make(batch=1))
    off = changed(lambda: make(batch=1), "region", grow=0, invert=False)
    assert same(pictures(server, off), plain)
    for settings in ({"invert": True}, {"grow": 2}, {"grow": -1}):
        other = changed(lambda: make(batch=1), "region", **settings)
        assert not same(pictures(server, other), plain), settings
