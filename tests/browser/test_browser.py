"""The real frontend in a real Chromium: every bundled workflow loads, runs and shows its result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from comfy_server import ComfyServer  # noqa: E402
from make_workflows import CHROMIUM, RUN, fit, open_page  # noqa: E402

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
BROKEN = """() => window.app.graph.nodes.filter(n => n.has_errors || !n.constructor.nodeData
  && !['Note', 'MarkdownNote'].includes(n.type)).map(n => n.type)"""
PICTURES = """() => window.app.graph.nodes.filter(n => n.imgs?.length).map(
  n => [n.type, n.imgs[0].naturalWidth])"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ComfyServer(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes2"])
def page(request, server):
    with playwright.sync_playwright() as play:
        page = open_page(play, server, nodes2=request.param)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.mode = "nodes2" if request.param else "classic"
        yield page


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_in_the_editor(page, path, tmp_path):
    workflow = json.loads(path.read_text())
    outcome, detail = page.evaluate(RUN, [workflow, path.stem])
    assert outcome == "execution_success", detail
    assert page.evaluate(BROKEN) == []
    page.wait_for_timeout(1000)
    if page.mode == "classic":
        shown = dict(page.evaluate(PICTURES))
        assert shown["PreviewImage"] == 128
        assert ("AsyncTimestepPlot" in shown) == ("stock" not in path.stem)
    else:
        assert page.locator("img[src*='/view?']").count() >= 1
    fit(page)
    shots = Path(os.environ.get("ASYNC_TIMESTEP_SHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    shot = shots / f"{path.stem}_{page.mode}.png"
    page.screenshot(path=shot)
    assert shot.stat().st_size > 20_000
    assert page.problems == []


def test_a_mistake_shows_our_sentence(page):
    workflow = json.loads((ROOT / "workflows" / "demo_1_stock_ksampler.json").read_text())
    prompt = next(n for n in workflow["nodes"] if n.get("title") == "Prompt")
    prompt["widgets_values"] = ["a red dog"]
    outcome, detail = page.evaluate(RUN, [workflow, "mistake"])
    assert outcome == "execution_error"
    assert "does not know the word 'dog'" in detail["exception_message"]
