"""Makes workflows/*.json and their pictures with ComfyUI's own frontend.

    .host/venv/bin/python scripts/make_workflows.py [--shots DIR]

Needs Chromium; --shots keeps screenshots. The frontend turns each graph into its own (UI) format,
so the files are what a person would have saved. The thumbnail is what the graph really made; a
large model's files are tiny stand-ins here, so its thumbnail is the plot alone.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import tempfile
import uuid
from pathlib import Path

from async_timestep.harness.comfy_server import PATIENCE, ComfyServer
from async_timestep.harness.host import ROOT, TEST, ensure_host
from async_timestep.harness.in_process import import_comfy
from async_timestep.harness.venvs import say
from async_timestep.scripts.example_workflows import EVERY, LARGE, NOTES
from async_timestep.scripts.graphs_large import models_of
from async_timestep.scripts.graphs_places import place

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip
READY = """id => window.app?.extensionManager && !window.app.extensionManager.spinner
  && window.app.canvas && id in (window.LiteGraph?.registered_node_types ?? {})"""
IMPORT = """async ([graph, places, models, note, name]) => {
  await window.app.loadApiJson(graph, name)
  const g = window.app.graph
  for (const node of g.nodes) {
    const [x, y, width, height] = places[node.id]
    node.pos = [x, y]; node.setSize([width, height])
    if (models[node.id]) node.properties.models = models[node.id]
    for (const widget of node.widgets ?? [])
      if (widget.name === 'control_after_generate') widget.value = 'fixed'
  }
  const text = window.LiteGraph.createNode('MarkdownNote'), [x, y, width, height] = places.note
  text.pos = [x, y]; g.add(text); text.setSize([width, height]); text.widgets[0].value = note
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
    page.set_default_timeout(1000 * PATIENCE)  # a busy machine takes its time
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_function(READY, arg="AsyncTimestepKSampler")
    return page


def numbered(graph: dict, name: str) -> tuple[dict, dict, dict]:
    """The graph with the numbers that the editor expects as node ids, and under them the places and
    the files to download.
    """
    number = {word: str(k) for k, word in enumerate(graph, start=1)}

    def wire(value):
        return [number[value[0]], value[1]] if isinstance(value, list) else value

    renamed = {
        number[word]: {**node, "inputs": {k: wire(v) for k, v in node["inputs"].items()}}
        for word, node in graph.items()
    }
    places = {number[word]: place(name, word) for word in graph} | {"note": place(name, "note")}
    models = {number[word]: files for word in graph if (files := models_of(graph[word]))}
    return renamed, places, models


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


def read(server, outputs: dict, node: str) -> list:
    from PIL import Image

    entries = outputs.get(node, {}).get("images", [])
    return [Image.open(io.BytesIO(server.fetch(entry))).convert("RGB") for entry in entries]


def thumbnail(pictures: list, plots: list, compared: bool):
    """A square: all pictures where they are compared or where there is no plot, else three of them
    over the plot.
    """
    from PIL import Image

    sheet = Image.new("RGB", (512, 512), plots[0].getpixel((2, 2)) if plots else "black")
    rows = 3 if plots and not compared else math.ceil(math.sqrt(len(pictures)))
    edges = [round(k * 512 / rows) for k in range(rows + 1)]
    shown = pictures[:3] if plots and not compared else pictures
    for k, picture in enumerate(shown):
        x, y = edges[k % rows : k % rows + 2], edges[k // rows : k // rows + 2]
        sheet.paste(picture.resize((x[1] - x[0], y[1] - y[0]), Image.NEAREST), (x[0], y[0]))
    if plots and not compared:
        plot = plots[0]
        plot.thumbnail((512, 341), Image.LANCZOS)
        sheet.paste(plot, ((512 - plot.width) // 2, 171 if pictures else 85))
    return sheet


def run_large(server, name: str) -> dict:
    """The outputs of a large model's graph on its stand-ins."""
    import_comfy()
    from async_timestep.harness import stand_ins  # it imports ComfyUI at its top

    write = {"flux1_dev": stand_ins.write_flux, "sd35_medium": stand_ins.write_sd35}
    write[name.removesuffix("_async_timestep")](server.base / "models")
    return server.run(stand_ins.without_t5(LARGE[name]()))


def run_in_editor(page, server, saved: dict, name: str) -> dict:
    """The outputs of the saved workflow's graph, which must run in the editor too."""
    outcome, detail = page.evaluate(RUN, [saved, name])
    if outcome != "execution_success":
        raise SystemExit(f"{name}: {outcome} {detail}")
    return server.run(EVERY[name]())


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
        for name, make in EVERY.items():
            graph, places, models = numbered(make(), name)
            saved = tidy(page.evaluate(IMPORT, [graph, places, models, NOTES[name], name]))
            saved["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            (folder / f"{name}.json").write_text(json.dumps(saved, indent=1) + "\n")
            large = name in LARGE
            outputs = run_large(server, name) if large else run_in_editor(page, server, saved, name)
            plots = [
                image for key in outputs if "plot" in key for image in read(server, outputs, key)
            ]
            pictures = read(server, outputs, "preview")
            sheet = thumbnail(pictures, plots, compared="together" in make())
            sheet.save(folder / f"{name}.jpg", quality=90)
            if args.shots:
                args.shots.mkdir(parents=True, exist_ok=True)
                fit(page)
                page.screenshot(path=args.shots / f"{name}.png")
            say(f"{name}: {len(saved['nodes'])} nodes")


if __name__ == "__main__":
    main()
