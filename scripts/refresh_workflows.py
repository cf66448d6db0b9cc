"""Lets ComfyUI's editor save each of workflows/*.json again, and makes their pictures.

    .host/venv/bin/python scripts/refresh_workflows.py [NAME ...] [--shots FOLDER]

The files are the source: a person edits them in the editor (make serve). This gives them the form
of this frontend's own save, runs those on the embedded model, and makes each thumbnail of the
first picture of each of their previews, beside each other under their titles. Nothing that a large
model or a user's own would draw is known here: their thumbnails are words. Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

from async_timestep.harness import workflows
from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.editor import LOAD, RUN, SAVED, open_page
from async_timestep.harness.host import TEST, ensure_host
from async_timestep.harness.venvs import say
from async_timestep.report import sheets

SIDE = 512  # pixels of a thumbnail


def tidy(value):
    """Without the nulls of the editor's internal fields (an empty link stays null), and without the
    list of values of a node that has none."""
    if isinstance(value, dict):
        keep = {k: v for k, v in value.items() if v is not None or k in ("link", "links")}
        if keep.get("widgets_values") == []:
            del keep["widgets_values"]
        return {k: tidy(v) for k, v in keep.items()}
    return [tidy(v) for v in value] if isinstance(value, list) else value


def thumbnail(pictures: dict):
    """A square of the pictures, each under its title: two are shown in their middle halves, one
    over the other, since they are wider than high then."""
    from PIL import Image

    halves = len(pictures) == 2
    shown = [strip(picture) if halves else picture for picture in pictures.values()]
    rows = [[picture] for picture in shown] if halves else [shown[:2], shown[2:]]
    titles = list(pictures)
    above = [[title] for title in titles] if halves else [titles[:2], titles[2:]]
    whole = sheets.sheet(rows, above=above, size=26 if halves else 20)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    whole.thumbnail((SIDE, SIDE), Image.LANCZOS)
    square.paste(whole, ((SIDE - whole.width) // 2, (SIDE - whole.height) // 2))
    return square


def strip(picture):
    """The middle half of the picture's height, enlarged."""
    quarter = picture.height // 4
    return sheets.enlarged(picture.crop((0, quarter, picture.width, 3 * quarter)), 4)


def card(name: str):
    """The square of a template whose pictures nobody has made."""
    from PIL import Image, ImageDraw, ImageFont

    square = Image.new("RGB", (SIDE, SIDE), "white")
    draw, top = ImageDraw.Draw(square), 90
    for text, size in ((name[3:], 54), ("off | on, side by side, from the same seed", 30)):
        font = ImageFont.load_default(size)
        for line in sheets.wrapped(text, font, SIDE - 80):
            draw.text((40, top), line, "black", font)
            top += round(1.25 * size)
        top += 40
    return square


def run_in_editor(page, server, name: str, graph: dict) -> dict:
    """The outputs of the graph, which must run in the editor too."""
    outcome, detail = page.evaluate(RUN, [workflows.saved(name), name])
    if outcome != "execution_success":
        raise SystemExit(f"{name}: {outcome} {detail}")
    return server.run(graph)


def shown(server, graph: dict, outputs: dict) -> dict:
    """The first picture of each preview, by its title."""
    from PIL import Image

    first = {
        node["_meta"]["title"]: outputs[key]["images"][0]
        for key, node in graph.items()
        if node["class_type"] == "PreviewImage"
    }
    return {k: Image.open(io.BytesIO(server.fetch(v))).convert("RGB") for k, v in first.items()}


def refresh(page, server, name: str, shots: Path | None) -> None:
    before = workflows.saved(name)
    page.evaluate(LOAD, [before, name])
    again = {**tidy(page.evaluate(SAVED)), "id": before["id"]}
    again["extra"].pop("ds", None)  # every window fits it for itself
    (workflows.FOLDER / f"{name}.json").write_text(json.dumps(again, indent=1) + "\n", "utf-8")
    graph, picture = workflows.load(name), card(name)
    if name in workflows.embedded():
        picture = thumbnail(shown(server, graph, run_in_editor(page, server, name, graph)))
    picture.save(workflows.FOLDER / f"{name}.jpg", quality=90)
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(2000)
        page.screenshot(path=shots / f"{name}.png")
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
