"""The nodes as the server offers them, and what a trace holds from prompt to prompt."""

from __future__ import annotations

import json
import re
import time

import pytest

from async_timestep.harness import graphs
from async_timestep.harness.comfy_server import error_message

IDS = {
    "AsyncTimestepModel": "Async Timestep (model patch)",
    "AsyncTimestepKSampler": "Async Timestep KSampler",
    "AsyncTimestepKSamplerAdvanced": "Async Timestep KSampler (Advanced)",
    "AsyncTimestepTPMLoader": "TPM Loader",
    "AsyncTimestepDeviation": "Deviation",
    "AsyncTimestepDeviationScale": "Deviation Scale",
    "AsyncTimestepVelocityScale": "Velocity Scale",
    "AsyncTimestepPlot": "Async Timestep Plot",
    "AsyncTimestepNoiseMeter": "Noise Residual Meter",
    "AsyncTimestepDemoLoader": "Demo Model Loader",
    "AsyncTimestepTry": "Tune by Eye: Try",
    "AsyncTimestepChoose": "Tune by Eye: Choose",
}


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.get("/object_info")


def options(node: dict) -> dict:
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


@pytest.mark.parametrize("node_id", IDS)
def test_ids_names_and_tooltips(info, node_id):
    node = info[node_id]
    assert node["display_name"] == IDS[node_id]
    assert node["category"] == "sampling/async timestep"
    assert node["search_aliases"]
    for name, (_, *details) in options(node).items():
        assert details and len(details[0].get("tooltip", "")) > 20, (node_id, name)
    assert all(node["output_tooltips"])


@pytest.mark.parametrize("stock", ["KSampler", "KSamplerAdvanced"])
def test_samplers_have_every_input_of_the_stock_node(info, stock):
    ours, theirs = options(info[f"AsyncTimestep{stock}"]), options(info[stock])
    assert list(theirs)[1:] == [name for name in ours if name in theirs][1:]
    for name, (_, *details) in theirs.items():
        assert name in ours
        for key in ("default", "min", "max", "step", "control_after_generate"):
            if details and key in details[0]:
                assert ours[name][1][key] == details[0][key], (name, key)
    for name in ("sampler_name", "scheduler"):
        kind, *details = theirs[name]
        choices = kind if isinstance(kind, list) else details[0]["options"]
        assert ours[name][1]["options"] == choices


def test_widgets_are_those_of_the_design(info):
    deviation = options(info["AsyncTimestepDeviation"])
    assert deviation["preset"][1]["options"] == [
        "auto", "flux1_dev", "sd35_medium", "variance match", "custom", "detail daemon"
    ]  # fmt: skip
    wanted = {"default": 0.5, "min": -1.0, "max": 1.0, "step": 0.01}
    assert {key: deviation["deviation"][1][key] for key in wanted} == wanted
    assert deviation["preset"][1]["default"] == "custom", "its number has to move the picture"
    scale = options(info["AsyncTimestepDeviationScale"])["deviation_scale"][1]
    assert (scale["default"], scale["min"], scale["max"]) == (1.0, -2.0, 4.0)
    omega = options(info["AsyncTimestepVelocityScale"])["omega"][1]
    assert (omega["default"], omega["min"], omega["max"]) == (1.0, 0.5, 1.5)


def record(server, graph: dict) -> dict:
    """The plot's JSON, shown by a stock node."""
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 1]}}
    return json.loads(server.run(graph)["show"]["text"][0])


def test_a_trace_holds_the_runs_of_one_prompt(server):
    for seed in (31, 32):
        assert len(record(server, graphs.model_patch(seed=seed, batch=1))["runs"]) == 1


def test_a_model_sampled_twice_gives_two_runs(server):
    graph = graphs.model_patch(seed=41, batch=1)
    again = {
        **graph["sampler"]["inputs"],
        "seed": 42,
        "latent_image": ["sampler", 0],
        "denoise": 0.5,
    }
    graph["again"] = {"class_type": "KSampler", "inputs": again}
    graph["plot"]["inputs"]["after"] = ["again", 0]
    found = record(server, graph)
    assert [len(run) for run in found["runs"]] == [4, 4]
    entry = found["runs"][0][1]
    lists = {"t_star", "deviation", "cut_percent", "omega"}
    assert set(entry) == {"step", "sigma", "t", "map", "images"} | lists
    assert all(isinstance(entry[key], list) for key in lists)


def test_a_bypassed_patch_draws_off(server):
    graph = graphs.stock(batch=1)
    graph["plot"] = graphs.node("AsyncTimestepPlot", after=["sampler", 0])
    outputs = server.run(graph)["plot"]
    assert "off" in outputs["text"][0].lower()


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"start_percent": 0.8, "end_percent": 0.2}, "the start must not lie behind the end"),
    ],
)
def test_mistakes_get_one_sentence(server, change, sentence):
    graph = graphs.async_ksampler(batch=1)
    graph["deviation"]["inputs"].update(change)
    with pytest.raises(RuntimeError, match=sentence) as caught:
        server.run(graph)
    assert "\n" not in str(caught.value)


def test_no_tpm_file_says_how_to_get_one(pack, info):
    assert "tiny.safetensors" in options(info["AsyncTimestepTPMLoader"])["tpm_name"][1]["options"]
    loader = pack("nodes.deviation").AsyncTimestepTPMLoader
    with pytest.raises(ValueError, match="train one with training/train_tpm.py"):
        loader.execute("flux1_dev.safetensors")


def test_interrupt_through_the_server(server):
    """A long run stops on its way, and the next one is whole again."""
    graph = graphs.async_ksampler(seed=51, steps=2000)
    queued = server.queue(graph)
    while not re.search(r" [1-9]\d*/2000 \[", server.log.read_text()):  # its bar: it is sampling
        assert not server.get(f"/history/{queued}"), "it ended before it was interrupted"
        time.sleep(0.05)
    server.post("/interrupt", {})
    entry = server.wait(queued)
    assert error_message(entry) == "interrupted"
    assert server.run(graphs.async_ksampler(seed=52, batch=1))["preview"]["images"]
