"""The pictures of the suite: what is to be made, and what an interrupted run has made already."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from ...report.sheets import picture_of
from ..run.console import Report
from ..run.folder import write_atomic
from ..run.workflow import Graph
from .graphs import IMAGE, PLAIN, Setting, Way
from .prompts import Prompt


@dataclass(frozen=True)
class Job:
    """One image: what it shows, who makes it and where it lies below --out."""

    set: str
    index: int
    prompt: Prompt
    seed: int
    method: str

    @property
    def image(self) -> str:
        return f"images/{self.set}/{self.method}/{self.index:02d}_{self.seed}.png"


def jobs_of(prompts: dict[str, list[Prompt]], seeds: range, methods: list[str]) -> list[Job]:
    """All images. The first of a prompt also encodes it: the methods take turns."""
    return [
        Job(name, i, prompt, seed, methods[(i + seed + k) % len(methods)])
        for name, some in prompts.items()
        for i, prompt in enumerate(some)
        for seed in seeds
        for k in range(len(methods))
    ]


def is_made(path: Path, graph: Graph) -> bool:
    """Raises ValueError where the image is there, but of another graph."""
    if not path.exists():
        return False
    with Image.open(path) as image:
        if json.loads(image.text.get("prompt", "null")) != graph:
            raise ValueError(
                f"{path} was made with other settings than this run has; move it away or change "
                "--out."
            )
    return True


def save_image(path: Path, picture: Image.Image, graph: Graph, seconds: float) -> None:
    """The picture with its graph, which ComfyUI opens, and the time, in one move."""
    notes, data = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("prompt", json.dumps(graph))
    notes.add_text("seconds", repr(seconds))
    picture.save(data, format="PNG", pnginfo=notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())


def make_images(
    pictures, jobs: list[Job], ways: dict[str, Way], setting: Setting, out: Path, report: Report
) -> dict[str, str]:
    """Makes what is not there. Returns method -> why it failed. Raises ValueError where plain does,
    and where a picture is of other settings."""
    graphs = {job: ways[job.method].graph(job.prompt, setting, job.seed) for job in jobs}
    todo = [job for job in jobs if not is_made(out / job.image, graphs[job])]
    failed: dict[str, str] = {}
    report.begin("images", len(jobs), len(jobs) - len(todo))
    for job in todo:
        if job.method not in failed:
            try:
                pixels, seconds = pictures.make(graphs[job], IMAGE, f"the graph {job.method}")
                save_image(out / job.image, picture_of(pixels), graphs[job], seconds)
            except ValueError as error:
                if job.method == PLAIN:
                    raise
                failed[job.method] = f"failed: {error}"
        report.advance(1, f"{job.set} {job.method}")
    return failed
