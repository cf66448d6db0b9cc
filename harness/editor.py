"""ComfyUI's editor in a real browser: a Chromium that playwright drives.

with sync_playwright() as play:
    page = open_page(play, server)
    outcome, detail = page.evaluate(RUN, [workflow, "its name"])
"""

from __future__ import annotations

import shutil

from .comfy_server import PATIENCE

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
READY = """id => window.app?.extensionManager && !window.app.extensionManager.spinner
  && window.app.canvas && id in (window.LiteGraph?.registered_node_types ?? {})"""
LOAD = "([workflow, name]) => window.app.loadGraphData(workflow, true, true, name)"
RUN = """([wf, name]) => new Promise(done => {
  for (const e of ['execution_success', 'execution_error', 'execution_interrupted'])
    window.app.api.addEventListener(e, ev => done([e, ev.detail]), {once: true})
  window.app.loadGraphData(wf, true, true, name).then(() => window.app.queuePrompt(0, 1))
    .then(ok => ok || done(['rejected', window.app.lastNodeErrors])) })"""
SAVED = "() => window.app.graph.serialize()"
QUEUED = "async () => (await window.app.graphToPrompt()).output"


def open_page(play, server, nodes2: bool = False, size=(2200, 1100)):
    """A browser page with ComfyUI loaded and no first-run dialog on it."""
    for key, value in {
        "Comfy.TutorialCompleted": True,
        "Comfy.VueNodes.Enabled": nodes2,
        "LiteGraph.Canvas.MinFontSizeForLOD": 0,
    }.items():
        server.post("/settings", {key: value})
    browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_default_timeout(1000 * PATIENCE)  # a busy machine takes its time
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY, arg="AsyncTimestepKSampler")
    return page


def fit(page) -> None:
    """The whole graph in view."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
