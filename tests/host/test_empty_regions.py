"""Regions that turn out to be empty, or odd, say so: in the log, the run and the plot."""

from __future__ import annotations

import dataclasses
import json
import logging

import pytest
import torch
from small_bench import Bench, half_white


@pytest.fixture(scope="module")
def bench(pack, families):
    pack("nodes").register_tpm_folder()
    return Bench(pack, families["sd35"])


def words(pack, threshold: float = 1.0, strength: float = 1.0, static: bool = False):
    region = pack("nodes.run.region").Region
    return region(
        "words", columns={"cat": [1, 2]}, strengths=(strength,), threshold=threshold, static=static
    )


def dot() -> torch.Tensor:
    """One white pixel of 512 x 512, which the latent's 8 x 8 pass over."""
    mask = torch.zeros(1, 512, 512)
    mask[0, 3, 3] = 1
    return mask


def quarter() -> torch.Tensor:
    """4 x 4 of the latent's 8 x 8 pixels, in the middle."""
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1
    return mask


BLACK, DOT = "the mask is black everywhere", "the white of the mask is smaller than a latent pixel"
EMPTY_WORDS = "attention to cat is nowhere above 100 times its mean, so the region is empty"


def only_warning(trace, caplog) -> str:
    """The one sentence that stands in the log, the run, its JSON and the plot's words."""
    (run,) = trace.runs
    (sentence,) = run.warnings
    assert [r.getMessage() for r in caplog.records].count(sentence) == 1
    assert json.loads(trace.to_json())["warnings"] == [[sentence]] and sentence in trace.summary()
    assert sentence.endswith(".") and ". " not in sentence
    return sentence


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
@pytest.mark.parametrize("mask,piece", [(0 * half_white(), BLACK), (dot(), DOT)], ids=["0", "dot"])
def test_an_empty_mask_says_so_and_is_stock(bench, caplog, node, mask, piece):
    with caplog.at_level(logging.WARNING):
        region = bench.region("mask", mask=mask)
        latent, trace = bench.ksampler(node, region=region)
    assert piece in only_warning(trace, caplog)
    assert torch.equal(latent, bench.stock()) and "off" in trace.summary()


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
@pytest.mark.parametrize("static", [False, True])
def test_words_without_attention_say_so(bench, pack, caplog, node, static):
    with caplog.at_level(logging.WARNING):
        latent, trace = bench.ksampler(node, region=words(pack, 100.0, static=static))
    assert EMPTY_WORDS in only_warning(trace, caplog)
    stock = torch.equal(latent, bench.stock())
    # the first mask of words that are followed is the whole picture, which only AsynDM uses
    assert stock == (static or node == "AsyncTimestepKSampler")
    caplog.clear()
    _, trace = bench.ksampler(node, region=words(pack, 1.0, static=static))
    assert trace.runs[0].warnings == []


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
def test_words_that_were_never_read_say_so(bench, pack, caplog, node):
    """ComfyUI samples without a positive prompt: then the region is the whole picture."""
    with caplog.at_level(logging.WARNING):
        _, trace = bench.ksampler(node, region=words(pack), positive=[])
    assert "attention to the words was never read" in only_warning(trace, caplog)


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
def test_words_of_strength_0_say_so(bench, pack, caplog, node):
    with caplog.at_level(logging.WARNING):
        latent, trace = bench.ksampler(node, region=words(pack, strength=0.0))
    assert "the strength of every word of the region is 0" in only_warning(trace, caplog)
    assert torch.equal(latent, bench.stock())


def test_a_region_that_inpainting_keeps_says_so(bench, caplog):
    """AsynDM leaves the kept picture to the stock rule."""
    keep = torch.zeros(1, 1, 64, 64)
    keep[..., :32] = 1
    latent = {"samples": bench.latent, "noise_mask": keep}
    with caplog.at_level(logging.WARNING):
        region = bench.region("mask", mask=half_white())
        inputs = {**bench.inputs(), "latent_image": latent}
        out = bench.ours["AsynDMKSampler"].execute(region=region, strength=0.5, eta=0.0, **inputs)
    assert "inpainting keeps the picture" in only_warning(out.result[1], caplog)


def test_a_mask_on_another_scale_says_so(bench, caplog):
    with caplog.at_level(logging.WARNING):
        _, trace = bench.ksampler("AsyncTimestepKSampler", mask=half_white(white=255.0))
    assert "values reach 255, expected 0 to 1" in only_warning(trace, caplog)
    slack = half_white(white=1.05)  # as a bicubic resize leaves it
    assert bench.ksampler("AsyncTimestepKSampler", mask=slack)[1].runs[0].warnings == []


def test_a_mask_of_another_crop_stands_in_the_plot_too(bench, caplog):
    with caplog.at_level(logging.WARNING):
        _, trace = bench.ksampler("AsyncTimestepKSampler", mask=torch.ones(1, 64, 128))
    assert "the mask is 128 x 64 but the latent 8 x 8" in only_warning(trace, caplog)


SHRUNK = "nothing is left of the mask once it has shrunk by 4 latent pixels"
NOTHING = "the region is the whole picture and inverted nothing"


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
@pytest.mark.parametrize(
    "mode,given,piece",
    [
        ("mask", {"mask": quarter(), "grow": -4}, SHRUNK),
        ("mask", {"mask": quarter(), "grow": 8, "invert": True}, NOTHING),
        ("mask", {"mask": torch.ones(1, 64, 64), "invert": True}, NOTHING),
        ("mask", {"mask": torch.zeros(1, 64, 64), "grow": -2}, BLACK),
        ("all", {"invert": True}, NOTHING),
    ],
)
def test_a_shape_that_leaves_nothing_says_so_and_is_stock(bench, caplog, node, mode, given, piece):
    with caplog.at_level(logging.WARNING):
        latent, trace = bench.ksampler(node, region=bench.region(mode, **given))
    assert piece in only_warning(trace, caplog)
    assert torch.equal(latent, bench.stock()) and "off" in trace.summary()


@pytest.mark.parametrize("node", ["AsyncTimestepKSampler", "AsynDMKSampler"])
def test_a_black_mask_turned_round_is_everywhere(bench, node):
    black = bench.region("mask", mask=torch.zeros(1, 64, 64), invert=True)
    latent, trace = bench.ksampler(node, region=black)
    assert torch.equal(latent, bench.ksampler(node, region=bench.region("all"))[0])
    assert trace.runs[0].warnings == []


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(
    "given,piece",
    [
        ({"threshold": 100.0, "invert": True}, "so the inverted region is the whole picture"),
        ({"grow": -8}, "nothing is left of the region of cat once it has shrunk by 8 latent"),
        ({"grow": 8, "invert": True}, "region of cat is the whole picture and inverted nothing"),
    ],
)
def test_words_whose_shape_leaves_nothing_say_so(bench, pack, caplog, static, given, piece):
    region = dataclasses.replace(words(pack, static=static), **given)
    with caplog.at_level(logging.WARNING):
        _, trace = bench.ksampler("AsyncTimestepKSampler", region=region)
    assert piece in only_warning(trace, caplog)


def test_a_run_says_how_its_region_was_shaped(bench):
    for grow, invert, said in (
        (0, False, "mask"), (2, False, "mask grown by 2"), (-1, True, "all but mask shrunk by 1"),
    ):  # fmt: skip
        region = bench.region("mask", mask=half_white(), grow=grow, invert=invert)
        _, trace = bench.ksampler("AsynDMKSampler", region=region)
        assert trace.runs[0].label == f"AsynDM euler, strength 0.5, {said}"
