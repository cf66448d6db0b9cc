"""The pack in a real server of the oldest and of the newest host: alone, whole, exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from async_timestep.harness import graphs, graphs_regions, workflows
from async_timestep.harness.comfy_server import PACK, ComfyServer

IDS = {
    "AsyncTimestepModel", "AsyncTimestepKSampler", "AsyncTimestepKSamplerAdvanced",
    "AsyncTimestepTPMLoader", "AsyncTimestepDeviation", "AsyncTimestepDeviationScale",
    "AsyncTimestepVelocityScale", "AsyncTimestepPlot", "AsynDMRegionMask", "AsynDMSampler",
    "AsynDMKSampler", "AsyncTimestepNoiseMeter", "AsyncTimestepDemoLoader",
    "AsyncTimestepTry", "AsyncTimestepChoose",
}  # fmt: skip
SAMPLERS = (
    "euler", "euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_sde", "dpmpp_3m_sde",
    "lcm", "res_multistep", "er_sde", "sa_solver", "ddim", "uni_pc",
)  # fmt: skip
OTHER = """
class Other:
    RETURN_TYPES, FUNCTION = (), "run"
    @classmethod
    def INPUT_TYPES(cls): return {"required": {}}
NODE_CLASS_MAPPINGS = {"NodeOfAnotherPack": Other}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Started with --disable-all-custom-nodes --whitelist-custom-nodes, beside another pack."""
    base = tmp_path_factory.mktemp("floor")
    other = base / "custom_nodes" / "another-pack"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text(OTHER)
    with ComfyServer(base) as running:
        yield running


@pytest.fixture(scope="module")
def info(server) -> dict:
    return server.get("/object_info")


def latents(server, graph: dict) -> torch.Tensor:
    """What the graph's sampler gives, as the server stores it."""
    graph = {k: v for k, v in graph.items() if k not in ("decode", "preview", "plot", "meter")}
    graph["save"] = graphs.node("SaveLatent", samples=["sampler", 0], filename_prefix="floor")
    (entry,) = server.run(graph)["save"]["latents"]
    return load(server.fetch(entry))["latent_tensor"]


def test_the_page_is_told_what_a_deviation_does(server):
    """What the Deviation node draws in itself before a run."""
    asked = {"preset": "custom", "deviation": 0.5, "start_percent": 0.5, "end_percent": 1}
    asked |= {"unit": "interval", "mode": "conditioning", "steps": 4}
    assert server.post("/async_timestep/deviation", asked)["low"] == [0, 0, 0.5, 0.5]


def test_only_this_pack_is_loaded_and_whole(server, info):
    assert IDS <= info.keys() and "NodeOfAnotherPack" not in info
    assert {k for k, node in info.items() if node["python_module"].endswith(PACK)} == IDS
    log = server.log.read_text()
    assert "IMPORT FAILED" not in log and "Error while calling" not in log


def test_outputs_have_names_and_tooltips(info):
    assert info["AsyncTimestepDeviationScale"]["output_name"] == ["deviation"]
    assert info["AsynDMRegionMask"]["output_name"] == ["region"]
    assert info["AsyncTimestepNoiseMeter"]["output_name"] == ["noise", "map", "text"]
    assert info["AsyncTimestepKSampler"]["output_name"] == ["LATENT", "trace"]
    assert all(all(info[node]["output_tooltips"]) for node in IDS - {"AsyncTimestepPlot"})


def test_a_curve_only_where_the_host_has_one(server, info):
    options = info["AsyncTimestepDeviation"]["input"]
    source = (Path(server.tree) / "comfy_api" / "latest" / "_io.py").read_text()
    assert ("curve" in options.get("optional", {})) == ("class Curve(" in source)
    assert options["required"].keys() >= {"preset", "deviation", "unit", "mode"}


def test_the_embedded_tpm_is_offered(info):
    names = info["AsyncTimestepTPMLoader"]["input"]["required"]["tpm_name"]
    assert "tiny.safetensors" in (names[0] if isinstance(names[0], list) else names[1]["options"])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_zero_is_stock_bit_for_bit(server, sampler):
    stock = latents(server, graphs.stock(sampler_name=sampler, batch=1))
    for change in ({"deviation": 0.0}, {"scale": 0.0}):
        graph = graphs.async_ksampler(sampler_name=sampler, batch=1, **change)
        assert torch.equal(latents(server, graph), stock), change
    moved = latents(server, graphs.async_ksampler(sampler_name=sampler, batch=1))
    assert torch.isfinite(moved).all() and not torch.equal(moved, stock)


@pytest.mark.parametrize("make", [graphs_regions.asyndm_words, graphs_regions.asyndm_mask])
def test_asyndm_strength_zero_is_stock_bit_for_bit(server, make):
    stock = latents(server, graphs.stock(steps=graphs_regions.STEPS, batch=1))
    assert torch.equal(latents(server, make(strength=0.0, batch=1)), stock)
    assert not torch.equal(latents(server, make(batch=1)), stock)


def test_a_region_with_scale_zero_is_stock_bit_for_bit(server):
    stock = latents(server, graphs.stock(batch=1))
    assert torch.equal(latents(server, graphs_regions.regional_detail(scale=0.0, batch=1)), stock)
    assert not torch.equal(latents(server, graphs_regions.regional_detail(batch=1)), stock)


@pytest.mark.parametrize("name", workflows.embedded())
def test_bundled_workflow_runs(server, info, name):
    graph = workflows.load(name)
    missing = {node["class_type"] for node in graph.values()} - info.keys()
    if missing:
        assert not missing & IDS
        pytest.skip(f"this ComfyUI has no node {', '.join(sorted(missing))}")
    outputs = server.run(graph)
    shown = [entry for output in outputs.values() for entry in output.get("images", [])]
    assert shown and all(len(server.fetch(entry)) > 5000 for entry in shown)


def test_a_graph_with_a_curve_runs_everywhere(server):
    """A curve of 1 changes nothing where it is read, and a host without curves never reads it."""
    plain, curved = graphs.async_ksampler(batch=1), graphs.async_ksampler(batch=1)
    flat = {"points": [[0.0, 1.0], [1.0, 1.0]], "interpolation": "linear"}
    curved["deviation"]["inputs"]["curve"] = flat
    assert torch.equal(latents(server, plain), latents(server, curved))
