"""Makes workflows/*.json and their pictures with ComfyUI's own frontend.

    python scripts/make_workflows.py [--shots DIR]     needs Chromium; --shots keeps screenshots

The frontend turns each graph of graphs.py into its own (UI) format, so the files are what a person
would have saved. The thumbnail is the picture that the graph really made.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
import uuid
from pathlib import Path

from comfy_server import ComfyServer
from example_workflows import NOTES, PLACES, WORKFLOWS
from host import ROOT, TEST, ensure_host, say

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
READY = """id => window.app?.extensionManager && !window.app.extensionManager.spinner
  && window.app.canvas && id in (window.LiteGraph?.registered_node_types ?? {})"""
IMPORT = """async ([graph, places, note, name]) => {
  await window.app.loadApiJson(graph, name)
  const g = window.app.graph
  for (const node of g.nodes) {
    const place = places[node.id]
    if (place) { node.pos = place.slice(0, 2); if (place[2]) node.setSize(place.slice(2, 4)) }
  }
  const text = window.LiteGraph.createNode('MarkdownNote') ?? window.LiteGraph.createNode('Note')
  text.pos = [-440, -60]; g.add(text); text.setSize([400, 320]); text.widgets[0].value = note
  for (const node of g.nodes) for (const widget of node.widgets ?? [])
    if (widget.name === 'control_after_generate') widget.value = 'fixed'
  return g.serialize()
}"""
RUN = """([wf, name]) => new Promise(done => {
  for (const e of ['execution_success', 'execution_error', 'execution_interrupted'])
    window.app.api.addEventListener(e, ev => done([e, ev.detail]), {once: true})
  window.app.loadGraphData(wf, true, true, name).then(() => window.app.queuePrompt(0, 1))
    .then(ok => ok || done(['rejected', window.app.lastNodeErrors])) })"""


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
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY, arg="AsyncTimestepKSampler", timeout=120_000)
    return page


def numbered(graph: dict) -> tuple[dict, dict]:
    """The graph with the numbers that the editor expects as node ids, and the places under them."""
    number = {word: str(k) for k, word in enumerate(graph, start=1)}

    def wire(value):
        return [number[value[0]], value[1]] if isinstance(value, list) else value

    renamed = {
        number[word]: {**node, "inputs": {k: wire(v) for k, v in node["inputs"].items()}}
        for word, node in graph.items()
    }
    return renamed, {number[word]: PLACES[word] for word in graph}


def tidy(value):
    """Without the nulls of the editor's internal fields (an empty link stays null)."""
    if isinstance(value, dict):
        keep = {k: v for k, v in value.items() if v is not None or k in ("link", "links")}
        return {k: tidy(v) for k, v in keep.items()}
    return [tidy(v) for v in value] if isinstance(value, list) else value


def fit(page) -> None:
    """The whole graph in view."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)


def thumbnail(server, outputs: dict, path: Path) -> None:
    """The run's own images as a square jpg: the first four of the preview, else the plot."""
    from PIL import Image

    entries = [e for n in ("preview", "plot") if n in outputs for e in outputs[n].get("images", [])]
    images = [Image.open(io.BytesIO(server.fetch(entry))).convert("RGB") for entry in entries]
    squares = [i for i in images if i.width == i.height][:4]
    sheet = Image.new("RGB", (512, 512))
    side = 256 if len(squares) > 1 else 512
    for k, image in enumerate(squares):
        sheet.paste(image.resize((side, side), Image.NEAREST), (k % 2 * side, k // 2 * side))
    sheet.save(path, quality=90)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    args = parser.parse_args()
    ensure_host(TEST)
    folder = ROOT / "workflows"
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyServer(Path(base)) as server,
        sync_playwright() as play,
    ):
        page = open_page(play, server)
        for name, make in WORKFLOWS.items():
            graph, places = numbered(make())
            saved = tidy(page.evaluate(IMPORT, [graph, places, NOTES[name], name]))
            saved["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            (folder / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
            outcome, detail = page.evaluate(RUN, [saved, name])
            if outcome != "execution_success":
                raise SystemExit(f"{name}: {outcome} {detail}")
            thumbnail(server, server.run(make()), folder / f"{name}.jpg")
            if args.shots:
                args.shots.mkdir(parents=True, exist_ok=True)
                fit(page)
                page.screenshot(path=args.shots / f"{name}.png")
            say(f"{name}: {len(saved['nodes'])} nodes")


if __name__ == "__main__":
    main()
