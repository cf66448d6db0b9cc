"""How well the embedded model follows held-out combinations, by kind and by texture; and a picture
of it.

    python training/make_tiny.py accuracy --n 512 --steps 15 --guidance 3 --out /tmp/accuracy.png
    python training/make_tiny.py accuracy --model unet --n 512 --steps 15 --out /tmp/unet.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ...report.sheets import enlarged, picture_of, sheet
from ...tpm.policies import Constant
from ..backbones.tiny import TinyFlow
from ..run.config import BackboneConfig
from ..run.stopping import stop
from ..tiny.backbone import WEIGHTS, noises
from ..tiny.scenes import KINDS, TEXTURES, Scene, held_out_scenes
from ..tiny.score import score_images
from ..tiny.unet import FILES, TinyUNet, simple_sigmas

COLUMNS = ("strict", "iou", "relation", "count", "attributes", "background", "reward")


def picture(
    images: torch.Tensor, captions: list[str], columns: int = 8, zoom: int = 2
) -> Image.Image:
    """A grid of (B, 3, H, W) images with their captions below."""
    pictures = [enlarged(picture_of(image), zoom) for image in images]
    texts = [caption.removesuffix(" background") for caption in captions]
    starts = range(0, len(pictures), columns)
    return sheet(
        [pictures[i : i + columns] for i in starts], below=[texts[i : i + columns] for i in starts]
    )


def table(scores: dict[str, torch.Tensor], scenes: list[Scene]) -> str:
    """Means by kind, by texture and over all, with the standard error of strict."""
    groups = {kind: [s.kind == kind for s in scenes] for kind in KINDS}
    groups |= {texture: [s.texture == texture for s in scenes] for texture in TEXTURES}
    groups["all"] = [True] * len(scenes)
    lines = [
        f"{'':9}{'n':>5}" + "".join(f"{name:>12}" for name in COLUMNS) + f"{'s.e. strict':>13}"
    ]
    for name, members in groups.items():
        rows = torch.tensor(members)
        if rows.any():
            means = [float(scores[column][rows].mean()) for column in COLUMNS]
            error = float((means[0] * (1 - means[0]) / rows.sum()) ** 0.5)
            cells = "".join(f"{mean:12.3f}" for mean in means)
            lines.append(f"{name:9}{int(rows.sum()):5d}{cells}{error:13.3f}")
    return "\n".join(lines)


def transformer(args: argparse.Namespace) -> Callable[[list[str], list[int]], torch.Tensor]:
    """(captions, seeds of their noises) -> images, by the flow transformer."""
    settings = BackboneConfig(path=str(args.weights), precision="fp32", guidance=args.guidance)
    backbone = TinyFlow(settings, torch.device("cpu"))
    sigmas, policy = backbone.sigmas(args.steps), Constant(args.deviation)

    def draw(captions: list[str], seeds: list[int]) -> torch.Tensor:
        noise = backbone.model.noise(seeds)
        return backbone.decode(backbone.sample(backbone.encode(captions), noise, sigmas, policy))

    return draw


def unet(args: argparse.Namespace) -> Callable[[list[str], list[int]], torch.Tensor]:
    """The same by the UNet."""
    if args.deviation:
        stop("accuracy", "--deviation is for the transformer; leave it out with --model unet.")
    (prediction,) = (each for each, name in FILES.items() if name == args.model)
    model = TinyUNet(args.weights, prediction)
    sigmas = simple_sigmas(args.steps, model.table)

    def draw(captions: list[str], seeds: list[int]) -> torch.Tensor:
        return model.vae.decode(model.sample(captions, noises(seeds), sigmas, args.guidance))

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the model")
    parser.add_argument(
        "--model",
        choices=["transformer", *FILES.values()],
        default="transformer",
        help="which of the embedded models",
    )
    parser.add_argument("--n", type=int, default=512, help="held-out captions")
    parser.add_argument("--steps", type=int, default=15, help="Euler steps")
    parser.add_argument("--guidance", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument(
        "--deviation", type=float, default=0.0, help="constant D, of the transformer"
    )
    parser.add_argument("--seed", type=int, default=1234, help="seed of captions and noises")
    parser.add_argument("--batch", type=int, default=64, help="images at a time")
    parser.add_argument("--all", action="store_true", help="single objects and counts too")
    parser.add_argument("--out", type=Path, default=Path("accuracy.png"), help="the picture")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 = all")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    scenes = held_out_scenes(args.n, args.seed, compositions_only=not args.all)
    captions = [scene.caption for scene in scenes]
    draw, parts = (transformer if args.model == "transformer" else unet)(args), []
    with torch.no_grad(), tqdm(total=args.n, unit="image") as bar:
        for start in range(0, args.n, args.batch):
            part = range(start, min(start + args.batch, args.n))
            parts.append(draw([captions[i] for i in part], [args.seed * 100_000 + i for i in part]))
            bar.update(len(part))
    images = torch.cat(parts)
    print(table(score_images(images, captions), scenes))
    picture(images[:40], captions[:40]).save(args.out)
    print(f"Picture of the first 40: {args.out}")
