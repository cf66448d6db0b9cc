"""The newest front end of the registry on the same host: templates open, run and draw as with its
own. It is fetched once, into .host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from looking import SHOWN, keep_shot, must_be_legible

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.editor import CHROMIUM, LOAD, RUN
from async_timestep.harness.front_end import VERSION, ensure_front_end

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

WORKFLOWS = Path(__file__).parents[2] / "workflows"
FIRST = "01 More detail, same steps"
WITH_PREVIEW = "02 How much detail is too much"
PEAK = """peak => { const all = window.app.graph.nodes.flatMap(n => n.widgets ?? [])
  const preview = all.find(w => w.name === 'preview')
  return preview.element.isConnected && preview.shown?.answer.peak === peak
    && preview.element.innerText.includes(`+${peak}`) }"""
SET = """value => { for (const node of window.app.graph.nodes)
  if (node.type === 'AsyncTimestepDeviation')
    node.widgets.find(w => w.name === 'deviation').value = value }"""


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """In the place of the other tests' one."""
    try:
        pages = ensure_front_end()
    except SystemExit as failed:
        pytest.skip(f"the registry gives no front end {VERSION}: {failed}")
    flags = ("--cpu", "--front-end-root", str(pages))
    with ComfyServer(tmp_path_factory.mktemp("newest"), flags=flags) as running:
        yield running


def test_it_is_the_newest_that_is_looked_at(page):
    assert page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__") == VERSION


def test_a_template_ends_with_its_pictures(page):
    workflow = json.loads((WORKFLOWS / f"{FIRST}.json").read_text())
    samplers = [node for node in workflow["nodes"] if "KSampler" in node["type"]]
    for node in samplers:  # in each editor another seed, or the second run is from the cache
        node["widgets_values"][0] += page.mode == "nodes2"
    assert samplers
    outcome, detail = page.evaluate(RUN, [workflow, FIRST])
    assert outcome == "execution_success", detail
    page.wait_for_function(SHOWN, arg=[["PreviewImage"], page.mode == "nodes2"])
    must_be_legible(page, workflow)
    keep_shot(page, f"newest {FIRST}")
    assert page.evaluate(RUN, [workflow, FIRST])[0] == "execution_success"  # from the cache
    assert page.problems == []


def test_the_deviation_shows_its_curve(page):
    workflow = json.loads((WORKFLOWS / f"{WITH_PREVIEW}.json").read_text())
    page.evaluate(LOAD, [workflow, WITH_PREVIEW])
    page.wait_for_function(PEAK, arg=0.5)
    must_be_legible(page, workflow)
    page.evaluate(SET, 0.75)
    page.wait_for_function(PEAK, arg=0.75)
    keep_shot(page, f"newest {WITH_PREVIEW}")
    assert page.problems == []
