"""The node pages and tooltips as ComfyUI offers them: complete, served, and without dead links."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from async_timestep.scripts.make_pages import LARGEST, PICTURES

ROOT = Path(__file__).parents[2]

DOCS = ROOT / "web" / "docs"
SERVED = "/extensions/async-timestep/docs/"  # where the editor looks: by the folder's name
IDS = (
    "AsyncTimestepModel", "AsyncTimestepKSampler", "AsyncTimestepKSamplerAdvanced",
    "AsyncTimestepTPMLoader", "AsyncTimestepDeviation", "AsyncTimestepDeviationScale",
    "AsyncTimestepVelocityScale", "AsyncTimestepPlot", "AsynDMRegionMask", "AsynDMSampler",
    "AsynDMKSampler", "AsyncTimestepNoiseMeter", "AsyncTimestepDemoLoader",
    "AsyncTimestepTry", "AsyncTimestepChoose",
)  # fmt: skip
ALIASES = {  # what people type, and a node that must be found by it
    "detail daemon": "AsyncTimestepModel",
    "lying sigma": "AsyncTimestepKSampler",
    "detail amount": "AsyncTimestepModel",
    "sigma offset": "AsyncTimestepKSamplerAdvanced",
    "timestep conditioning": "AsyncTimestepModel",
    "deviation": "AsyncTimestepDeviationScale",
    "differential diffusion": "AsynDMKSampler",
    "regional detail": "AsynDMRegionMask",
}
PAPERS = ("https://arxiv.org/abs/2512.18675", "https://arxiv.org/abs/2510.04504")
PAPERS += ("https://arxiv.org/abs/2305.15583",)  # TS-DPM, a preset


@pytest.fixture(scope="module")
def info(server) -> dict:
    found = server.get("/object_info")
    ours = {name: node for name, node in found.items() if "async-timestep" in node["python_module"]}
    assert set(ours) == set(IDS)
    return ours


def inputs(node: dict) -> dict:
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


@pytest.mark.parametrize("name", IDS)
def test_every_input_and_output_has_a_tooltip(info, name):
    node = info[name]
    for key, (_, *details) in inputs(node).items():
        tip = details[0].get("tooltip", "") if details else ""
        assert len(tip) >= 20 and tip.rstrip().endswith("."), (key, tip)
    assert len(node["output_tooltips"]) == len(node["output"])
    assert all(tip and len(tip) >= 20 for tip in node["output_tooltips"]), node["output_tooltips"]
    assert len(node["description"]) >= 40 and node["description"].endswith(".")
    assert node["search_aliases"]


@pytest.mark.parametrize("alias", ALIASES)
def test_what_people_type_finds_a_node(info, alias):
    assert alias in info[ALIASES[alias]]["search_aliases"]


def test_detail_daemon_finds_what_does_it_alone(info):
    """And none of the nodes that only bend a deviation."""
    found = {name for name in IDS if "detail daemon" in info[name]["search_aliases"]}
    samplers = {"AsyncTimestepKSampler", "AsyncTimestepKSamplerAdvanced"}
    assert found == {"AsyncTimestepModel", *samplers}


@pytest.mark.parametrize("name", IDS)
def test_page_names_every_input(info, name):
    page = (DOCS / f"{name}.md").read_text()
    title, _, sentence, *_ = page.splitlines()
    assert title == f"# {info[name]['display_name']}" and sentence.strip()
    for heading in ("## Inputs", "## Recipes", "## Limits", "## Paper"):
        assert f"\n{heading}\n" in page, heading
    rows = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    named = {key.strip() for row in rows for key in row.split(",")}
    assert set(inputs(info[name])) <= named, set(inputs(info[name])) - named
    recipes = page.split("## Recipes")[1].split("## Limits")[0]
    assert 2 <= len(re.findall(r"^- \*\*", recipes, re.MULTILINE)) <= 4


@pytest.mark.parametrize("name", IDS)
def test_page_and_its_pictures_are_served(server, name):
    page = server.fetch_path(f"{SERVED}{name}.md").decode()
    assert page == (DOCS / f"{name}.md").read_text()
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
    assert pictures
    for path in pictures:
        data = server.fetch_path(SERVED + path)
        assert len(data) < LARGEST
        with Image.open(io.BytesIO(data)) as picture:
            assert 400 <= picture.width <= 800


@pytest.mark.parametrize("name", IDS)
def test_links_resolve_in_the_editor_too(name):
    """The editor resolves the address of a picture by the page's folder, but that of a link by the
    server's root: there a link to another page would be dead. Pages name other nodes in bold."""
    page = (DOCS / f"{name}.md").read_text()
    links = re.findall(r"(?<!!)\[[^\]]+\]\(([^)]+)\)", page)
    assert set(links) <= set(PAPERS), links
    displayed = {(DOCS / f"{i}.md").read_text().splitlines()[0][2:] for i in IDS}
    for node in re.findall(r"\*\*((?:Async|AsynDM|TPM|Demo|Noise)[^*]*)\*\*", page):
        assert node in displayed or node == "TPM", node


def test_every_picture_is_made_by_the_script_and_shown():
    made = {path.stem for path in (DOCS / "images").iterdir()}
    assert made == set(PICTURES)
    pages = "".join((DOCS / f"{name}.md").read_text() for name in IDS)
    assert all(f"images/{name}." in pages for name in made)


ADD = """name => {
  const node = window.LiteGraph.createNode(name)
  node.pos = [200, 300]
  window.app.graph.clear(); window.app.graph.add(node); window.app.canvas.selectNode(node)
}"""
WIDTHS = "() => [...document.querySelectorAll('.node-help-content img')].map(i => i.naturalWidth)"


@pytest.mark.browser
def test_page_in_the_editor(server, tmp_path):
    """The Info panel of a node shows its page, and every picture of it has arrived."""
    playwright = pytest.importorskip("playwright.sync_api")
    from async_timestep.harness.editor import CHROMIUM, open_page

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as play:
        page = open_page(play, server, size=(1500, 1000))
        page.evaluate(ADD, "AsynDMKSampler")
        page.get_by_test_id("info-button").click()
        page.wait_for_selector(".node-help-content h1")
        page.wait_for_function(f"() => ({WIDTHS})().length && ({WIDTHS})().every(Boolean)")
        widths, title = page.evaluate(WIDTHS), page.inner_text(".node-help-content h1")
        shots = Path(os.environ.get("ASYNC_TIMESTEP_SHOTS") or tmp_path)
        page.screenshot(path=shots / "page.png")
    assert title == "AsynDM KSampler"
    assert len(widths) == 2 and all(width > 400 for width in widths), widths
