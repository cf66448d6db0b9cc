"""Every bundled workflow runs in the real server, and what comes out is what it promises."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ui_format import to_prompt

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import example_workflows  # noqa: E402
import graphs  # noqa: E402

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


def images(server, output: dict) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(server.fetch(e))).convert("RGB")) for e in output["images"]
    ]


def by_type(workflow: dict, outputs: dict, kind: str) -> dict:
    node = next(node for node in workflow["nodes"] if node["type"] == kind)
    return outputs[str(node["id"])]


def test_the_folder_holds_what_the_graphs_say():
    assert [path.stem for path in WORKFLOWS] == sorted(example_workflows.WORKFLOWS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs(server, path):
    workflow = json.loads(path.read_text())
    outputs = server.run(to_prompt(workflow, server.get("/object_info")))
    pictures = images(server, by_type(workflow, outputs, "PreviewImage"))
    assert len(pictures) == 4
    assert all(p.shape == (128, 128, 3) and p.std() > 20 for p in pictures)
    if "AsyncTimestepPlot" in [node["type"] for node in workflow["nodes"]]:
        shown = by_type(workflow, outputs, "AsyncTimestepPlot")
        assert images(server, shown)[0].shape[1] >= 512
        assert "peak cut" in shown["text"][0]
    if "AsynDMRegionMask" in [node["type"] for node in workflow["nodes"]]:
        assert "means over the picture" in shown["text"][0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_offered_with_its_picture(server, path):
    offered = server.get("/workflow_templates")
    assert path.stem in offered["async-timestep"]
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.size == (512, 512)


def test_the_saved_prompt_is_the_graph(server):
    """The editor kept every value and wire (widgets in their order, nothing shifted)."""
    info = server.get("/object_info")
    for path in WORKFLOWS:
        saved = to_prompt(json.loads(path.read_text()), info)
        graph = example_workflows.WORKFLOWS[path.stem]()
        names = {str(k): word for k, word in enumerate(graph, start=1)}
        for number, node in saved.items():
            wanted = graph[names[number]]
            assert node["class_type"] == wanted["class_type"]
            for name, value in wanted["inputs"].items():
                got = node["inputs"][name]
                got = [names[got[0]], got[1]] if isinstance(got, list) else got
                assert got == value, (path.stem, number, name)


@pytest.mark.parametrize("path", sorted((ROOT / "web" / "docs").glob("*.md")), ids=lambda p: p.stem)
def test_a_node_page_is_served_where_the_editor_looks(server, path):
    """And names every input of its node."""
    text = server.fetch_path(f"/extensions/async-timestep/docs/{path.name}").decode()
    assert text == path.read_text()
    inputs = server.get("/object_info")[path.stem]["input"]
    own = {"region", "strength", "eta"} if path.stem == "AsynDMKSampler" else None
    for name in {*inputs.get("required", {}), *inputs.get("optional", {})}:
        assert name in text or (own is not None and name not in own), name


def test_scale_zero_is_the_stock_picture_and_half_is_not(server):
    stock = images(server, server.run(graphs.stock())["preview"])
    zero = images(server, server.run(graphs.async_ksampler(scale=0.0))["preview"])
    half = images(server, server.run(graphs.async_ksampler())["preview"])
    assert all(np.array_equal(a, b) for a, b in zip(stock, zero, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(stock, half, strict=True))


def test_stages_equal_the_single_run(server):
    graph = graphs.split_sigmas()
    single = {k: v for k, v in graph.items() if k not in ("first", "second", "split", "silence")}
    single["one"] = {"class_type": "SamplerCustomAdvanced", "inputs": {
        **graph["first"]["inputs"], "sigmas": ["schedule", 0],
    }}  # fmt: skip
    single["decode"] = {
        "class_type": "VAEDecode",
        "inputs": {"samples": ["one", 0], "vae": ["loader", 2]},
    }
    single["plot"]["inputs"]["after"] = ["one", 0]
    staged = images(server, server.run(graph)["preview"])
    whole = images(server, server.run(single)["preview"])
    for a, b in zip(staged, whole, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_an_unknown_word_names_the_known_ones(server):
    with pytest.raises(RuntimeError, match="does not know the word 'dog'; it knows: red, green"):
        server.run(graphs.stock(prompt="a red dog"))


def test_the_log_is_clean(server):
    text = server.log.read_text()
    assert "IMPORT FAILED" not in text
    assert "async-timestep" in text
