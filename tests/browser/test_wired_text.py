"""The Region Mask where a wire gives its text: no hole in the node, and the box is back without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from async_timestep.harness.editor import CHROMIUM, DRAWN, LOAD

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)

WORKFLOWS = Path(__file__).parents[2] / "workflows"
NAME = "03 Detail only where the words are"
NODE = "window.app.graph.nodes.find(n => n.type === 'AsynDMRegionMask')"
# heights of the rows by name, of the node, and of the least that it can have
ROWS = """node => { window.app.canvas.draw(true, true); return {
  ...Object.fromEntries(node.widgets.map(w => [w.name, w.computedHeight])),
  node: node.size[1], least: node.computeSize()[1]} }"""
CUT = "node => node.disconnectInput(node.inputs.findIndex(i => i.name === 'text'))"
FREE = "node => node.inputs.every(i => i.name !== 'text' || i.link == null)"
BOX = "node => node.widgets.find(w => w.name === 'text').element.checkVisibility()"


@pytest.fixture
def node(page):
    page.evaluate(LOAD, [json.loads((WORKFLOWS / f"{NAME}.json").read_text()), NAME])
    page.problems.clear()
    yield page.evaluate_handle(f"() => {NODE}")
    assert page.problems == []


def test_a_text_that_a_wire_gives_is_one_row(page, node):
    if page.mode == "nodes2":
        return page.wait_for_function(f"nodes2 => ({DRAWN})(nodes2).includes('text')", arg=True)
    rows = page.evaluate(ROWS, node)
    assert rows["text"] == rows["threshold"] and rows["node"] == rows["least"]
    assert "text" in page.evaluate(DRAWN, False)


def test_without_the_wire_its_box_is_back(page, node):
    before = page.evaluate(ROWS, node)
    page.evaluate(CUT, node)
    page.wait_for_function(
        "n => n.inputs.every(i => i.name !== 'text' || i.link == null)", arg=node
    )
    if page.mode == "classic":
        page.wait_for_function(BOX, arg=node)
        rows = page.evaluate(ROWS, node)
        assert rows["text"] > 2 * before["text"] and rows["node"] > before["node"]
