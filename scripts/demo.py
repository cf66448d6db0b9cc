"""Runs the bundled graphs on the embedded model in a real ComfyUI and leaves what they show in
demo/.

    python scripts/demo.py [--prompts 40]

Makes: the pictures of the bundled workflows, a grid over the deviation on paired seeds, the
plot of what was applied, and a table with standard errors. A few minutes on two cores, set-up
included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from async_timestep.harness.host import DEMO, ROOT, ensure_host, environment
from async_timestep.harness.venvs import say

SEEDS = 2  # images a prompt, in one batch
DEVIATIONS = (-0.5, 0.0, 0.25, 0.5, 1.0)
GRID_PROMPTS = (
    "two red circles above a blue star on a dark rough background",
    "a yellow star left of a purple square on a light rough background",
    "a green triangle below a cyan circle on a dark striped background",
    "three blue squares on a light dotted background",
    "a red square right of a yellow circle on a dark plain background",
)


def inside_host(prompts: int) -> None:
    """The demo itself; runs under the host's interpreter (torch, PIL)."""
    from tqdm import tqdm

    from async_timestep.harness import graphs, workflows
    from async_timestep.harness.comfy_server import ComfyServer
    from async_timestep.scripts.demo_report import read_images, save_grid, score, write_table
    from async_timestep.training.tiny.scenes import held_out_scenes, parse_caption

    started, out = time.monotonic(), ROOT / "demo"
    out.mkdir(exist_ok=True)
    scenes = [parse_caption(caption) for caption in GRID_PROMPTS] + held_out_scenes(
        prompts, seed=2026
    )
    scores, shown = [], []
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base)) as server:
        for name in tqdm(workflows.embedded(), desc="bundled workflows"):
            graph = workflows.load(name)
            outputs = server.run(graph)
            pictures = {
                node["_meta"]["title"]: read_images(server, outputs[key])
                for key, node in graph.items()
                if node["class_type"] == "PreviewImage"
            }
            rows = [list(row) for row in zip(*pictures.values(), strict=True)]
            save_grid(rows, list(pictures), [""], out / f"{name}.png")
            plots = [key for key in outputs if graph[key]["class_type"] == "AsyncTimestepPlot"]
            if len(plots) == 1:
                read_images(server, outputs[plots[0]])[0].save(out / f"{name}_plot.png")
        total = len(DEVIATIONS) * len(scenes)
        with tqdm(total=total, desc="deviation sweep", unit="prompt") as bar:
            for deviation in DEVIATIONS:
                images = []
                for k, scene in enumerate(scenes):
                    graph = graphs.async_ksampler(scene.caption, 100 + k, SEEDS, deviation)
                    del graph["plot"], graph["meter"]
                    images += read_images(server, server.run(graph)["preview"])
                    bar.update()
                scores.append(score(images, [scene for scene in scenes for _ in range(SEEDS)]))
                shown.append(images[: len(GRID_PROMPTS) * SEEDS : SEEDS])
    rows = [list(row) for row in zip(*shown, strict=True)]
    save_grid(
        rows, [f"D = {d:+g}" for d in DEVIATIONS], list(GRID_PROMPTS), out / "deviation_grid.png"
    )
    every = [scene for scene in scenes for _ in range(SEEDS)]
    print(write_table(scores, DEVIATIONS, every, out / "scores.csv"))
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. Look at demo/deviation_grid.png, "
        "demo/01 More detail, same steps.png and demo/scores.csv.\nTo open the graphs in a "
        "browser: "
        "make serve, then ComfyUI's logo > Templates > async-timestep."
    )


def main() -> None:
    """Sets the host up, then starts again under its interpreter."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=40, help="captions in the table")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return inside_host(args.prompts)
    say("Setting up ComfyUI (only the first time) ...")
    tree, python = ensure_host(DEMO)
    here = [str(python), str(Path(__file__)), "--inside", "--prompts", str(args.prompts)]
    sys.exit(subprocess.run(here, cwd=ROOT, env=environment(tree, python)).returncode)


if __name__ == "__main__":
    main()
