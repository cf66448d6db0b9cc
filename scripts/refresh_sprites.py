"""Draws the objects of the pictures (training/pictures) from Microsoft's Fluent emoji, MIT licence.

    .host/venv/bin/python scripts/refresh_sprites.py [--folder .host/emoji] [--out FILE]

Gets two packages with npm and pip, whatever registries these are set to: the drawings as SVG, whose
hash is checked, and a rasteriser. Only the sheet that comes out is part of the checkout: nothing
that ships needs the packages.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from PIL import Image

from async_timestep.training.pictures.sprites import CELL, COLUMNS, NAMES, SHEET

ROOT = Path(__file__).parents[1]
DRAWINGS, VERSION = "@iconify-json/fluent-emoji-flat", "1.2.6"
SHA256 = "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
RASTERISER = "resvg-py==0.5.0"
MARGIN = 1  # clear pixels around a drawing in its cell
EMOJI = {"apple": "red-apple", "car": "automobile"}  # where the name is not the drawing's own


def packages(folder: Path) -> Path:
    """Puts both packages into `folder` where they are missing. Returns the archive of drawings;
    leaves with a sentence where its hash is another."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{DRAWINGS.removeprefix('@').replace('/', '-')}-{VERSION}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", f"{DRAWINGS}@{VERSION}"], cwd=folder, check=True)
    if not (folder / "site").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*install, str(folder / "site"), RASTERISER], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{archive} has the SHA-256 {found}, expected {SHA256}; delete it and try again.")
    return archive


def drawing(icons: dict, name: str) -> str:
    """One drawing as a whole SVG."""
    icon = icons["icons"][name]
    box = [icon.get("left", 0), icon.get("top", 0)]
    box += [icon.get(side, icons.get(side, 32)) for side in ("width", "height")]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )


def cell(svg: str, rasterise) -> Image.Image:
    """The drawing without its padding, in the middle of a CELL x CELL square, as large as fits."""
    large = Image.open(io.BytesIO(bytes(rasterise(svg_string=svg, width=8 * CELL))))
    large = large.convert("RGBA")
    large = large.crop(large.getchannel("A").getbbox())
    scale = (CELL - 2 * MARGIN) / max(large.size)
    size = tuple(max(1, round(side * scale)) for side in large.size)
    small = large.resize(size, Image.Resampling.BOX if scale < 0.2 else Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (CELL, CELL))
    square.paste(small, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return square


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".host" / "emoji", help="downloads")
    parser.add_argument("--out", type=Path, default=SHEET, help="the sheet")
    args = parser.parse_args()
    with tarfile.open(packages(args.folder)) as archive:
        icons = json.load(archive.extractfile("package/icons.json"))
    sys.path.append(str(args.folder / "site"))
    from resvg_py import svg_to_bytes

    rows = -(-len(NAMES) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for k, name in enumerate(NAMES):
        square = cell(drawing(icons, EMOJI.get(name, name)), svg_to_bytes)
        sheet.paste(square, (k % COLUMNS * CELL, k // COLUMNS * CELL))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, optimize=True)
    print(f"{len(NAMES)} objects in {args.out}, {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
