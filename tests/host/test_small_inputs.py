"""Every tensor that a node takes, small and odd as it can be: a sentence, or the right result.

Where a stock node takes an input as odd as that, ours does what the stock node does.
"""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch

TENSORS = {"MASK", "LATENT", "IMAGE", "SIGMAS", "CONDITIONING"}
NAN, INF = float("nan"), float("inf")
WIDTH, POOLED = 64, 2048  # of the tiny model's text


def half_white(dtype=torch.float32, white: float = 1) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64, dtype=dtype)
    mask[..., 32:] = white
    return mask


def prompt(tokens: int = 7, rows: int = 1, pooled_rows: int = 1, **extra) -> list:
    pooled = {"pooled_output": torch.zeros(pooled_rows, POOLED)}
    return [[torch.ones(rows, tokens, WIDTH), {**pooled, **extra}]]


NO_PIXEL = r"The mask has the shape \[.*\], in which there is no pixel, expected one mask or more"
NO_MASK = r"The mask has the shape \[.*\], expected \(height, width\), \(batch, height, width\) or"
NOT_FINITE = r"The mask holds values that are not finite"
NO_PICTURE = r"The latent has the shape \[.*\], in which there is no picture, expected one image"
SIGMAS = r"expected a schedule of two or more falling values"
METER = r"expected \(batch, height, width, 3\) with 3 pixels or more a side"
HALF, ONES = "as half the picture", "as no mask"
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


class Bench:
    """Our nodes and the stock KSampler on the tiny SD3.5, two images of 8 x 8."""

    def __init__(self, pack, family):
        self.model, self.positive, self.negative, empty = family
        self.ours = {node.define_schema().node_id: node for node in pack("nodes").NODES}
        self.constant, self.trace = pack("tpm.policies").Constant(0.4), pack("report.trace").Trace
        self.latent = empty.repeat(2, 1, 1, 1)
        self.kept: dict = {}

    def inputs(self, **given) -> dict:
        """A KSampler's, with `given` in their places."""
        latent = given.pop("latent_image", self.latent)
        usual = dict(
            model=self.model, seed=5, steps=4, cfg=3.0, sampler_name="euler", scheduler="simple",
            positive=self.positive, negative=self.negative, latent_image={"samples": latent},
            denoise=1.0,
        )  # fmt: skip
        return {**usual, **given}

    def stock(self, **given) -> torch.Tensor:
        from nodes import KSampler

        return KSampler().sample(**self.inputs(**given))[0]["samples"]

    def ksampler(self, node: str, **given):
        """Latent and trace of one of our KSamplers."""
        inputs = self.inputs(**given)
        if node == "AsynDMKSampler":
            inputs = {"region": self.region("all"), "strength": 0.5, "eta": 0.0, **inputs}
        else:
            own = {"preset": "custom", "deviation_scale": 1.0, "deviation": self.constant}
            inputs = {**own, **inputs}
        if node == "AsyncTimestepKSamplerAdvanced":
            inputs = {k: v for k, v in inputs.items() if k not in ("seed", "denoise")}
            inputs |= {
                "noise_seed": 5, "add_noise": "enable", "start_at_step": 0, "end_at_step": 10000,
                "return_with_leftover_noise": "disable",
            }  # fmt: skip
        out = self.ours[node].execute(**inputs).result
        return out[0]["samples"], out[1]

    def patched(self, latent=None, **given):
        """The same of the patch, under the stock KSampler."""
        patch = dict(model=self.model, preset="custom", deviation=self.constant)
        model, trace = (
            self.ours["AsyncTimestepModel"].execute(deviation_scale=1.0, **patch, **given).result
        )
        return self.stock(
            model=model, latent_image=self.latent if latent is None else latent
        ), trace

    def region(self, mode: str, **given):
        return self.ours["AsynDMRegionMask"].execute(mode=mode, **given).result[0]

    def run(self, node: str, name: str, value):
        """What comes out where one input of a node is `value`."""
        if node == "AsynDMRegionMask":
            return self.ksampler("AsynDMKSampler", region=self.region("mask", mask=value))
        if node == "AsyncTimestepModel":
            return self.patched(**{name: value})
        if node == "AsyncTimestepNoiseMeter":
            return self.ours[node].execute(image=value).result[:2]
        return self.ksampler(node, **{name: value})

    def expected(self, node: str, name: str, what: str) -> torch.Tensor:
        """Latents that an odd but good mask has to give, bit for bit."""
        mask = half_white() if what == HALF else torch.ones(1, 64, 64)
        if (node, what) not in self.kept:
            self.kept[node, what] = self.run(node, name, mask)[0]
        return self.kept[node, what]


PLACES = {  # (node, input) -> its type: every tensor input of our nodes
    ("AsyncTimestepModel", "mask"): "MASK",
    ("AsyncTimestepModel", "sigmas"): "SIGMAS",
    ("AsynDMRegionMask", "mask"): "MASK",
    ("AsyncTimestepNoiseMeter", "image"): "IMAGE",
    **{
        (node, name): kind
        for node in ("AsyncTimestepKSampler", "AsyncTimestepKSamplerAdvanced", "AsynDMKSampler")
        for name, kind in (
            ("latent_image", "LATENT"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"),
            ("mask", "MASK"),
        )
        if (node, name) != ("AsynDMKSampler", "mask")
    },
}  # fmt: skip


def test_every_tensor_input_of_every_node_has_its_cases(bench):
    found = {
        (name, entry.id): entry.io_type
        for name, node in bench.ours.items()
        for entry in node.define_schema().inputs
        if entry.io_type in TENSORS
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


# --- regions that turn out to be empty


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


# --- the meter and the demo model's own parts


def test_the_meter_leaves_out_what_is_not_finite(pack):
    measured = pack("nodes.plot").measured_noise
    images = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    images[1, 4, 4, 0] = NAN
    level, where, lines = measured(images)
    assert lines[1] == "image 1: not finite, not measured" and lines[0].endswith(" of 255")
    assert level == pytest.approx(measured(images[[0, 2]])[0]) and not bool(where[1].any())
    assert bool(where.isfinite().all()) and bool(where[0].any())


def test_one_channel_is_grey_for_the_meter(pack):
    grey = torch.rand(1, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    measured = pack("nodes.plot").measured_noise
    one, three = measured(grey), measured(grey.expand(-1, -1, -1, 3))
    assert one[0] == three[0] > 0 and torch.equal(one[1], three[1])


@pytest.mark.parametrize("size", [(1, 1, 3), (7, 64, 3), (0, 0, 3), (8, 8, 1), (8, 8, 2)])
def test_the_demo_autoencoder_refuses_what_is_no_picture(pack, size):
    vae = pack("nodes.demo").load_demo_vae()
    with pytest.raises(ValueError, match="VAE found an image of shape .* larger RGB image"):
        vae.encode(torch.zeros(1, *size))
    assert vae.encode(torch.zeros(1, 8, 8, 4)).shape == (1, 16, 1, 1)
    assert vae.decode(torch.zeros(1, 16, 1, 1)).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="VAE found a latent of shape .* 16, height, width"):
        vae.decode(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("shape", [(0, 16, 8, 8), (1, 16, 0, 0), (1, 16, 8, 0)])
def test_the_demo_model_refuses_an_empty_latent(pack, shape):
    def executor(*args, **kwargs):
        pytest.fail("it was sampled")

    with pytest.raises(ValueError, match=NO_PICTURE):
        pack("nodes.demo").checked_latent(executor, None, torch.zeros(shape))
