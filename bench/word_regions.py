"""Where the words' regions lie on the embedded model: by block, threshold and step.

    python bench/word_regions.py --n 256 --kinds chain --steps 10 --seeds 77 78 --out FOLDER

Plain Euler, whose attention to the caption's objects is read in each joint attention of the
network by the nodes' own code; the objects are those of the finished image. The choice of a block
and a threshold is made on the first seed and read on the second. Writes word_regions.csv, a table
and a plot.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from async_timestep.bench.parts import frame, judged
from async_timestep.bench.parts.waiting import PLACES, TOKEN, Method, places
from async_timestep.bench.parts.waiting_run import Laboratory
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.scenes import KINDS

THRESHOLDS = (0.5, 0.7, 1.0, 1.3, 1.6, 2.0)
USED, TOKENS = "the nodes' own (blocks 2 and 3)", "the objects' own tokens"
LEGEND = (
    "IoU: of the words' region with the objects of the finished image; the others are the share "
    "of the picture, of the objects, of the ring of 8 px around them and of all beyond it that is "
    "in the region. Means over the images and over all evaluations but the first. The last line "
    "has the tokens that are at least half object."
)


class Watched(Laboratory):
    """A laboratory that keeps where the words are in each joint attention of the network."""

    def regions(
        self, steps: int
    ) -> tuple[dict[tuple[str, float, int], torch.Tensor], torch.Tensor]:
        """(block, threshold, step) -> the words' region (n, 8, 8) of plain Euler, and the objects
        (n, 64, 64) of its images."""
        attention, masks = pack("nodes.pixels.attention"), pack("maps.masks")
        swapped, found = pack("nodes.pixels.hooks").swapped, []

        def every(layers, most):
            return range(layers.stop)

        def add(words, maps):
            found.append(maps)
            words.total, words.layers = maps, 1

        with swapped(attention, "evenly", every), swapped(attention.WordMaps, "add", add):
            # so small a deviation leaves the sampling as it is, and its region reads the words
            _, objects, _ = self.run(steps, Method("words", None, deviation=1e-9))
        blocks = len(found) // (steps * len(self.batches))
        parts = defaultdict(list)
        for _ in self.batches:
            for step in range(steps):
                read = {f"block {b + 1}": found.pop(0) for b in range(blocks)}
                # what the nodes do: the mean over the deeper half
                read[USED] = torch.stack(list(read.values())[blocks // 2 :]).mean(0)
                for block, threshold in itertools.product(read, THRESHOLDS):
                    own = masks.word_masks(read[block], threshold).amax(1)
                    parts[block, threshold, step].append(own)
        order = torch.tensor([row for _, rows in self.batches for row in rows])
        return {key: torch.cat(own) for key, own in parts.items()}, objects[order]


def measured(args: argparse.Namespace, seed: int, report: Report) -> list[dict]:
    """A row a block, threshold and step, and one of the best that tokens can do."""
    laboratory = Watched(argparse.Namespace(**{**vars(args), "seed": seed}), report)
    found, objects = laboratory.regions(args.steps[0])
    rows = []
    for (block, threshold, step), mask in found.items():
        head = {"seed": seed, "block": block, "threshold": threshold, "step": step}
        rows.append({**head, **places(mask, objects > 0)})
    best = (F.avg_pool2d(objects[:, None], TOKEN)[:, 0] >= 0.5).float()
    head = {"seed": seed, "block": TOKENS, "threshold": 0, "step": args.steps[0] - 1}
    return [*rows, {**head, **places(best, objects > 0)}]


def mean(rows: Sequence[dict], **wanted) -> dict[str, float]:
    """Of the rows with these values, over all steps that have a mask; empty without any."""
    own = [row for row in rows if wanted.items() <= row.items() and row["step"] > 0]
    return {name: sum(row[name] for row in own) / len(own) for name in PLACES if own}


def table(rows: Sequence[dict], first: int, second: int) -> str:
    """The IoU on both seeds, and where the region lies on the second."""
    lines = []
    for block, threshold in dict.fromkeys((row["block"], row["threshold"]) for row in rows):
        chosen, tested = (
            mean(rows, block=block, threshold=threshold, seed=seed) for seed in (first, second)
        )
        shown = [f"{tested[name]:.3f}" for name in PLACES]
        name = block if block == TOKENS else f"{block}, threshold {threshold:g}"
        lines.append([name, f"{chosen['iou']:.3f}", *shown])
    head = ["", f"IoU, seed {first}", f"IoU, seed {second}", *PLACES[1:]]
    return markdown(head, lines)


def plot(rows: Sequence[dict], seed: int, path) -> None:
    """IoU over the steps by block at threshold 1; and over the thresholds."""
    figure, ((left, right),) = frame.drawing(2, (11, 4), sharey=True)
    rows = [row for row in rows if row["seed"] == seed]
    for block in dict.fromkeys(row["block"] for row in rows if row["block"] != TOKENS):
        own = [row for row in rows if (row["block"], row["threshold"]) == (block, 1.0)]
        left.plot([row["step"] for row in own], [row["iou"] for row in own], "o-", label=block)
        at = [mean(rows, block=block, threshold=threshold)["iou"] for threshold in THRESHOLDS]
        right.plot(THRESHOLDS, at, "o-", label=block)
    (best,) = [row["iou"] for row in rows if row["block"] == TOKENS]
    for axis, label in ((left, "evaluation"), (right, "threshold (mean over the steps)")):
        axis.axhline(best, color="grey", linestyle=":", label=TOKENS)
        axis.set_xlabel(label)
    left.set_ylabel("IoU of the words' region with the finished objects")
    left.set_ylim(0, 1)
    right.legend(fontsize=8)
    frame.save(figure, path)


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, ["words"], [10], threads=1)
    parser.add_argument("--seeds", type=int, nargs=2, default=[77, 78], help="to choose, to test")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="of scenes")
    parser.set_defaults(model="transformer")
    frame.folder_option(parser, "word_regions.csv, .md and .png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    frame.comfyui(args.threads)
    setting = f"{' '.join(args.kinds)}, n {args.n} a seed, {args.steps[0]} steps, guidance "
    setting += f"{args.guidance:g}, {'bf16' if args.bf16 else 'fp32'}"
    with Report() as report:
        report.begin("word regions", len(args.seeds) * args.n * args.steps[0])
        rows = [row for seed in args.seeds for row in measured(args, seed, report)]
    frame.write_rows(args.out / "word_regions.csv", rows)
    parts = ["# Where the words' regions lie", frame.made_by(frame.command("word_regions"))]
    parts += [f"{setting}. {LEGEND}", table(rows, *args.seeds)]
    text = frame.write_page(args.out / "word_regions.md", parts)
    plot(rows, args.seeds[1], args.out / "word_regions.png")
    print(text)


if __name__ == "__main__":
    main()
