"""Every tensor that a node takes, small and odd as it can be: a sentence, or the right result.

Where a stock node takes an input as odd as that, ours does what the stock node does.
"""

from __future__ import annotations

import re

import pytest
import torch
from small_bench import HALF, ONES, Bench, half_white

TENSORS = {"MASK", "LATENT", "IMAGE", "SIGMAS", "CONDITIONING"}
NAN, INF = float("nan"), float("inf")
WIDTH, POOLED = 64, 2048  # of the tiny model's text


def prompt(tokens: int = 7, rows: int = 1, pooled_rows: int = 1, **extra) -> list:
    pooled = {"pooled_output": torch.zeros(pooled_rows, POOLED)}
    return [[torch.ones(rows, tokens, WIDTH), {**pooled, **extra}]]


NO_PIXEL = r"The mask has the shape \[.*\], in which there is no pixel, expected one mask or more"
NO_MASK = r"The mask has the shape \[.*\], expected \(height, width\), \(batch, height, width\) or"
NOT_FINITE = r"The mask holds values that are not finite"
NO_PICTURE = r"The latent has the shape \[.*\], in which there is no picture, expected one image"
SIGMAS = r"expected a schedule of two or more falling values"
METER = r"expected \(batch, height, width, 3\) with 3 pixels or more a side"
ODD = {  # type -> name -> (value, a sentence, "ok", "stock": as the stock node, or what it equals)
    "MASK": {
        "no image": (torch.zeros(0, 64, 64), NO_PIXEL),
        "no rows": (torch.ones(1, 0, 64), NO_PIXEL),
        "no columns": (torch.ones(1, 64, 0), NO_PIXEL),
        "no pixels": (torch.ones(0, 0), NO_PIXEL),
        "a number": (torch.tensor(1.0), NO_MASK),
        "one axis": (torch.ones(64), NO_MASK),
        "three channels": (half_white().expand(1, 3, 64, 64), NO_MASK),
        "channels last": (half_white()[..., None], NO_MASK),
        "NaN": (half_white(white=NAN), NOT_FINITE),
        "infinity": (half_white(white=INF), NOT_FINITE),
        "complex": (half_white(torch.complex64), "The mask is of the type torch.complex64"),
        "a list": ([half_white()], "The mask is of the type list"),
        "two axes": (half_white()[0], HALF),
        "four axes": (half_white()[:, None], HALF),
        "five axes": (half_white()[:, None, None], HALF),
        "one a sample": (half_white()[:, None].repeat(2, 1, 1, 1), HALF),
        "integers": (half_white(torch.int32), HALF),
        "bytes up to 255": (half_white(torch.uint8, 255), HALF),
        "true and false": (half_white(torch.bool), HALF),
        "float16": (half_white(torch.float16), HALF),
        "bfloat16": (half_white(torch.bfloat16), HALF),
        "below 0 and above 1": (half_white() * 3 - 1, HALF),
        "one pixel": (torch.ones(1, 1, 1), ONES),
        "one pixel, two axes": (torch.ones(1, 1), ONES),
    },
    "LATENT": {
        "no image": (torch.zeros(0, 16, 8, 8), NO_PICTURE),
        "no pixels": (torch.zeros(1, 16, 0, 0), NO_PICTURE),
        "no rows": (torch.zeros(1, 16, 0, 8), NO_PICTURE),
        "no channels": (torch.zeros(1, 0, 8, 8), "stock"),  # division by zero, before any sampling
        "one pixel": (torch.zeros(1, 16, 1, 1), "ok"),
        "one row": (torch.zeros(1, 16, 1, 8), "ok"),
        "another model's": (torch.zeros(1, 4, 8, 8), "ok"),
        "integers": (torch.zeros(1, 16, 8, 8, dtype=torch.int32), "ok"),
        "NaN": (torch.full((1, 16, 8, 8), NAN), "stock"),
    },
    "IMAGE": {
        "no image": (torch.zeros(0, 8, 8, 3), "The noise meter found no image .* expected one or"),
        "no pixels": (torch.zeros(1, 0, 0, 3), METER),
        "one pixel": (torch.zeros(1, 1, 1, 3), METER),
        "one row": (torch.zeros(1, 1, 64, 3), METER),
        "three axes": (torch.zeros(8, 8, 3), METER),
        "no channels": (torch.zeros(1, 8, 8, 0), METER),
        "two channels": (torch.zeros(1, 8, 8, 2), METER),
        "NaN": (torch.full((2, 8, 8, 3), NAN), "pixels are not finite .* expected numbers from 0"),
        "infinity": (torch.full((1, 8, 8, 3), INF), "pixels are not finite"),
        "one channel": (torch.rand(1, 8, 8, 1), "ok"),
        "four channels": (torch.rand(1, 8, 8, 4), "ok"),
        "three pixels": (torch.rand(1, 3, 3, 3), "ok"),
    },
    "SIGMAS": {
        "none": (torch.tensor([]), SIGMAS),
        "one": (torch.tensor([1.0]), SIGMAS),
        "a number": (torch.tensor(1.0), SIGMAS),
        "two axes": (torch.tensor([[1.0, 0.5, 0.0]]), SIGMAS),
        "NaN": (torch.tensor([1.0, NAN, 0.0]), SIGMAS),
        "infinity": (torch.tensor([INF, 0.5, 0.0]), SIGMAS),
        "rising": (torch.tensor([0.0, 1.0]), SIGMAS),
        "two": (torch.tensor([1.0, 0.0]), "ok"),
        "whole numbers": (torch.tensor([1, 0]), "ok"),
        "float64": (torch.tensor([1.0, 0.5, 0.0]).double(), "ok"),
    },
    "CONDITIONING": {
        "no prompt": ([], "stock"),
        "no tokens": (prompt(tokens=0), "stock"),
        "one token": (prompt(tokens=1), "stock"),
        "no rows": (prompt(rows=0), "stock"),
        "no pooled rows": (prompt(pooled_rows=0), "stock"),
        "no pooled text": ([[torch.ones(1, 7, WIDTH), {}]], "stock"),
        "NaN": (prompt(tokens=7, pooled_output=torch.full((1, POOLED), NAN)), "stock"),
    },
}


