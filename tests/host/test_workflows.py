"""Every bundled workflow runs in the real server, and what comes out is what it promises."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from async_timestep.harness import graphs
from async_timestep.harness.ui_format import to_prompt
from async_timestep.scripts import example_workflows, graphs_compared

ROOT = Path(__file__).parents[2]

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
EMBEDDED = [path for path in WORKFLOWS if path.stem in example_workflows.WORKFLOWS]
PICTURES = {"demo_9_tpm_scale_sweep": 9}  # the others show four
TITLE = 30  # pixels of a node's title, above its own place


def images(server, output: dict) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(server.fetch(e))).convert("RGB")) for e in output["images"]
    ]


def by_type(workflow: dict, outputs: dict, kind: str) -> dict:
    node = next(node for node in workflow["nodes"] if node["type"] == kind)
    return outputs[str(node["id"])]


def test_the_folder_holds_what_the_graphs_say():
    assert [path.stem for path in WORKFLOWS] == sorted(example_workflows.EVERY)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_note_stands_beside_nodes_that_do_not_overlap(path):
    nodes = json.loads(path.read_text())["nodes"]
    notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    assert notes == [example_workflows.NOTES[path.stem]]
    for i, a in enumerate(nodes):
        for b in nodes[:i]:
            (ax, ay), (aw, ah), (bx, by), (bw, bh) = a["pos"], a["size"], b["pos"], b["size"]
            beside = ax >= bx + bw or bx >= ax + aw
            assert beside or ay - TITLE >= by + bh or by - TITLE >= ay + ah, (a["type"], b["type"])


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_workflow_runs(server, path):
    workflow = json.loads(path.read_text())
    outputs = server.run(to_prompt(workflow, server.get("/object_info")))
    pictures = images(server, by_type(workflow, outputs, "PreviewImage"))
    assert len(pictures) == PICTURES.get(path.stem, 4)
    assert all(p.shape == (128, 128, 3) and p.std() > 20 for p in pictures)
    if "AsyncTimestepPlot" in [node["type"] for node in workflow["nodes"]]:
        shown = by_type(workflow, outputs, "AsyncTimestepPlot")
        assert images(server, shown)[0].shape[1] >= 512
        assert "evaluations" in shown["text"][0]
        # what the first plot says: of the sweep it is the stock row
        special = {"demo_9_tpm_scale_sweep": "off", "demo_10_velocity_scale": "omega 0.75"}
        assert special.get(path.stem, "peak cut") in shown["text"][0]
    if "AsyncTimestepNoiseMeter" in [node["type"] for node in workflow["nodes"]]:
        assert images(server, by_type(workflow, outputs, "AsyncTimestepNoiseMeter"))[0].std() > 20
    if "AsynDMRegionMask" in [node["type"] for node in workflow["nodes"]]:
        # this one samples one picture three times over, the others four at once
        over = {"demo_7_asyndm_compared": "the picture"}.get(path.stem, "4 pictures")
        assert f"(means over {over}; " in shown["text"][0]


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
        graph = example_workflows.EVERY[path.stem]()
        names = {str(k): word for k, word in enumerate(graph, start=1)}
        for number, node in saved.items():
            wanted = graph[names[number]]
            assert node["class_type"] == wanted["class_type"]
            left = set(node["inputs"]) - {"curve"}  # the editor's own default, flat
            assert left == set(wanted["inputs"]), (path.stem, number)
            for name, value in wanted["inputs"].items():
                got = node["inputs"][name]
                got = [names[got[0]], got[1]] if isinstance(got, list) else got
                assert got == value, (path.stem, number, name)


@pytest.mark.parametrize("name", example_workflows.LARGE)
def test_only_the_files_are_missing(server, name):
    """The real server checks the whole graph of a large model: every complaint is a file that the
    workflow offers to download.
    """
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    prompt = to_prompt(workflow, server.get("/object_info"))
    answer = server.post("/prompt", {"prompt": prompt, "client_id": "check"})
    complaints = {
        error["extra_info"]["received_value"]
        for node in answer["node_errors"].values()
        for error in node["errors"]
        if error["type"] == "value_not_in_list" or pytest.fail(str(error))
    }
    offered = [m for node in workflow["nodes"] for m in node["properties"].get("models", [])]
    assert complaints == {model["name"] for model in offered}
    for model in offered:
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith("/" + model["name"])
        assert model["directory"] in server.get("/models")


@pytest.mark.parametrize(
    ("name", "write", "remark"),
    [
        ("flux1_dev_async_timestep", "write_flux", "flux1_dev D = +0.5, paper: 10 steps, 512 px"),
        (
            "sd35_medium_async_timestep",
            "write_sd35",
            "sd35_medium D = +0.2, paper: 15 steps, 512 px",
        ),
    ],
)
def test_a_large_models_graph_runs_on_stand_ins(server, name, write, remark):
    """Real loaders, tiny files: the family is found and takes the preset of the paper."""
    from async_timestep.harness import stand_ins

    files = getattr(stand_ins, write)(server.base / "models")
    try:
        workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
        prompt = to_prompt(workflow, server.get("/object_info"))
        outputs = server.run(stand_ins.without_t5(prompt))
    finally:
        for file in files:
            file.unlink()
    (picture,) = images(server, by_type(workflow, outputs, "SaveImage"))
    assert picture.shape == (512, 512, 3)
    shown = by_type(workflow, outputs, "AsyncTimestepPlot")
    assert remark in shown["text"][0]


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


def test_the_sweep_begins_with_the_stock_picture(server):
    """Rows of three seeds: scale 0 is stock, 1 is the TPM, 2 goes further in the same direction."""
    stock = images(server, server.run(graphs.stock(batch=3))["preview"])
    shown = images(server, server.run(graphs_compared.tpm_scale_sweep())["preview"])
    off, once, twice = (np.stack(shown[k : k + 3]).astype(float) for k in (0, 3, 6))
    assert np.array_equal(off, np.stack(stock))
    change, more = once - off, twice - off
    assert np.abs(change).mean() > 1
    assert (change * more).sum() > 0.5 * np.linalg.norm(change) * np.linalg.norm(more)
    assert np.abs(more).mean() > np.abs(change).mean()


def test_the_velocity_scale_begins_with_the_stock_picture(server):
    """Stock, omega below 1, above 1, and omega that follows the time."""
    (stock,) = images(server, server.run(graphs.stock(batch=1))["preview"])
    shown = images(server, server.run(graphs_compared.velocity_scale())["preview"])
    off, calmer, rougher, daemon = (picture.astype(float) for picture in shown)
    assert np.array_equal(off, stock)
    assert all(np.abs(row - off).mean() > 1 for row in (calmer, rougher, daemon))
    assert ((calmer - off) * (rougher - off)).sum() < 0  # to opposite sides


def test_inpaint_leaves_the_other_half_alone(server):
    """The patch acts under the mask; outside it the picture is the stock inpaint's, bit for bit."""
    graph = graphs_compared.inpaint()
    stock = {**graph, "patch": {**graph["patch"], "inputs": dict(graph["patch"]["inputs"])}}
    stock["patch"]["inputs"]["deviation_scale"] = 0.0
    first, second, *after = images(server, server.run(graph)["preview"])
    plain = images(server, server.run(stock)["preview"])[2:]
    edge = 64 - 4  # the enlarged picture mixes two rows at the border
    for before, painted, other in zip((first, second), after, plain, strict=True):
        assert np.array_equal(painted[:edge], other[:edge])
        assert not np.array_equal(painted[64:], other[64:])
        change = np.abs(painted.astype(float) - before)
        assert change[:edge].mean() < 0.3 * change[64:].mean()


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
