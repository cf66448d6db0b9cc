"""The official AsynDM code and ours on the same trained weights: masks, pictures, the exact judge.

    python bench/official_trained.py --official CHECKOUT --n 128 --steps 10 --out PAGE.md

The checkout is of hu-zijing/AsynDM. Its `main` makes its plain pictures and AsynDM's on the
embedded UNet (parts/official_trained.py); ours samples the same weights in ComfyUI's network, once
on the official grid (as bench/official.py lines it up) and once as a user has it, from ComfyUI's
scheduler simple. All start from the same noises. Prompts are held-out scenes; an item of the
official code is one token, so the words are read a token each there, and as the nodes read them in
the last row.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch

from async_timestep.bench.parts import frame, judged
from async_timestep.bench.parts import official_side as side
from async_timestep.bench.parts.official_ours import sampled
from async_timestep.bench.parts.official_trained import fitted, masks_of, trained_unet
from async_timestep.bench.parts.peers_load import relative
from async_timestep.bench.parts.waiting import METHODS, PLAIN, places
from async_timestep.bench.parts.waiting_run import Laboratory
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.find import find_objects
from async_timestep.training.tiny.scenes import KINDS

STRENGTH, BOUND = 0.5, 1e-4
BASE, THEIRS, OURS = "official, plain", "official, AsynDM", "ours on the official grid, AsynDM"
SHOWN = {"reward": 4, "strict": 3, "iou": 4, "noise": 5}  # and their digits


def region(columns: list[list[int]]):
    words = {str(i): list(own) for i, own in enumerate(columns)}
    return pack("nodes.run.region").Region("words", columns=words, strengths=(1.0,) * len(words))


class Beside(Laboratory):
    """A laboratory that samples each batch by the official code too."""

    def __init__(self, args, report, official):
        super().__init__(args, report)
        self.official, self.unet = official, trained_unet()

    def beside(self, steps: int) -> tuple[dict, dict, list]:
        """Latents (n, 16, 16, 16) by method, the masks (n, 16, 16) of every step by method, and of
        every batch how far the last latents are apart (relative) and the share of mask cells that
        differ."""
        latents = defaultdict(lambda: torch.zeros(self.args.n, 16, 16, 16))
        masks = defaultdict(lambda: torch.zeros(steps, self.args.n, 16, 16))
        apart = []
        for columns, rows in self.batches:
            tokens = [[column] for word in columns for column in word]
            noise = self.own.backbone.noise(self.own.generators("scenes", rows))
            positive = self.conditioning([self.captions[i] for i in rows])
            negative = self.conditioning([""] * len(rows))
            texts = (negative[0][0][:1], positive[0][0])
            items = [column - 1 for (column,) in tokens]  # it adds one for a token in front
            strengths = [STRENGTH] * len(items)
            guidance = self.args.guidance
            theirs = side.run(
                self.official, self.unet, texts, steps, 0.0, items, strengths, 0, noise, guidance
            )
            ours = sampled(
                self.model, region(tokens), theirs, (positive, negative), steps, 0.0, guidance
            )
            mine = ours.at_zero(theirs.fresh[-1], 0.0)
            for name, own in ((BASE, theirs.decoded[0]), (THEIRS, theirs.after[-1]), (OURS, mine)):
                latents[name][rows] = own
            for name, read in ((THEIRS, masks_of(theirs, steps)[:-1]), (OURS, ours.masks[2:])):
                masks[name][1:, rows] = torch.stack(read)
            cells = (masks[THEIRS][1:, rows] != masks[OURS][1:, rows]).float().mean()
            apart.append((relative(mine, theirs.after[-1]), float(cells)))
            self.own.advance(len(rows) * 3 * steps)
        return latents, masks, apart


def measured(laboratory: Beside, steps: int) -> tuple[list[list[str]], list[tuple[float, float]]]:
    """The lines of the table, and how far official and ours are apart in every batch."""
    latents, masks, apart = laboratory.beside(steps)
    decode = laboratory.own.backbone.decode
    images = {name: decode(own) for name, own in latents.items()}
    objects = {name: find_objects(own).core for name, own in images.items()}
    scores = {
        name: laboratory.own.rewards(own, laboratory.captions) for name, own in images.items()
    }
    overlap = {name: [places(mask, objects[name]) for mask in own] for name, own in masks.items()}
    lines = [line(name, scores[name], scores[BASE], overlap.get(name)) for name in scores]
    plain, _, _ = laboratory.run(steps, METHODS[PLAIN])
    words, _, lies = laboratory.run(steps, METHODS["words"])
    lines.append(line("ours, scheduler simple, plain", plain, plain))
    lines.append(line("ours, scheduler simple, AsynDM by words", words, plain, lies))
    return lines, apart


def line(name: str, scores: dict, base: dict, lies: list[dict] | None = None) -> list[str]:
    """A method's means, or its differences to `base`; where its masks lay, from the second step on
    and in the middle of the picture's making."""
    row = judged.compared(scores, base, [*SHOWN])
    if scores is base:
        shown = [f"{row[column]:.{digits}f}" for column, digits in SHOWN.items()]
    else:
        shown = [judged.difference(row, column, digits) for column, digits in SHOWN.items()]
    if not lies:
        return [name, *shown, "", "", ""]
    own = lies[1:]  # nothing is read before the first
    return [name, *shown, *(
        f"{sum(where[part] for where in own) / len(own):.3f}" for part in ("iou", "area", "objects")
    )]  # fmt: skip


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--official", type=Path, required=True, help="the checkout")
    parser.add_argument("--n", type=int, default=128, help="prompts")
    parser.add_argument("--steps", type=int, default=10, help="evaluations of every method")
    parser.add_argument("--guidance", type=float, default=5.0, help="classifier-free guidance")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["chain"], help="of scenes")
    parser.add_argument("--seed", type=int, default=77, help="seed of prompts and noises")
    parser.add_argument("--batch", type=int, default=64, help="images at a time")
    parser.set_defaults(bf16=False, threads=1, model="unet", keep=None)
    frame.page_option(parser)
    args = parser.parse_args()
    official = fitted(side.load(args.official.resolve()))
    frame.comfyui()
    with Report() as report:
        report.begin("official", args.n * args.steps * 5)
        lines, apart = measured(Beside(args, report, official), args.steps)
    head = ["", *SHOWN, "mask's IoU", "its area", "of the objects"]
    told = frame.chosen(args, official="CHECKOUT", n="", steps="", guidance="", seed="")
    told += ["--kinds", *args.kinds]
    legend = (
        f"{args.n} held-out prompts ({' '.join(args.kinds)}), {args.steps} evaluations, guidance "
        f"{args.guidance:g}, seed {args.seed}, strength {STRENGTH:g}, eta 0, float32. ± is one "
        "standard error of the paired difference to the plain row above, on the same noises. "
        "The mask's columns are means over all evaluations but the first: its IoU with the objects "
        "of the finished picture, the share of the picture, and the share of the objects inside."
    )
    off, cells = (max(values) for values in zip(*apart, strict=True))
    same = [
        ["last latents, relative, the largest of the batches", f"{off:.1e}", f"{BOUND:g}"],
        ["share of mask cells that differ, of all steps", f"{cells:g}", "0"],
    ]
    same = "Official and ours on its grid:\n\n" + markdown(["check", "found", "bound"], same)
    made_by = frame.made_by(frame.command("official_trained", told))
    title = "# AsynDM on trained weights: the official code and ours"
    print(frame.write_page(args.out, [title, made_by, legend, markdown(head, lines), same]))


if __name__ == "__main__":
    main()