@pytest.fixture(scope="module")
def bench(pack, families):
    pack("nodes").register_tpm_folder()
    return Bench(pack, families["sd35"])


PLACES = {  # (node, input) -> its type: every tensor input of our nodes; lists: test_eye.py
    ("AsyncTimestepModel", "mask"): "MASK",
    ("AsyncTimestepModel", "sigmas"): "SIGMAS",
    ("AsynDMRegionMask", "mask"): "MASK",
    ("AsyncTimestepNoiseMeter", "image"): "IMAGE",
    **{
        (node, name): kind
        for node in ("AsyncTimestepKSampler", "AsyncTimestepKSamplerAdvanced", "AsynDMKSampler")
        for name, kind in (
            ("latent_image", "LATENT"),
            ("positive", "CONDITIONING"),
            ("negative", "CONDITIONING"),
            ("mask", "MASK"),
        )
        if (node, name) != ("AsynDMKSampler", "mask")
    },
}


def test_every_tensor_input_of_every_node_has_its_cases(bench):
    found = {
        (name, entry.id): entry.io_type
        for name, node in bench.ours.items()
        for entry in node.define_schema().inputs
        if entry.io_type in TENSORS and not node.define_schema().is_input_list
    }
    assert found == PLACES and set(PLACES.values()) == set(ODD)


def outcome(call) -> str | torch.Tensor:
    """The exception's class and words, or the latents."""
    try:
        result = call()
        return result[0] if isinstance(result, tuple) else result
    except Exception as error:  # noqa: BLE001 (whatever the stock node says)
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_a_sentence_or_the_right_result(bench, place):
    for name, (value, wanted) in ODD[PLACES[place]].items():
        found = outcome(lambda value=value: bench.run(*place, value))
        if wanted in (HALF, ONES):
            assert torch.equal(found, bench.expected(*place, wanted)), (name, found)
        elif wanted == "stock":
            stock = outcome(lambda value=value: bench.stock(**{place[1]: value}))
            assert type(found) is type(stock) and (
                found == stock if isinstance(stock, str) else found.shape == stock.shape
            ), (name, found, stock)
        elif wanted == "ok":
            assert not isinstance(found, str), (name, found)
            assert bool(torch.as_tensor(found).isfinite().all()), name
        else:
            assert re.search(f"^ValueError: .*{wanted}", found), (name, found)
            assert found.endswith(".") and ". " not in found, (name, found)


@pytest.mark.parametrize("name", ["no image", "no pixels", "no rows", "one pixel", "one row"])
def test_small_latents_under_the_patch_and_the_asyndm_sampler(bench, name):
    """Whoever samples: these two get their latent from another node."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    latent, wanted = ODD["LATENT"][name]
    sampler, trace = (
        bench.ours["AsynDMSampler"]
        .execute(region=bench.region("all"), strength=0.5, sampler="euler", eta=0.0)
        .result
    )
    sigmas = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])

    def custom():
        return SamplerCustom.execute(
            bench.model, True, 5, 3.0, bench.positive, bench.negative, sampler, sigmas,
            {"samples": latent},
        ).result[0]["samples"]  # fmt: skip

    for found in (outcome(lambda: bench.patched(latent)), outcome(custom)):
        if wanted == "ok":
            assert found.shape == latent.shape and bool(found.isfinite().all())
        else:
            assert re.search(f"^ValueError: {wanted}", found), found


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_schedules_of_a_sampler_give_what_stock_gives(bench, pack, count):
    """A patched model and the AsynDM sampler, with 0, 1 and 2 sigmas: no step, or one."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    sigmas = torch.tensor([1.0, 0.5])[:count]
    sampler, trace = pack("nodes.run.asyndm").asyndm_sampler(bench.region("all"))
    patched, record = pack("nodes.run.hook").attach(bench.model, bench.constant)
    euler = comfy.samplers.sampler_object("euler")

    def custom(model, sampler):
        return SamplerCustom.execute(
            model, True, 5, 3.0, bench.positive, bench.negative, sampler, sigmas,
            {"samples": bench.latent},
        ).result[0]["samples"]  # fmt: skip

    stock = custom(bench.model, euler)
    assert torch.equal(custom(patched, euler), stock)
    assert torch.equal(custom(bench.model, sampler), stock)
    assert "off" in record.summary() or "no evaluations" in record.summary()
    assert "off" in trace.summary()
