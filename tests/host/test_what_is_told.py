"""What plot and nodes tell is what happened to their node in this run, or why nothing did."""

from __future__ import annotations

import io
import logging

import pytest
import torch
from node_texts import node_texts
from PIL import Image
from sampling import sample

from async_timestep.harness import graphs
from comfy.patcher_extension import WrappersMP

PARTS = (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.APPLY_MODEL)


def run(server, graph: dict) -> tuple[bytes, str]:
    """(the picture's pixels, the plot's text)."""
    outputs = server.run(graph)
    pictures = [Image.open(io.BytesIO(server.fetch(e))) for e in outputs["preview"]["images"]]
    return b"".join(p.tobytes() for p in pictures), outputs["plot"]["text"][0]


def test_a_sampler_that_was_rewired_past_the_patch(server):
    graph = graphs.model_patch(seed=61, batch=1)
    assert "mean D" in run(server, graph)[1]
    graph["sampler"]["inputs"]["model"] = ["loader", 0]
    picture, text = run(server, graph)
    stock = server.run(graphs.stock(seed=61, batch=1))["preview"]["images"]
    assert picture == b"".join(Image.open(io.BytesIO(server.fetch(e))).tobytes() for e in stock)
    assert "mean D" not in text and "was made without the node whose trace this is" in text
    graph["sampler"]["inputs"]["model"] = ["patch", 0]
    assert "mean D" in run(server, graph)[1]


def test_a_run_that_was_kept_says_that_it_is_an_earlier_one(server):
    graph = graphs.model_patch(seed=62, batch=1)
    assert "earlier run" not in run(server, graph)[1]
    graph["plot"]["inputs"]["theme"] = "light"
    text = run(server, graph)[1]
    assert "mean D" in text and "of an earlier run" in text


@pytest.mark.parametrize("kept", [False, True])
def test_the_first_of_two_patches_did_nothing(server, kept):
    """kept: it was used alone before, and stands in the server's cache with its old run."""
    graph = graphs.model_patch(seed=63 + kept, batch=1)
    if kept:
        run(server, graph)
    second = {**graph["patch"]["inputs"], "model": ["patch", 0], "deviation_scale": 2.0}
    graph["second"] = graphs.node("AsyncTimestepModel", **second)
    graph["sampler"]["inputs"]["model"] = ["second", 0]
    graph["other"] = graphs.node(
        "AsyncTimestepPlot", trace=["second", 1], after=["sampler", 0], theme="dark"
    )
    outputs = server.run(graph)
    first, second = outputs["plot"]["text"][0], outputs["other"]["text"][0]
    assert "which is another (preset auto, gamma 2)" in first and "mean D" not in first
    assert "mean D" in second


def test_a_patch_before_our_ksampler_did_nothing(server):
    graph = graphs.async_ksampler(seed=65, batch=1)
    alone = run(server, graph)[0]
    graph["patch"] = graphs.model_patch()["patch"]
    graph["sampler"]["inputs"]["model"] = ["patch", 0]
    graph["plot"]["inputs"]["trace"] = ["patch", 1]
    picture, text = run(server, graph)
    assert picture == alone and "which is another (D = +0.5)" in text


def test_each_node_has_its_line(server):
    graph = graphs.model_patch(seed=66, batch=1)
    found = node_texts(server, graph)
    # the last step of an untuned model is left alone; tiny has no published value
    wanted = "detail +0.25 on steps 2 to 3 of 4, strength "
    assert found["patch"].startswith(wanted) and "untuned for this model" in found["patch"]
    assert "sampler" not in found
    ours = node_texts(server, graphs.async_ksampler(seed=66, batch=1))
    assert ours["sampler"].startswith("detail +0.50 on steps 2 to 4 of 4, strength ")
    two = graphs.model_patch(seed=66, batch=1)
    two["sampler"]["inputs"]["steps"] = 2
    assert "take 3 steps or more, or the preset custom" in node_texts(server, two)["patch"]


def test_a_bypassed_deviation_before_a_scale_is_off(server):
    """The editor takes a bypassed node out of the prompt, and with it the link: test_bypass.py."""
    graph = graphs.async_ksampler(seed=67, batch=1)
    del graph["deviation"], graph["scale"]["inputs"]["deviation"]
    picture, text = run(server, graph)
    stock = graphs.async_ksampler(seed=67, batch=1, deviation=0.0)
    assert picture == run(server, stock)[0]
    assert "off" in text and "nothing is connected to the deviation of a scale node" in text


def test_the_preset_custom_has_its_number_on_the_node(server):
    graph = graphs.model_patch(seed=68, batch=1)
    graph["patch"]["inputs"] |= {"preset": "custom", "custom_deviation": 0.7}
    picture, text = run(server, graph)
    wired = graphs.async_ksampler(seed=68, batch=1, deviation=0.7)
    assert picture == run(server, wired)[0] and "mean D +0.700" in text
    del graph["patch"]["inputs"]["custom_deviation"]  # a prompt of before it was there
    assert "mean D +0.500" in run(server, graph)[1]


