"""The curve in the Deviation node, in both editors: its numbers are those of the policy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from async_timestep.harness.editor import CHROMIUM, LOAD, SAVED

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

WORKFLOWS = Path(__file__).parents[2] / "workflows"
WITH_IT = [
    path
    for path in sorted(WORKFLOWS.glob("*.json"))
    if '"AsyncTimestepDeviation"' in path.read_text()
]
NAME, STEPS = WITH_IT[0].stem, 4
NODE = "window.app.graph.nodes.find(n => n.type === 'AsyncTimestepDeviation')"
# of a node: what its preview shows, once it has asked for the node's present values
SHOWN = """node => {
  const widget = node.widgets.find(w => w.name === 'preview')
  const value = name => node.widgets.find(w => w.name === name)?.value
  const { asked, answer } = widget.shown ?? {}
  if (!asked || !document.contains(widget.element)) return false
  const said = asked.startsWith('{') ? JSON.parse(asked) : null
  const same = n => JSON.stringify(said[n]) === JSON.stringify(value(n))
  if (said && !NAMES.every(same)) return false
  return {said: said ?? asked, answer, text: widget.element.innerText,
    path: widget.element.querySelector('path')?.getAttribute('d') ?? null} }"""
NAMES = ["preset", "deviation", "start_percent", "end_percent", "unit", "mode", "curve"]
SET = """([node, values]) => { for (const [name, value] of Object.entries(values))
  node.widgets.find(w => w.name === name).value = value }"""
PLACE = """node => { const w = node.widgets.find(w => w.name === 'deviation')
  return window.app.canvas.convertOffsetToCanvas(
    [node.pos[0] + node.size[0] - 20, node.pos[1] + w.y + 12]) }"""
FLAT = {"points": [[0, 1], [1, 1]], "interpolation": "linear"}
FRESH = {"preset": "custom", "deviation": 0.5, "start_percent": 0, "end_percent": 1}
FRESH |= {"unit": "interval", "mode": "conditioning", "curve": FLAT}


@pytest.fixture
def node(page):
    """The Deviation of a template, for `evaluate`."""
    page.evaluate(LOAD, [json.loads(WITH_IT[0].read_text()), NAME])
    page.problems.clear()
    yield page.evaluate_handle(f"() => {NODE}")
    assert page.problems == []


def shown(page, node) -> dict:
    seen = page.wait_for_function(SHOWN.replace("NAMES", json.dumps(NAMES)), arg=node)
    return seen.json_value()


def drawn_values(path: str, steps: int) -> list[float]:
    """The upper stair of the path, where 0 to 1 is drawn from 100 to 0 (and -1 at 100, 0 at 0)."""
    points = re.findall(r"([\d.]+) ([\d.]+)", path)[: 2 * steps]
    return [float(y) for _, y in points[::2]]


def test_a_click_on_the_slider_moves_the_curve(page, node):
    first = shown(page, node)
    assert first["answer"]["low"] == [0, 0.5, 0.5, 0.5]
    if page.mode == "classic":
        x, y = page.evaluate(PLACE, node)
        page.mouse.click(x, y)
    else:
        rows = page.locator(f"[data-node-id='{page.evaluate('n => n.id', node)}']")
        row = rows.get_by_test_id("node-widget").filter(has_text="deviation").first
        row.locator("button").last.click()
    page.wait_for_function("n => n.widgets[1].value > 0.5", arg=node)
    moved = shown(page, node)
    assert moved["answer"]["low"] == pytest.approx([0, 0.51, 0.51, 0.51])
    assert "+0.51" in moved["text"] and f"on steps 2 to {STEPS} of {STEPS}" in moved["text"]
    for axis in ("+1", "0", "0 noisy", "0.5", "finished 1"):
        assert axis in moved["text"].split("\n")
    assert drawn_values(moved["path"], STEPS) == pytest.approx([100, 49, 49, 49], abs=0.1)


@pytest.mark.parametrize("unit", ["interval", "percent"])
def test_the_numbers_are_those_of_the_setting(page, node, unit):
    """By the equation of each: a constant, a window on the noise, a curve over k / K, a preset."""
    share = np.arange(STEPS) / STEPS
    roof = {"points": [[0, 0], [0.5, 1], [1, 0]], "interpolation": "linear"}
    after_first = (share > 0).astype(float)
    wanted = [
        ({"deviation": -0.7}, -0.7 * after_first),
        ({"start_percent": 0.5, "deviation": 0.3}, 0.3 * (share >= 0.5)),
        ({"curve": roof, "deviation": 1}, np.interp(share, [0, 0.5, 1], [0, 1, 0])),
        ({"preset": "sd35_medium"}, 0.2 * after_first),
        ({"deviation": 0}, 0 * share),
        ({"mode": "follow_time"}, 0.5 * after_first),
    ]
    for values, numbers in wanted:
        page.evaluate(SET, [node, {**FRESH, "unit": unit, **values}])
        seen = shown(page, node)
        assert seen["answer"]["low"] == seen["answer"]["high"] == pytest.approx(list(numbers))
        peak = numbers[np.abs(numbers).argmax()]
        word = f"{abs(peak):.2f}" if peak else "off"
        assert word in seen["text"], values


def test_auto_and_an_error_are_said(page, node):
    page.evaluate(SET, [node, {**FRESH, "preset": "auto"}])
    assert "flux1_dev +0.5" in shown(page, node)["text"]
    page.evaluate(SET, [node, {**FRESH, "start_percent": 0.9, "end_percent": 0.1}])
    seen = shown(page, node)
    assert seen["path"] is None and "exchange the two" in seen["text"]


def test_a_connected_value_is_known_in_the_run_only(page, node):
    page.evaluate(
        """node => { const graph = window.app.graph
        const source = window.LiteGraph.createNode('PrimitiveFloat')
        graph.add(source)
        source.connect(0, node, node.inputs.findIndex(i => i.name === 'deviation')) }""",
        node,
    )
    page.wait_for_function("n => n.widgets.at(-1).shown?.asked.includes('comes from')", arg=node)
    seen = shown(page, node)
    assert seen["path"] is None and seen["text"].strip().startswith("+1")
    assert "deviation comes from outside of this node" in seen["text"]


def test_a_server_that_is_away_gives_a_text(page, node):
    """And comes back. A page that knows that the server is away asks nothing."""
    shown(page, node)
    where, asked = "**/async_timestep/deviation", []
    page.route(where, lambda route: route.fulfill(status=404))
    page.evaluate(SET, [node, {"deviation": 0.1}])
    assert "404" in shown(page, node)["text"]
    page.unroute(where)
    page.route(where, lambda route: route.abort())
    page.evaluate(SET, [node, {"deviation": 0.2}])
    assert "the server does not answer" in shown(page, node)["text"]
    page.unroute(where)
    page.route(where, lambda route: (asked.append(1), route.continue_()))
    errors = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.evaluate("() => window.app.api.dispatchEvent(new CustomEvent('reconnecting'))")
    page.evaluate(SET, [node, {"deviation": 0.3}])
    assert "the server does not answer" in shown(page, node)["text"]
    assert asked == [] and errors == []
    page.evaluate("() => window.app.api.dispatchEvent(new CustomEvent('reconnected'))")
    page.wait_for_function("n => n.widgets.at(-1).shown?.answer.peak", arg=node)
    assert shown(page, node)["answer"]["peak"] == pytest.approx(0.3)
    page.unroute(where)


def test_copies_old_graphs_and_nodes_that_go(page, node):
    shown(page, node)
    copy = page.evaluate_handle(
        "n => { const c = n.clone(); window.app.graph.add(c); return c }", node
    )
    page.evaluate(SET, [copy, {"deviation": 0.9}])
    assert shown(page, copy)["answer"]["peak"] == pytest.approx(0.9)
    assert "as an example" in shown(page, copy)["text"], "nothing is connected to it"
    assert shown(page, node)["answer"]["peak"] == 0.5
    page.evaluate("n => window.app.graph.remove(n)", copy)
    asked = []
    where = "**/async_timestep/deviation"
    page.route(where, lambda route: (asked.append(route.request.post_data), route.continue_()))
    page.evaluate(SET, [copy, {"deviation": 0.8}])
    page.evaluate(SET, [node, {"deviation": 0.7}])
    assert shown(page, node)["answer"]["peak"] == pytest.approx(0.7)
    assert len(asked) == 1, asked
    page.unroute(where)
    saved = page.evaluate(SAVED)
    (kept,) = [n for n in saved["nodes"] if n["type"] == "AsyncTimestepDeviation"]
    assert kept["widgets_values"][:2] == ["custom", 0.7] and len(kept["widgets_values"]) == 7
    kept["widgets_values"] = ["custom", -0.25, 0, 1, "interval", "conditioning"]  # before curves
    page.evaluate(LOAD, [saved, NAME])
    assert shown(page, page.evaluate_handle(f"() => {NODE}"))["answer"]["peak"] == -0.25


@pytest.mark.parametrize("path", WITH_IT, ids=lambda path: path.stem)
def test_a_template_shows_it_inside_the_window(page, path):
    page.evaluate(LOAD, [json.loads(path.read_text()), path.stem])
    node = page.evaluate_handle(f"() => {NODE}")
    assert shown(page, node)["path"]
    box = page.evaluate(
        """async n => { const e = n.widgets.at(-1).element
        await new Promise(done => setTimeout(done, 300))
        const r = e.getBoundingClientRect()
        return [r.left, r.top, r.right, r.bottom, innerWidth, innerHeight] }""",
        node,
    )
    left, top, right, bottom, wide, high = box
    assert 0 < left < right < wide and 0 < top < bottom < high, box
    assert right - left > 150 and bottom - top > 70
