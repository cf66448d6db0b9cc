"""Trains the text-to-image model of the pictures. A CPU is enough.

    python training/make_pictures.py backbone --out runs/pictures --processes 2 --threads 1

Like the embedded model (training/tiny/train_backbone.py), on latents of the autoencoder: the folder
must have vae.safetensors (python training/make_pictures.py autoencoder). Every WATCH_STEPS steps
the moving average draws held-out prompts: a picture of them, steps_N.png, and the judge's means in
the log. Writes text.safetensors, transformer.safetensors (fp16), log.jsonl and SHA256SUMS. Killed,
it goes on from its last checkpoint. After its end another may begin with its weights, in a folder
of its own:

    python training/make_pictures.py backbone --out runs/more --init runs/pictures

The text table and the autoencoder are then the same; the optimizers and the warm-up are new.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist

from ...report.sheets import picture_of, sheet
from ..run.atomic import whole_file
from ..run.stopping import stop
from ..tiny import loop
from ..tiny.backbone import new_transformer
from ..tiny.text import TextTable, make_table
from ..tiny.train_backbone import flow_loss, optimizers_of, zero_gates
from .autoencoder import Autoencoder
from .backbone import FILES, Pictures, noises
from .scenes import held_out_scenes, render, sample_scene
from .score import score_images
from .text import LENGTH, vocabulary

ABOUT = {"format": "async-timestep-pictures-transformer"}
KIND_WEIGHTS = (0.15, 0.40, 0.15, 0.30)  # single, pair, count, group
WATCH_STEPS, WATCHED, SHOWN, COLUMNS = 500, 60, 24, 6  # prompts drawn, and those on the picture
TOLD = ("strict", "attributes", "iou", "relation", "count", "background", "foreign", "reward")


def batch_of(size: int, rng: torch.Generator, text: TextTable, vae: Autoencoder, bf16: bool):
    """One training batch: latents, token vectors, pooled vectors; a tenth of the captions are empty
    (for CFG)."""
    scenes = [sample_scene(rng, held_out=False, weights=KIND_WEIGHTS) for _ in range(size)]
    latents = vae.encode(render(scenes, rng, with_masks=False)[0], bf16)
    empty = (torch.rand(size, generator=rng) < 0.1).tolist()
    tokens, pooled = text(
        ["" if drop else scene.caption for scene, drop in zip(scenes, empty, strict=True)]
    )
    return latents, tokens, pooled


def watch(model: Pictures, out: Path, step: int, n: int = WATCHED) -> dict[str, float]:
    """Draws `n` held-out prompts from fixed noises, with 10 steps at guidance 3. Returns the
    judge's means; the first SHOWN are in out/steps_N.png."""
    captions = [scene.caption for scene in held_out_scenes(n, 77, compositions_only=True)]
    images = model.sample(captions, noises(list(range(7700, 7700 + n))), bf16=True)
    shown = range(min(n, SHOWN))
    pictures = [picture_of(images[k]) for k in shown]
    rows = [slice(k, k + COLUMNS) for k in shown[::COLUMNS]]
    texts = captions[: len(pictures)]
    sheet([pictures[row] for row in rows], below=[texts[row] for row in rows]).save(
        out / f"steps_{step:06d}.png"
    )
    scores = score_images(images, captions)
    return {name: round(float(scores[name].mean()), 3) for name in TOLD}


def begin(out: Path, init: Path) -> None:
    """Copies the text table and the autoencoder of the model in `init` to `out`; one that is there
    must be the same, for the weights know no other."""
    if out.resolve() == init.resolve():
        stop("backbone", f"--out and --init are both {init}; give an --out of its own.")
    missing = [name for name in FILES if not (init / name).exists()]
    if missing:
        stop("backbone", f"--init {init} has no {missing[0]}; give the folder of a trained model.")
    for name in FILES[1:]:
        content, place = (init / name).read_bytes(), out / name
        if place.exists() and place.read_bytes() != content:
            stop("backbone", f"{place} is another than in {init}; give an --out of its own.")
        with whole_file(place) as temporary:
            temporary.write_bytes(content)


def train(out: Path, plan: loop.Plan) -> float:
    """Trains by `plan`, into `out`. Returns the last mean loss."""
    if plan.init and not loop.rank():
        begin(out, plan.init)
    if plan.processes > 1:
        dist.barrier()
    if not (out / "vae.safetensors").exists():
        stop("backbone", f"{out} has no vae.safetensors; train the autoencoder into it first.")
    rng = torch.Generator().manual_seed(plan.seed)
    if not loop.rank() and not (out / "text.safetensors").exists():
        make_table(out / "text.safetensors", rng, vocabulary(), LENGTH)
    if plan.processes > 1:
        dist.barrier()  # the table is there
    text, vae = TextTable(out / "text.safetensors"), Autoencoder(out / "vae.safetensors")
    if plan.init:
        network = Pictures.load(plan.init).network.requires_grad_(True).train()
    else:
        network = zero_gates(new_transformer(plan.layers))
    optimizers = optimizers_of(network, plan)

    def loss_of(forward, progress, rng):
        # what begins with a model needs no first third for the layout
        t = loop.sample_times(plan.share, rng, 1.0 if plan.init else progress)
        batch = batch_of(plan.share, rng, text, vae, plan.bf16)
        return flow_loss(forward, *batch, t, rng, plan.bf16)

    def look(average, step):
        return watch(Pictures(average, text, vae), out, step)

    path, files = out / "transformer.safetensors", ("log.jsonl", "checkpoint.pt")
    return loop.run(network, optimizers, loss_of, plan, rng, path, ABOUT, *files, look, WATCH_STEPS)


def main() -> None:
    more = ("processes", "layers", "init")
    loop.command(__doc__, train, batch=128, lr=3e-3, rates="both optimizers", more=more)
