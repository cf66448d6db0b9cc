"""Makes the registry page's pictures, asset/icon.jpg and asset/banner.jpg, with the pack itself.

    python scripts/make_icon.py

The embedded model samples one seed per row in a real ComfyUI, with a deviation of its own in every
column; the columns go from a smoother to a rougher picture.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from async_timestep.harness.host import ROOT, ensure_host

DEVIATIONS = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0)
ROWS = (  # prompt, seed
    ("two red circles above a blue star on a dark rough background", 100),
    ("a yellow star left of a purple square on a light rough background", 101),
)
ICON = (-0.5, 0.75)  # left and right half of one picture
SIZE, BANNER = 400, (1260, 540)
CELL, GAP, TOP = 198, 8, 92


def inside_host() -> None:
    """The work itself, under the host's interpreter (PIL)."""
    from async_timestep.harness.comfy_server import ComfyServer

    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        rows = [[sampled(server, *row, d) for d in DEVIATIONS] for row in ROWS]
    folder = ROOT / "asset"
    folder.mkdir(exist_ok=True)
    halves = [rows[0][DEVIATIONS.index(d)] for d in ICON]
    icon(*halves).save(folder / "icon.jpg", quality=90)
    banner(rows).save(folder / "banner.jpg", quality=88)


def sampled(server, prompt: str, seed: int, deviation: float):
    """One picture of the embedded model, as a PIL image."""
    from async_timestep.harness import graphs
    from async_timestep.scripts.demo_report import read_images

    graph = graphs.async_ksampler(prompt, seed, batch=1, deviation=deviation)
    del graph["plot"], graph["meter"]
    return read_images(server, server.run(graph)["preview"])[0]


def icon(first, second):
    """One seed, two deviations: the left half of the first, the right half of the second."""
    from PIL import Image

    whole, other = (i.resize((SIZE, SIZE), Image.BICUBIC) for i in (first, second))
    whole.paste(other.crop((SIZE // 2, 0, SIZE, SIZE)), (SIZE // 2, 0))
    return whole


def banner(rows: list[list]):
    """21:9: the name, the deviations, and under each its column of pictures."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", BANNER, "#16181d")
    draw = ImageDraw.Draw(sheet)
    left = (BANNER[0] - len(DEVIATIONS) * (CELL + GAP) + GAP) // 2
    draw.text((left, 14), "Async Timestep", "white", ImageFont.load_default(size=34))
    for column, deviation in enumerate(DEVIATIONS):
        x = left + column * (CELL + GAP)
        text = "stock" if deviation == 0 else f"D = {deviation:+g}"
        draw.text((x, 62), text, "#aab2c0", ImageFont.load_default(size=20))
        for row, pictures in enumerate(rows):
            picture = pictures[column].resize((CELL, CELL), Image.BICUBIC)
            sheet.paste(picture, (x, TOP + row * (CELL + GAP)))
    return sheet


if __name__ == "__main__":
    _, python = ensure_host()
    if "--inside" in sys.argv:
        inside_host()
    else:
        sys.exit(subprocess.run([str(python), __file__, "--inside"], cwd=ROOT).returncode)
