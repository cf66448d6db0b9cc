"""What AsynDM does to prompt alignment on the embedded model, through the nodes' own code.

    python bench/asyndm_laboratory.py --n 1024 --kinds chain --seeds 77 78 79 --out FOLDER

Every method starts from the same noises as plain Euler; differences are paired, and those of
several seeds are put together. The words are the objects of the caption ("red circle"); the object
mask is where the plain image of the same noise has its objects, and the other masks are made of it
(bench/parts/waiting.py). With --model unet or unet_v the second embedded model is sampled. Writes
rows.csv (a method is not measured again, rows of another setting are refused), overlap.csv (where
the words' regions lay at each step), a table and a plot.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

from async_timestep.bench.parts import frame, judged
from async_timestep.bench.parts.waiting import METHODS, PLAIN
from async_timestep.bench.parts.waiting_page import page, plot, setting_of
from async_timestep.bench.parts.waiting_run import Laboratory
from async_timestep.bench.parts.waiting_sheet import draw
from async_timestep.training.run.console import Report
from async_timestep.training.tiny.scenes import KINDS


def main() -> None:
    parser = frame.parser(__doc__)
    judged.add_options(parser, METHODS, [10, 20, 50], threads=1)
    parser.add_argument("--seeds", type=int, nargs="+", help="several, in the place of --seed")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=[*KINDS], help="of scenes; default: all"
    )
    parser.add_argument(
        "--model", choices=judged.OF_SHAPES, default="transformer", help="which is sampled"
    )
    parser.add_argument("--keep", type=Path, help="folder that keeps plain's images for a rerun")
    parser.add_argument(
        "--pictures", type=Path, help="write a sheet of 4 prompts to this .png file, and no table"
    )
    frame.folder_option(parser, "rows.csv, overlap.csv, the table and the plot")
    args = parser.parse_args()
    if args.model != "transformer":  # what is the transformer's own
        every = [m for m in METHODS if not METHODS[m].one_model]
        args.methods = every if args.methods == [*METHODS] else args.methods
        if other := [m for m in args.methods if m not in every]:
            parser.error(
                f"{other[0]!r} is of the transformer; leave it or --model {args.model} out"
            )
    args.out.mkdir(parents=True, exist_ok=True)
    args.kinds = [kind for kind in KINDS if kind in args.kinds]
    frame.comfyui(args.threads)
    if args.pictures is not None:
        with Report() as report:
            report.begin("pictures", 4 * args.n * args.steps[0])
            print("\n".join(draw(Laboratory(args, report), args.steps[0], 2, args.pictures)))
        return
    # seed, guidance and the number of prompts stand in each row
    setting = setting_of(args)
    rows = frame.Rows(args.out / "rows.csv", setting)
    overlaps = frame.Rows(args.out / "overlap.csv", setting)
    key = ("steps", "method", "guidance", "seed", "prompts")
    done = {tuple(row[name] for name in key) for row in rows}
    chosen = [m for m in METHODS if m in {PLAIN, *args.methods}]
    todo = [(k, seed, m) for k in args.steps for seed in args.seeds or [args.seed] for m in chosen]
    todo = [(k, s, m) for k, s, m in todo if (k, m, args.guidance, s, args.n) not in done]
    with Report() as report:
        bases = {(k, seed) for k, seed, _ in todo}
        runs = [k for k, _ in bases]
        runs += [k + METHODS[m].more for k, _, m in todo if m != PLAIN]
        report.begin("laboratory", sum(runs) * args.n)

        @cache
        def laboratory(seed: int) -> Laboratory:
            return Laboratory(argparse.Namespace(**{**vars(args), "seed": seed}), report)

        for steps, seed, method in todo:
            report.advance(0, f"K={steps} seed {seed} {method}")
            found, lies = laboratory(seed).measured(steps, method)
            head = {"guidance": args.guidance, "seed": seed, "prompts": args.n}
            for step, place in enumerate(lies):
                overlaps.add(steps, method, {**head, "step": step, **place})
            rows.add(steps, method, *({**head, **row} for row in found))
            frame.write_page(args.out / "asyndm_laboratory.md", page(rows, setting))
            plot(rows, overlaps, args.out / "asyndm_laboratory.png")
    text = frame.write_page(args.out / "asyndm_laboratory.md", page(rows, setting))
    plot(rows, overlaps, args.out / "asyndm_laboratory.png")
    print(text)


if __name__ == "__main__":
    main()
