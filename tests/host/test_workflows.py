"""Every bundled workflow runs in the real server, and what comes out is what it promises."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from async_timestep.harness import graphs, workflows
from async_timestep.harness.workflows import change, downloads, find, load

ROOT = Path(__file__).parents[2]

PICTURES = {"demo_9_tpm_scale_sweep": 9}  # the others show four
TITLE = 30  # pixels of a node's title, above its own place


def images(server, output: dict) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(server.fetch(e))).convert("RGB")) for e in output["images"]
    ]


def by_type(graph: dict, outputs: dict, kind: str) -> dict:
    """What the first node of this type shows."""
    return outputs[next(key for key, node in graph.items() if node["class_type"] == kind)]


def preview(server, graph: dict) -> list[np.ndarray]:
    return images(server, server.run(graph)[find(graph, "PreviewImage")])


@pytest.mark.parametrize("name", workflows.names())
def test_a_note_stands_beside_nodes_that_do_not_overlap(name):
    nodes = workflows.saved(name)["nodes"]
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    assert note.startswith("## ")
    assert all((ROOT / page).exists() for page in re.findall(r"docs/[\w/]+\.md", note))
    for i, a in enumerate(nodes):
        for b in nodes[:i]:
            (ax, ay), (aw, ah), (bx, by), (bw, bh) = a["pos"], a["size"], b["pos"], b["size"]
            beside = ax >= bx + bw or bx >= ax + aw
            assert beside or ay - TITLE >= by + bh or by - TITLE >= ay + ah, (a["type"], b["type"])


@pytest.mark.parametrize("name", workflows.embedded())
def test_workflow_runs(server, name):
    graph = load(name)
    outputs, types = server.run(graph), [node["class_type"] for node in graph.values()]
    pictures = images(server, by_type(graph, outputs, "PreviewImage"))
    assert len(pictures) == PICTURES.get(name, 4)
    assert all(p.shape == (128, 128, 3) and p.std() > 20 for p in pictures)
    if "AsyncTimestepPlot" in types:
        shown = by_type(graph, outputs, "AsyncTimestepPlot")
        assert images(server, shown)[0].shape[1] >= 512
        assert "evaluations" in shown["text"][0]
        # what the first plot says: of the sweep it is the stock row
        special = {"demo_9_tpm_scale_sweep": "off", "demo_10_velocity_scale": "omega 0.75"}
        by_pixel = "asyndm" in name or "waiting" in name
        usual = "steps behind" if by_pixel else "strength"
        assert special.get(name, usual) in shown["text"][0]
    if "AsyncTimestepNoiseMeter" in types:
        assert images(server, by_type(graph, outputs, "AsyncTimestepNoiseMeter"))[0].std() > 20
    if "AsynDMRegionMask" in types:
        # some sample one picture three times over, the others four at once
        alone = name in ("demo_7_asyndm_compared", "demo_12_waiting_pixels")
        asyndm = "pixels 0" if alone else "pixels of 4 images 0"
        wanted = asyndm if alone or "asyndm" in name else "mean over 4 pictures; "
        assert wanted in shown["text"][0]


@pytest.mark.parametrize("name", workflows.names())
def test_workflow_is_offered_with_its_picture(server, name):
    offered = server.get("/workflow_templates")
    assert name in offered["async-timestep"]
    with Image.open(workflows.FOLDER / f"{name}.jpg") as picture:
        assert picture.size == (512, 512)


@pytest.mark.parametrize("name", workflows.names())
def test_a_saved_workflow_has_a_value_for_every_input(server, name):
    """And none that the server does not know. That the editor queues the same: test_browser.py."""
    info = server.get("/object_info")
    for number, node in load(name).items():
        known = info[node["class_type"]]["input"]
        optional = known.get("optional", {}).keys()
        asked = {key for key in known.get("required", {}) if "AUTOGROW" not in str(known)}
        assert asked <= node["inputs"].keys(), number
        own = {key.split(".")[0] for key in node["inputs"]}
        assert own <= known.get("required", {}).keys() | optional, number


@pytest.mark.parametrize("name", workflows.large())
def test_only_the_files_are_missing(server, name):
    """The real server checks the whole graph of a large model: every complaint is a file that the
    workflow offers to download.
    """
    answer = server.post("/prompt", {"prompt": load(name), "client_id": "check"})
    complaints = {
        error["extra_info"]["received_value"]
        for node in answer["node_errors"].values()
        for error in node["errors"]
        if error["type"] == "value_not_in_list" or pytest.fail(str(error))
    }
    offered = downloads(workflows.saved(name))
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
    """Real loaders, tiny files: the family is found and takes the preset of the paper. A smaller
    picture: the decoder is as large as the real one.
    """
    from async_timestep.harness import stand_ins

    files = getattr(stand_ins, write)(server.base / "models")
    try:
        graph = load(name)
        change(graph, "EmptySD3LatentImage", width=128, height=128)
        outputs = server.run(stand_ins.without_t5(graph))
    finally:
        for file in files:
            file.unlink()
    (picture,) = images(server, by_type(graph, outputs, "SaveImage"))
    assert picture.shape == (128, 128, 3)
    shown = by_type(graph, outputs, "AsyncTimestepPlot")
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
    shown = preview(server, load("demo_9_tpm_scale_sweep"))
    off, once, twice = (np.stack(shown[k : k + 3]).astype(float) for k in (0, 3, 6))
    assert np.array_equal(off, np.stack(stock))
    change, more = once - off, twice - off
    assert np.abs(change).mean() > 1
    assert (change * more).sum() > 0.5 * np.linalg.norm(change) * np.linalg.norm(more)
    assert np.abs(more).mean() > np.abs(change).mean()


def test_the_velocity_scale_begins_with_the_stock_picture(server):
    """Stock, omega below 1, above 1, and omega that follows the time."""
    (stock,) = images(server, server.run(graphs.stock(batch=1))["preview"])
    shown = preview(server, load("demo_10_velocity_scale"))
    off, calmer, rougher, daemon = (picture.astype(float) for picture in shown)
    assert np.array_equal(off, stock)
    assert all(np.abs(row - off).mean() > 1 for row in (calmer, rougher, daemon))
    assert ((calmer - off) * (rougher - off)).sum() < 0  # to opposite sides


def test_waiting_pixels_begins_with_the_stock_picture(server):
    """Stock, the words, the words grown, all but the words: four different pictures."""
    graph = load("demo_12_waiting_pixels")
    (prompt,) = [n for n in graph.values() if n["class_type"] == "PrimitiveStringMultiline"]
    plain = graphs.stock(prompt["inputs"]["value"], seed=24, batch=1, steps=10)
    shown = preview(server, graph)
    assert np.array_equal(shown[0], images(server, server.run(plain)["preview"])[0])
    pairs = [(a, b) for i, a in enumerate(shown) for b in shown[:i]]
    assert len(pairs) == 6 and not any(np.array_equal(a, b) for a, b in pairs)


def test_inpaint_leaves_the_other_half_alone(server):
    """The patch acts under the mask; outside it the picture is the stock inpaint's, bit for bit."""
    stock = change(load("demo_11_inpaint"), "AsyncTimestepModel", deviation_scale=0.0)
    first, second, *after = preview(server, load("demo_11_inpaint"))
    plain = preview(server, stock)[2:]
    edge = 64 - 4  # the enlarged picture mixes two rows at the border
    for before, painted, other in zip((first, second), after, plain, strict=True):
        assert np.array_equal(painted[:edge], other[:edge])
        assert not np.array_equal(painted[64:], other[64:])
        moved = np.abs(painted.astype(float) - before)
        assert moved[:edge].mean() < 0.3 * moved[64:].mean()


def test_stages_equal_the_single_run(server):
    graph = graphs.split_sigmas()
    single = {k: v for k, v in graph.items() if k not in ("first", "second", "split", "silence")}
    single["one"] = {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {
            **graph["first"]["inputs"],
            "sigmas": ["schedule", 0],
        },
    }
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
