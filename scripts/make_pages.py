"""Makes the pictures of the node pages, web/docs/images, and the README's first one, with the pack
on the embedded model.

    python scripts/make_pages.py [name ...]     all of them, or some; a few minutes on one core

Every picture comes out of a real ComfyUI server that runs the graphs of page_pictures.py. The
editor's Info panel is about 260 pixels wide: three columns at most, and large labels.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.host import ROOT, ensure_host
from async_timestep.harness.venvs import say
from async_timestep.scripts.page_pictures import PICTURES, off_on

OUT = ROOT / "web" / "docs" / "images"
FRONT = ROOT / "docs" / "off_on.png"
LARGEST = 60_000  # bytes


def save(name: str, picture: Image.Image) -> Path:
    """Drawings as png with few colours, the rest as jpg; raises SystemExit above LARGEST."""
    drawn = name.endswith(("plot", "strip"))
    path = OUT / f"{name}.{'png' if drawn else 'jpg'}"
    if drawn:
        picture.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        picture.save(path, quality=88)
    if path.stat().st_size >= LARGEST:
        raise SystemExit(f"{path.name} has {path.stat().st_size} bytes, more than {LARGEST}.")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {FRONT.stem}, {', '.join(PICTURES)}")
    names = parser.parse_args().names or [FRONT.stem, *PICTURES]
    if unknown := set(names) - {FRONT.stem, *PICTURES}:
        parser.error(f"there is no picture {', '.join(unknown)}; there are {', '.join(PICTURES)}.")
    ensure_host()
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        for name in names:
            if name == FRONT.stem:
                off_on(server).quantize(128, dither=Image.Dither.NONE).save(FRONT, optimize=True)
                continue
            path = save(name, PICTURES[name](server))
            say(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
