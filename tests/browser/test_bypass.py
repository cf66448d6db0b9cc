"""Bypassing a node to compare, everyone's gesture, in the real editor: the graph still runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from async_timestep.harness.editor import CHROMIUM, LOAD, QUEUED, RUN

pytestmark = pytest.mark.browser
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: browser tests left out", allow_module_level=True)

WORKFLOWS = Path(__file__).parents[2] / "workflows"
BYPASSED = 4  # a node's mode
PRESSED = """kind => { const canvas = window.app.canvas
  canvas.selectItems(window.app.graph.nodes.filter(n => n.type === kind))
  return window.app.extensionManager.command.execute(
    'Comfy.Canvas.ToggleSelectedNodes.Bypass') }"""
MODES = "kind => window.app.graph.nodes.filter(n => n.type === kind).map(n => n.mode)"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("09 A trained policy, four at once", "AsyncTimestepTPMLoader"),
        ("09 A trained policy, four at once", "AsyncTimestepDeviationScale"),
        ("07 Like Detail Daemon", "AsyncTimestepDeviation"),
        ("01 More detail, same steps", "AsyncTimestepModel"),
    ],
)
def test_a_bypassed_node_leaves_a_graph_that_runs(page, name, kind):
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    page.evaluate(LOAD, [workflow, name])
    assert set(page.evaluate(MODES, kind)) == {0}
    page.evaluate(PRESSED, kind)
    assert set(page.evaluate(MODES, kind)) == {BYPASSED}
    assert kind not in [node["class_type"] for node in page.evaluate(QUEUED).values()]
    for node in workflow["nodes"]:
        if node["type"] == kind:
            node["mode"] = BYPASSED
    outcome, detail = page.evaluate(RUN, [workflow, name])
    assert outcome == "execution_success", detail
