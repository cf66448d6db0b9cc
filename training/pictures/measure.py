"""What the judge says of rendered pictures, of those through the autoencoder, and of the model's.

    python training/make_pictures.py measure --n 384
    python training/make_pictures.py measure --weights runs/pictures --picture a.png

Held-out combinations, the grounds in turn; means over n pictures, for strict with its standard
error. The rows of the autoencoder and of the model are there where the folder has their files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from ...report.sheets import picture_of, sheet
from ..run.stopping import stop
from .autoencoder import Autoencoder
from .backbone import FILES, Pictures, noises
from .grounds import GROUNDS
from .scenes import KINDS, SIZE, held_out_scenes, render
from .score import score_images

WEIGHTS = Path(__file__).parent / "weights"
COLUMNS = (
    "strict", "iou", "relation", "count", "ground", "background", "texture_std", "clean", "foreign",
    "reward",
)  # fmt: skip
NOISES = (0.05, 0.1, 0.15, 0.2, 0.3)  # standard deviations
SHOWN, ACROSS = 24, 6


def line(name: str, scores: dict[str, torch.Tensor], rows: torch.Tensor | None = None) -> str:
    """A row of the table, over all pictures or those of a mask."""
    n = len(scores["strict"]) if rows is None else int(rows.sum())
    means = [float((scores[c] if rows is None else scores[c][rows]).mean()) for c in COLUMNS]
    error = (means[0] * (1 - means[0]) / max(n, 1)) ** 0.5
    cells = "".join(f"{mean:12.3f}" for mean in means)
    return f"{name:14}{n:5d}{cells}{error:13.3f}"


def in_parts(act: Callable, n: int, size: int = 32) -> torch.Tensor:
    """act(slice) of `size` pictures at a time, joined."""
    return torch.cat([act(slice(k, min(k + size, n))) for k in range(0, n, size)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name, kind, default, text):
        parser.add_argument(name, type=kind, default=default, help=text)

    add("--weights", Path, WEIGHTS, "folder of the autoencoder and the model")
    add("--n", int, 384, "pictures")
    add("--steps", int, 15, "Euler steps of the model")
    add("--guidance", float, 3.0, "classifier-free guidance")
    add("--seed", int, 1234, "of captions, pictures and noises")
    add("--picture", Path, None, "where a sheet of the last row's pictures is put")
    add("--threads", int, 0, "CPU threads; 0 = all")
    parser.add_argument("--all", action="store_true", help="single objects and counts too")
    parser.add_argument("--only_model", action="store_true", help="no rows of the judge itself")
    args = parser.parse_args()
    if args.only_model and not (args.weights / FILES[0]).exists():
        stop("measure", f"{args.weights} has no {FILES[0]}; leave --only_model out, or train one.")
    if args.threads:
        torch.set_num_threads(args.threads)
    n, rng = args.n, torch.Generator().manual_seed(args.seed)
    scenes = held_out_scenes(n, args.seed, compositions_only=not args.all)
    captions = [scene.caption for scene in scenes]
    images = render(scenes, rng, with_masks=False)[0]
    heads = "".join(f"{name:>12}" for name in COLUMNS)
    print(f"{'':14}{'n':>5}{heads}{'s.e. strict':>13}")

    def tell(name: str, pictures: torch.Tensor, words: list[str]) -> dict[str, torch.Tensor]:
        scores = score_images(pictures, words)
        print(line(name, scores), flush=True)
        return scores

    if not args.only_model:
        tell("rendered", images, captions)
        step = len(GROUNDS)  # to captions of the same ground
        tell("shuffled", images, captions[step:] + captions[:step])
        for std in NOISES:
            noise = torch.randn(images.shape, generator=rng)
            tell(f"noise {std}", (images + std * noise).clamp(0, 1), captions)
    if (args.weights / FILES[2]).exists() and not args.only_model:
        vae = Autoencoder(args.weights / FILES[2])
        again = in_parts(lambda part: vae.decode(vae.encode(images[part])), n)
        decibel = -10 * float((again - images).square().mean().log10())
        tell("autoencoder", again, captions)
        print(f"{'':14}PSNR {decibel:.2f} dB at {SIZE} pixels")
        images = again
    if (args.weights / FILES[0]).exists():
        model, noise = (
            Pictures.load(args.weights),
            noises([args.seed * 100_000 + k for k in range(n)]),
        )
        images = in_parts(
            lambda part: model.sample(captions[part], noise[part], args.steps, args.guidance), n
        )
        scores = tell("model", images, captions)
        groups = {kind: [scene.kind == kind for scene in scenes] for kind in KINDS}
        groups |= {ground: [scene.ground == ground for scene in scenes] for ground in GROUNDS}
        for name, members in groups.items():
            if any(members):
                print(line(f"  {name}", scores, torch.tensor(members)))
    if args.picture:
        shown = range(min(n, SHOWN))
        rows = [slice(k, k + ACROSS) for k in shown[::ACROSS]]
        pictures = [picture_of(images[k]) for k in shown]
        sheet([pictures[r] for r in rows], below=[captions[: len(shown)][r] for r in rows]).save(
            args.picture
        )
        print(f"The first {len(shown)} are in {args.picture}.")
