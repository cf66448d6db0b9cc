"""The real frontend in a real Chromium: every bundled workflow loads, runs and shows its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from looking import SHOWN, keep_shot, must_be_legible

from async_timestep.harness.editor import (
    CHROMIUM,
    LOAD,
    QUEUED,
    RUN,
    WAIT,
    ZOOM,
)
from async_timestep.harness.workflows import by_eye, downloads, embedded, to_prompt

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FIRST, TRAINED = "01 More detail, same steps", "09 A trained policy, four at once"
LOADERS = ("CheckpointLoaderSimple", "UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader")
THUMBNAILS = """() => [...document.querySelectorAll('[role=dialog] img')]
  .filter(i => i.complete && i.naturalWidth === 512 && i.naturalHeight === 512).length >= 4"""
UNKNOWN = """() => window.app.graph.nodes.filter(n => !n.constructor.nodeData
  && !['Note', 'MarkdownNote'].includes(n.type)).map(n => n.type)"""
MARKED = "() => window.app.graph.nodes.filter(n => n.has_errors).map(n => String(n.id))"


def without_titles(graph: dict) -> dict:
    return {key: (node["class_type"], node["inputs"]) for key, node in graph.items()}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_in_the_editor(page, path):
    """Every node is known; on the embedded model it runs, and each picture and plot is there. The
    loaders of another model, and nothing else, are marked for their missing files.
    """
    workflow = json.loads(path.read_text())
    runs = path.stem in (*embedded(), *by_eye())
    missing = [] if runs else [n for n in workflow["nodes"] if n["type"] in LOADERS]
    offered = [n for n in workflow["nodes"] if n["properties"].get("models")]
    assert offered == (missing if downloads(workflow) else [])
    if runs:
        outcome, detail = page.evaluate(RUN, [workflow, path.stem])
        assert outcome == "execution_success", detail
        types = [node["type"] for node in workflow["nodes"]]
        assert types.count("PreviewImage") >= 2 or path.stem in by_eye()
        kinds = ["PreviewImage", "AsyncTimestepPlot"]
        page.wait_for_function(SHOWN, arg=[kinds, page.mode == "nodes2"])
    else:
        page.evaluate(LOAD, [workflow, path.stem])
        page.wait_for_function(f"() => ({MARKED})().length === {len(missing)}")
    loaded = page.evaluate("() => window.app.graph.nodes.map(n => n.type)")
    assert sorted(loaded) == sorted(node["type"] for node in workflow["nodes"])
    assert page.evaluate(UNKNOWN) == []
    assert without_titles(page.evaluate(QUEUED)) == without_titles(to_prompt(workflow))
    assert sorted(page.evaluate(MARKED)) == sorted(str(node["id"]) for node in missing)
    must_be_legible(page, workflow)
    keep_shot(page, path.stem)
    assert len(page.screenshot()) > 20_000
    assert page.problems == []


def test_the_template_browser_lists_them_with_their_pictures(page):
    """As titles, in any order; a click on one opens it."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    browser = page.get_by_role("dialog")
    browser.get_by_text("async-timestep", exact=True).first.click()
    for path in WORKFLOWS:
        playwright.expect(browser.get_by_text(path.stem, exact=True).first).to_be_visible()
    page.wait_for_function(THUMBNAILS)
    browser.get_by_text(FIRST, exact=True).first.click()
    nodes = len(json.loads(WORKFLOWS[0].read_text())["nodes"])
    page.wait_for_function(f"() => window.app.graph.nodes.length === {nodes}")
    assert page.evaluate(ZOOM) >= 0.75


def must_be_on_screen(page, sentence: str) -> None:
    """What a person reads after a click on the error. The panel fills after it has opened."""
    page.get_by_test_id("error-overlay-see-errors").click()
    panel = page.get_by_test_id("runtime-error-panel")
    playwright.expect(panel).to_contain_text(sentence, timeout=WAIT)


def test_a_mistake_shows_our_sentence(page):
    workflow = json.loads((ROOT / "workflows" / f"{FIRST}.json").read_text())
    prompt = next(n for n in workflow["nodes"] if n.get("title") == "Prompt")
    prompt["widgets_values"] = ["a red dog"]
    outcome, detail = page.evaluate(RUN, [workflow, "mistake"])
    assert outcome == "execution_error"
    assert "does not know the word 'dog'" in detail["exception_message"]
    sentence = "The embedded demo model does not know the word 'dog'; it knows: red, green"
    must_be_on_screen(page, sentence)
    keep_shot(page, "mistake")


def test_a_tpm_that_is_not_there_shows_how_to_get_one(page):
    workflow = json.loads((ROOT / "workflows" / f"{TRAINED}.json").read_text())
    loader = next(n for n in workflow["nodes"] if n["type"] == "AsyncTimestepTPMLoader")
    loader["widgets_values"] = ["flux1_dev.safetensors"]
    outcome, detail = page.evaluate(RUN, [workflow, "missing"])
    assert outcome == "execution_error", detail
    must_be_on_screen(page, "There is no TPM 'flux1_dev.safetensors' in models/tpm, expected a")
    keep_shot(page, "missing_tpm")