@pytest.mark.parametrize("reason", ["scale", "window", "number", "curve"])
def test_a_deviation_of_0_has_its_reason(pack, families, reason):
    tiny, p = families["sd35"], pack("tpm.policies")
    policy, said = {
        "scale": (p.Scaled(p.Constant(0.5), 0.0), "deviation_scale is 0"),
        "window": (p.Window(p.Constant(0.5), 0.97, 1.0), "no step lies between start_percent 0.97"),
        "number": (p.Window(p.Constant(0.0), 0.1, 1.0), "the deviation is 0"),
        "curve": (p.Curve(p.Constant(0.5), lambda progress: 0.0), "the curve is 0 at every step"),
    }[reason]
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
    assert torch.equal(sample(tiny, model, steps=4)[0], sample(tiny, steps=4)[0])
    assert said in trace.runs[-1].line() and said in trace.summary()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("way", ["all of the kind", "ours"])
def test_a_part_that_another_pack_took_away_is_said(pack, families, caplog, part, way):
    """Another pack may set the wrappers of a kind anew on its clone of the MODEL."""
    tiny, p = families["sd35"], pack("tpm.policies")
    model, trace = pack("nodes.run.hook").attach(tiny[0], p.Constant(0.5))
    other = model.clone()
    if way == "ours":
        other.remove_wrappers_with_key(part, pack("nodes.run.hook").KEY)
    else:
        other.wrappers[part] = {}
    with caplog.at_level(logging.WARNING):
        found = sample(tiny, other)[0]
    assert torch.equal(found, sample(tiny)[0])
    sentence = f"another node has replaced {part.upper()} of the MODEL"
    assert sentence in trace.summary() and "off" in trace.runs[-1].line()
    assert sum(sentence in record.getMessage() for record in caplog.records) == 1
    assert not torch.equal(sample(tiny, model)[0], found) and not trace.runs[-1].off


def test_no_wrapper_left_is_the_stock_run_and_said(pack, families, caplog):
    tiny, p = families["sd35"], pack("tpm.policies")
    model, trace = pack("nodes.run.hook").attach(tiny[0], p.Constant(0.5))
    other = model.clone()
    for part in PARTS:
        other.wrappers[part] = {}
    with caplog.at_level(logging.WARNING):
        assert torch.equal(sample(tiny, other)[0], sample(tiny)[0])
    sentence = (
        "another node has replaced OUTER_SAMPLE and PREDICT_NOISE and APPLY_MODEL of the MODEL"
    )
    assert sentence in trace.summary() and trace.runs[-1].off
    assert sum(sentence in record.getMessage() for record in caplog.records) == 1


def test_a_second_stage_without_the_schedule_says_what_it_costs(server):
    graph = graphs.model_patch(seed=69, batch=1)
    stages = graph["sampler"]["inputs"]
    del stages["seed"], stages["denoise"]
    stages |= {"noise_seed": 69, "steps": 8}
    first = {**stages, "add_noise": "enable", "start_at_step": 0, "end_at_step": 4}
    second = {**stages, "add_noise": "disable", "start_at_step": 4, "end_at_step": 8}
    first["return_with_leftover_noise"], second["return_with_leftover_noise"] = "enable", "disable"
    second["latent_image"] = ["first", 0]
    graph["first"] = graphs.node("KSamplerAdvanced", **first)
    graph["sampler"] = graphs.node("KSamplerAdvanced", **second)
    sentence = "left the first step of this sampler as it is: it goes on from another one"
    assert sentence in node_texts(server, graph)["patch"]
    graph["schedule"] = graphs.node(
        "BasicScheduler", model=["loader", 0], scheduler="simple", steps=8, denoise=1.0
    )
    graph["patch"]["inputs"]["sigmas"] = ["schedule", 0]
    assert sentence not in node_texts(server, graph)["patch"]


@pytest.mark.parametrize("words", ["circle" * 2000, "red, " * 50 + "cat:1e9" + "9" * 5000])
def test_a_message_is_short_however_long_the_input(server, words):
    graph = graphs.model_patch(seed=70, batch=1)
    graph["region"] = graphs.node(
        "AsynDMRegionMask", mode="words", clip=["loader", 1], text=graphs.PROMPT, words=words
    )
    graph["patch"]["inputs"]["region"] = ["region", 0]
    with pytest.raises(RuntimeError) as caught:
        server.run(graph)
    node, _, sentence = str(caught.value).partition(": ")
    assert node == "AsynDMRegionMask" and sentence.startswith("AsynDM Region Mask found")
    assert len(sentence) <= 300


@pytest.mark.parametrize("strength", [0.5, 0.0])
def test_an_asyndm_sampler_has_its_line_too(server, strength):
    graph = graphs.stock(seed=71, batch=1, steps=6)
    graph["region"] = graphs.node(
        "AsynDMRegionMask", mode="words", clip=["loader", 1], text=graphs.PROMPT, words="blue star"
    )
    inputs = {**graph["sampler"]["inputs"], "region": ["region", 0], "strength": strength}
    graph["sampler"] = graphs.node("AsynDMKSampler", **inputs, eta=0.0)
    wanted = "pixels 0." if strength else "off: the stock sampler ran"
    assert node_texts(server, graph)["sampler"].startswith(wanted)


def test_a_tpm_on_other_steps_says_so_on_the_node_that_samples(server):
    graph = graphs.async_ksampler(seed=72, batch=1, steps=9)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name="tiny.safetensors")
    graph["scale"]["inputs"]["deviation"] = ["tpm", 0]
    del graph["deviation"]
    assert "runs here on 9" in node_texts(server, graph)["sampler"]
