"""Every bundled workflow runs in the real server, and what comes out is what it promises."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from async_timestep.harness import graphs, workflows
from async_timestep.harness.workflows import downloads, find, load

ROOT = Path(__file__).parents[2]

PICTURES = 4  # in each preview, of one seed after the other
TITLE = 30  # pixels of a node's title, above its own place
WIDEST, HIGHEST = 1900, 1060  # of a graph that the editor opens at 0.75 in 1920 x 1080, see below
# what the first plot says; the others have none, or words of their own
REGION, USUAL = "mean over 4 pictures; ", "strength"
PLOTS = {
    "01 More detail, same steps": USUAL,
    "03 Detail only where the words are": REGION,
    "08 Softer or rougher": "omega 1.3",
    "09 A trained policy, four at once": USUAL,
    "10 Finish the background last": "pixels of 4 images 0",
    "11 Finish one half last, by a mask": "pixels of 4 images 0",
    "12 Which pixels should wait": "pixels of 4 images 0",
}
SEEDS = {"seed", "noise_seed"}
INPAINT, TRAINED = "04 Inpaint with more detail", "09 A trained policy, four at once"


def images(server, output: dict) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(server.fetch(e))).convert("RGB")) for e in output["images"]
    ]


def by_type(graph: dict, outputs: dict, kind: str) -> dict:
    """What the first node of this type shows."""
    return outputs[next(key for key, node in graph.items() if node["class_type"] == kind)]


def previews(server, graph: dict, outputs: dict | None = None) -> dict[str, np.ndarray]:
    """The pictures of each PreviewImage, by its title. outputs: of a run, which is done without."""
    outputs = outputs or server.run(graph)
    return {
        node["_meta"]["title"]: np.stack(images(server, outputs[key]))
        for key, node in graph.items()
        if node["class_type"] == "PreviewImage"
    }


def without_effect(graph: dict) -> dict:
    """The graph with everything of ours set to 0."""
    zero = {"deviation_scale": 0.0, "strength": 0.0, "omega": 1.0}
    for node in graph.values():
        node["inputs"].update({key: zero[key] for key in zero.keys() & node["inputs"].keys()})
    return graph


def test_the_names_are_titles_in_order():
    """Sorted as plain strings they come in the order in which to learn; those for a model that has
    to be fetched are the last but for the one whose sheets a person chooses from.
    """
    names = workflows.names()
    assert [name[:3] for name in names] == [f"{k:02d} " for k in range(1, len(names) + 1)]
    kinds = (workflows.embedded, workflows.own, workflows.large, workflows.by_eye)
    assert names == [name for kind in kinds for name in kind()]
    assert all(re.fullmatch(r"[\w ,.-]+", name) for name in names)


@pytest.mark.parametrize("name", workflows.names())
def test_a_note_stands_beside_nodes_that_do_not_overlap(name):
    """It says what to look at, what to turn and what to replace; and the whole graph is as small as
    the editor's fit wants it (which leaves a quarter of the window free).
    """
    saved = workflows.saved(name)
    nodes = saved["nodes"]
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    assert note.startswith(f"## {name[3:]}\n\n")
    starts = {line.split("**")[1] for line in note.splitlines() if line.startswith("**")}
    assert {"Look at", "Turn"} <= starts
    if name in (*workflows.embedded(), *workflows.by_eye()):
        assert any(start.startswith("Your own model") for start in starts)
    assert all((ROOT / page).exists() for page in re.findall(r"docs/[\w/]+\.md", note))
    assert "ds" not in saved["extra"], "a saved view would be another window's"
    open_ones = [node for node in nodes if not node["flags"].get("collapsed")]
    for i, a in enumerate(open_ones):
        for b in open_ones[:i]:
            (ax, ay), (aw, ah), (bx, by), (bw, bh) = a["pos"], a["size"], b["pos"], b["size"]
            beside = ax >= bx + bw or bx >= ax + aw
            assert beside or ay - TITLE >= by + bh or by - TITLE >= ay + ah, (a["type"], b["type"])
    left, top = (min(node["pos"][k] for node in nodes) for k in (0, 1))
    right, bottom = (max(node["pos"][k] + node["size"][k] for node in open_ones) for k in (0, 1))
    assert right - left <= WIDEST and bottom - (top - TITLE) <= HIGHEST


@pytest.mark.parametrize("name", workflows.embedded())
def test_workflow_runs(server, name):
    """It shows off beside on from one seed: every picture differs from off, and is off's as soon as
    ours does nothing, so what is seen is the node's doing. Two stages round differently.
    """
    graph = load(name)
    outputs, types = server.run(graph), [node["class_type"] for node in graph.values()]
    assert ("AsyncTimestepPlot" in types) == (name in PLOTS)
    if name in PLOTS:
        plot = by_type(graph, outputs, "AsyncTimestepPlot")
        assert images(server, plot)[0].shape[1] >= 512
        assert "evaluations" in plot["text"][0] and PLOTS[name] in plot["text"][0]
    if "AsyncTimestepNoiseMeter" in types:
        assert images(server, by_type(graph, outputs, "AsyncTimestepNoiseMeter"))[0].std() > 20

    shown = previews(server, graph, outputs)
    assert all(on.shape == (PICTURES, 128, 128, 3) for on in shown.values())
    assert all(picture.std() > 20 for on in shown.values() for picture in on)
    seeds = {node["inputs"][k] for node in graph.values() for k in SEEDS & node["inputs"].keys()}
    off, before = shown.pop("off").astype(float), shown.pop("before", None)
    assert shown and len(seeds) == (1 if before is None else 2)
    zero = previews(server, without_effect(graph))
    assert np.array_equal(off, zero["off"])
    for title, on in shown.items():
        assert np.abs(on - off).mean(axis=(1, 2, 3)).min() > 0.5, title
        assert np.abs(zero[title] - off).max() <= (1 if "stages" in name else 0), title


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


@pytest.mark.parametrize("name", [*workflows.own(), *workflows.large()])
def test_only_the_files_are_missing(server, name):
    """The real server checks the whole graph of another model: every complaint is a file, which the
    workflow offers to download or leaves to the user.
    """
    answer = server.post("/prompt", {"prompt": load(name), "client_id": "check"})
    complaints = {
        error["extra_info"]["received_value"]
        for node in answer["node_errors"].values()
        for error in node["errors"]
        if error["type"] == "value_not_in_list" or pytest.fail(str(error))
    }
    offered = downloads(workflows.saved(name))
    if name in workflows.own():
        assert not offered and all(file.startswith("your_") for file in complaints)
        assert not any("Demo" in node["class_type"] for node in load(name).values())
    else:
        assert complaints == {model["name"] for model in offered}
    for model in offered:
        assert model["url"].startswith("https://huggingface.co/")
        assert model["url"].endswith("/" + model["name"])
        assert model["directory"] in server.get("/models")


SD35 = {"ckpt_name": "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors"}
FLUX = {"unet_name": "flux1-dev.safetensors", "vae_name": "ae.safetensors"}
CLIP = {"clip_name": "clip_l.safetensors", "type": "stable_diffusion"}
PAPER = {
    "17 Flux.1-dev": "flux1_dev D = +0.5, paper: 10 steps, 512 px",
    "18 Stable Diffusion 3.5 medium": "sd35_medium D = +0.2, paper: 15 steps, 512 px",
}


@pytest.mark.parametrize(
    ("write", "files", "names"),
    [
        ("write_flux", {**FLUX, **CLIP}, ["16 Your model, CLIP and VAE", "17 Flux.1-dev"]),
        (
            "write_sd35",
            SD35,
            [
                "14 Your checkpoint",
                "15 Your checkpoint, second pass",
                "18 Stable Diffusion 3.5 medium",
            ],
        ),
    ],
)
def test_another_models_graph_runs_on_stand_ins(server, write, files, names):
    """Real loaders, tiny files: the family is found and takes the preset of the paper. Smaller
    pictures and fewer steps: the decoder is as large as the real one.
    """
    from async_timestep.harness import stand_ins

    known = {"width": 64, "height": 64, "steps": 3, **files}
    written = getattr(stand_ins, write)(server.base / "models")
    try:
        for name in names:
            graph = stand_ins.without_t5(load(name))
            for node in graph.values():
                if node["class_type"] != "ModelSamplingFlux":
                    node["inputs"].update({k: known[k] for k in known.keys() & node["inputs"]})
            outputs = server.run(graph)
            side = 96 if "second pass" in name else 64
            off, on = (images(server, outputs[find(graph, title)])[0] for title in ("off", "on"))
            assert off.shape == on.shape == (side, side, 3) and not np.array_equal(off, on)
            if name in PAPER:
                assert PAPER[name] in by_type(graph, outputs, "AsyncTimestepPlot")["text"][0]
    finally:
        for file in written:
            file.unlink()


def test_every_graph_of_another_model_runs_on_stand_ins():
    marks = test_another_models_graph_runs_on_stand_ins.pytestmark
    (rows,) = [mark.args[1] for mark in marks if mark.name == "parametrize"]
    named = [name for row in rows for name in row[2]]
    assert sorted(named) == [*workflows.own(), *workflows.large()]


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


def test_the_trained_policy_goes_on_in_its_direction(server):
    """Twice as much goes further in the same direction; off: the stock picture, see above."""
    shown = previews(server, load(TRAINED))
    off, once, twice = (shown[k].astype(float) for k in ("off", "on", "twice as much"))
    change, more = once - off, twice - off
    assert np.abs(change).mean() > 1
    assert (change * more).sum() > 0.5 * np.linalg.norm(change) * np.linalg.norm(more)
    assert np.abs(more).mean() > np.abs(change).mean()


def test_omega_goes_to_opposite_sides(server):
    shown = previews(server, load("08 Softer or rougher"))
    off, softer, rougher = (shown[k].astype(float) for k in ("off", "softer", "rougher"))
    assert all(np.abs(row - off).mean() > 1 for row in (softer, rougher))
    assert ((softer - off) * (rougher - off)).sum() < 0


def test_inpaint_leaves_the_other_half_alone(server):
    """The patch acts under the mask; outside it the picture is the stock inpaint's, bit for bit."""
    shown = previews(server, load(INPAINT))
    edge = 64 - 4  # the enlarged picture mixes two rows at the border
    assert np.array_equal(shown["on"][:, :edge], shown["off"][:, :edge])
    for painted, plain, before in zip(shown["on"], shown["off"], shown["before"], strict=True):
        assert not np.array_equal(painted[64:], plain[64:])
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
