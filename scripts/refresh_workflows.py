"""Lets ComfyUI's editor save each of workflows/*.json again, and makes their pictures.

    .host/venv/bin/python scripts/refresh_workflows.py [NAME ...] [--shots FOLDER]

The files are the source: a person edits them in the editor (make serve). This gives them the form
of this frontend's own save, runs those on the embedded model, and makes each thumbnail of the
first picture of each of their previews, under its title. Nothing that a large
model or a user's own would draw is known here: their thumbnails are words. Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from async_timestep.harness import workflows
from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.editor import LOAD, RUN, SAVED, open_page
from async_timestep.harness.host import TEST, ensure_host
from async_timestep.harness.venvs import say
from async_timestep.report import sheets

if TYPE_CHECKING:
    from PIL import Image

SIDE = 512  # pixels of a thumbnail
ROWS = 3  # of a sheet to choose from


def tidy(value):
    """Without the nulls of the editor's internal fields (an empty link stays null), and without the
    list of values of a node that has none."""
    if isinstance(value, dict):
        keep = {k: v for k, v in value.items() if v is not None or k in ("link", "links")}
        if keep.get("widgets_values") == []:
            del keep["widgets_values"]
        return {k: tidy(v) for k, v in keep.items()}
    return [tidy(v) for v in value] if isinstance(value, list) else value


def thumbnail(pictures: dict, upright: bool):
    """A square of the pictures' middles, each under its title: upright strips beside each other
    where the shapes stand above each other, else level ones in rows.
    """
    from PIL import Image

    share = 0.5 if len(pictures) == 2 else 0.42
    shown, titles = [strip(p, share, upright) for p in pictures.values()], list(pictures)
    rows, above = ([shown], [titles]) if upright else ([[p] for p in shown], [[t] for t in titles])
    whole = sheets.sheet(rows, above=above, size=26)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    whole.thumbnail((SIDE, SIDE), Image.LANCZOS)
    square.paste(whole, ((SIDE - whole.width) // 2, (SIDE - whole.height) // 2))
    return square


def strip(picture, share: float, upright: bool):
    """The middle of a picture, this share of its height or width, enlarged."""
    cut = round((1 - share) / 2 * picture.height)
    box = (cut, 0, picture.width - cut, picture.height)
    if not upright:
        box = (0, cut, picture.width, picture.height - cut)
    return sheets.enlarged(picture.crop(box), 4)


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
    first = {
        node["_meta"]["title"]: outputs[key]["images"][0]
        for key, node in graph.items()
        if node["class_type"] == "PreviewImage"
    }
    return {title: opened(server, entry) for title, entry in first.items()}


def opened(server, entry: dict) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(server.fetch(entry))).convert("RGB")


def square_of_sheet(sheet: dict, opened: Callable[[dict], Image.Image]) -> Image.Image:
    """The first rows of a sheet to choose from, under their letters. opened: the picture of an
    entry."""
    from PIL import Image

    rows = [[opened(file) for file in row] for row in sheet["pictures"][:ROWS]]
    whole = sheets.sheet(rows, above=[sheet["letters"]], size=26)
    square = Image.new("RGB", (SIDE, SIDE), "white")
    whole.thumbnail((SIDE, SIDE), Image.LANCZOS)
    square.paste(whole, ((SIDE - whole.width) // 2, (SIDE - whole.height) // 2))
    return square


def refresh(page, server, name: str, shots: Path | None) -> None:
    before = workflows.saved(name)
    page.evaluate(LOAD, [before, name])
    again = {**tidy(page.evaluate(SAVED)), "id": before["id"]}
    again["extra"].pop("ds", None)  # every window fits it for itself
    (workflows.FOLDER / f"{name}.json").write_text(json.dumps(again, indent=1) + "\n", "utf-8")
    graph, picture = workflows.load(name), card(name)
    if name in workflows.by_eye():
        outputs = run_in_editor(page, server, name, graph)
        (sheet,) = outputs[workflows.find(graph, "AsyncTimestepChoose")]["tune_by_eye"]
        picture = square_of_sheet(sheet, lambda file: opened(server, file))
    elif name in workflows.embedded():
        outputs = run_in_editor(page, server, name, graph)
        words = json.dumps(graph)
        upright = " above a " in words or " below a " in words
        picture = thumbnail(shown(server, graph, outputs), upright)
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
