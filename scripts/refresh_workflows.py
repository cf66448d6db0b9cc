"""Lets ComfyUI's editor save each of workflows/*.json again, and makes their pictures.

    .host/venv/bin/python scripts/refresh_workflows.py [NAME ...] [--shots FOLDER]

The files are the source: a person edits them in the editor (make serve). This gives them the form
of this frontend's own save, runs them, and makes each thumbnail of what came out; a large model's
files are tiny stand-ins here, so its thumbnail is the plot alone. Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import tempfile
from pathlib import Path

from async_timestep.harness import workflows
from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.editor import LOAD, RUN, SAVED, fit, open_page
from async_timestep.harness.host import TEST, ensure_host
from async_timestep.harness.in_process import import_comfy
from async_timestep.harness.venvs import say


def tidy(value):
    """Without the nulls of the editor's internal fields (an empty link stays null), and without the
    list of values of a node that has none."""
    if isinstance(value, dict):
        keep = {k: v for k, v in value.items() if v is not None or k in ("link", "links")}
        if keep.get("widgets_values") == []:
            del keep["widgets_values"]
        return {k: tidy(v) for k, v in keep.items()}
    return [tidy(v) for v in value] if isinstance(value, list) else value


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


def run_large(server, name: str, graph: dict) -> dict:
    """The outputs of a large model's graph on its stand-ins."""
    import_comfy()
    from async_timestep.harness import stand_ins  # it imports ComfyUI at its top

    write = stand_ins.write_flux if name.startswith("flux") else stand_ins.write_sd35
    write(server.base / "models")
    return server.run(stand_ins.without_t5(graph))


def run_in_editor(page, server, name: str, graph: dict) -> dict:
    """The outputs of the graph, which must run in the editor too."""
    outcome, detail = page.evaluate(RUN, [workflows.saved(name), name])
    if outcome != "execution_success":
        raise SystemExit(f"{name}: {outcome} {detail}")
    return server.run(graph)


def shown(server, graph: dict, outputs: dict, kind: str) -> list:
    """The pictures that nodes of this type show."""
    from PIL import Image

    entries = [
        entry
        for key, node in graph.items()
        if node["class_type"] == kind
        for entry in outputs.get(key, {}).get("images", [])
    ]
    return [Image.open(io.BytesIO(server.fetch(entry))).convert("RGB") for entry in entries]


def refresh(page, server, name: str, shots: Path | None) -> None:
    before = workflows.saved(name)
    page.evaluate(LOAD, [before, name])
    again = {**tidy(page.evaluate(SAVED)), "id": before["id"]}
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        fit(page)
        page.screenshot(path=shots / f"{name}.png")
    (workflows.FOLDER / f"{name}.json").write_text(json.dumps(again, indent=1) + "\n", "utf-8")
    graph, large = workflows.load(name), bool(workflows.downloads(again))
    outputs = run_large(server, name, graph) if large else run_in_editor(page, server, name, graph)
    pictures = shown(server, graph, outputs, "PreviewImage")
    plots = shown(server, graph, outputs, "AsyncTimestepPlot")
    together = any(node["class_type"].startswith("Batch") for node in graph.values())
    sheet = thumbnail(pictures, plots, compared=together)
    sheet.save(workflows.FOLDER / f"{name}.jpg", quality=90)
    say(f"{name}: {len(again['nodes'])} nodes")


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of the workflows; all without")
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    args = parser.parse_args()
    ensure_host(TEST)
    with (
        tempfile.TemporaryDirectory() as base,
        ComfyServer(Path(base)) as server,
        sync_playwright() as play,
    ):
        page = open_page(play, server)
        for name in args.names or workflows.names():
            refresh(page, server, name, args.shots)


if __name__ == "__main__":
    main()
