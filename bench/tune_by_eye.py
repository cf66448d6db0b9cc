"""What Tune by Eye finds in twenty choices, by simulated people on the embedded model.

    python bench/tune_by_eye.py --bf16 --out docs/measurements/tune_by_eye

A person looks at sheets of four schedules on the training split's prompts and takes the one whose
pictures have the highest mean score of the exact judge, but for one choice in ten, which goes to
any of the others. What is found is measured on held-out prompts, paired with D = 0, beside one more
step, the TPM's mean schedule and a schedule of search_schedule.py. People who choose at random see
no picture: what counts there is what the node says. Writes sessions.csv, rows.csv, tune_by_eye.md
and tune_by_eye.png into --out; what is in the two is not made again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

from async_timestep.bench.parts import eye_user, frame, searched
from async_timestep.eye import shapes, taste, verdict
from async_timestep.eye.session import begin
from async_timestep.report.tables import markdown
from async_timestep.training.evaluation.statistics import difference
from async_timestep.training.search.generations import Plan

EYE, RANDOM, MORE = "by eye", "at random", "one more step"
TPM, SEARCH = "TPM, mean schedule", "search_schedule.py, 640 images"


@dataclass(frozen=True)
class Case:
    """A guidance: the mode that is tuned there, and schedules of K = 4 from other pages: of a TPM
    and of the reward search (docs/measurements/search_peers, seed 0)."""

    guidance: float
    mode: str
    tpm: tuple[float, ...] = ()
    search: tuple[float, ...] = ()

    @property
    def space(self) -> str:
        return "follow_time" if self.mode == "follow_time" else "deviation"


CASES = (
    Case(3.0, "conditioning", tpm=(0.644, 0.811, 0.038), search=(0.79, 1.09, -0.04)),
    Case(5.0, "follow_time", search=(0.34, 0.92, 0.57)),
)


def sessions(args: argparse.Namespace, case: Case, measure, rows: frame.Rows) -> None:
    """Adds a row for every person whose session is not there; without a measure they are those who
    choose at random."""
    there = {(row["guidance"], row["method"], row["pictures"], row["seed"]) for row in rows}
    people = [(EYE, pictures, seed) for pictures in args.pictures for seed in args.seeds]
    if measure is None:
        people = [(RANDOM, args.pictures[0], seed) for seed in range(args.random)]
    for method, pictures, seed in people:
        if (case.guidance, method, pictures, seed) in there:
            continue
        start = time.perf_counter()
        person = eye_user.Person(measure, args.wrong, seed)
        own = begin(f"seed {seed}", args.steps, case.mode, seed)
        own = eye_user.tuned(person, own, args.choices, pictures)
        now = own.belief()
        knots = [round(float(knot), 4) for knot in shapes.knots(taste.best(now))]
        found = " ".join(f"{knot:+.4f}" for knot in knots)
        better = taste.better_than_off(now)
        rows.add(args.steps, method, {
            "guidance": case.guidance, "mode": case.mode, "pictures": pictures, "seed": seed,
            "D": found, "better": better,
        })  # fmt: skip
        said = verdict.line(own)
        spent = f"{time.perf_counter() - start:.0f} s"
        print(method, case.guidance, pictures, seed, said, spent, flush=True)


def gains(args: argparse.Namespace, case: Case, measure, found, rows: frame.Rows) -> None:
    """Adds the gain on held-out prompts of every found schedule that has none yet."""
    own = [row for row in found if row["method"] == EYE and row["guidance"] == case.guidance]
    wanted = [(EYE, row["pictures"], row["seed"], row["D"]) for row in own]
    if args.steps == 4:
        beside = ((TPM, case.tpm), (SEARCH, case.search))
        wanted += [(name, 0, 0, " ".join(f"{d:+.4f}" for d in ds)) for name, ds in beside if ds]
    there = {(row["guidance"], row["method"], row["pictures"], row["seed"]) for row in rows}
    wanted = [one for one in wanted if (case.guidance, *one[:3]) not in there]
    held = searched.HeldOut(measure)
    times = measure.measurement.backbone.times(args.steps)

    def add(method: str, pictures: int, seed: int, told: str, gain: tuple[float, float]) -> None:
        rows.add(args.steps, method, {
            "guidance": case.guidance, "mode": case.mode, "pictures": pictures, "seed": seed,
            "D": told, "gain": gain[0], "error": gain[1],
        })  # fmt: skip
        print(
            method,
            case.guidance,
            pictures,
            seed,
            told,
            f"{gain[0]:+.4f} ± {gain[1]:.4f}",
            flush=True,
        )

    for first in range(0, len(wanted), args.together):
        part = wanted[first : first + args.together]
        schedules = []
        for *_, told in part:
            own = shapes.of_knots([float(knot) for knot in told.split()])
            schedules.append(shapes.schedule(own, times, case.mode))
        scores = eye_user.together(measure.measurement, searched.SPLIT, args.steps, schedules)
        for one, score in zip(part, scores, strict=True):
            add(*one, difference(score, held.scores(args.steps)))
    if (case.guidance, MORE, 0, 0) not in there:
        add(MORE, 0, 0, "", held.gain(args.steps, more=1))


def of_people(values: list[float]) -> list[str]:
    """Mean ± its standard error over people, standard deviation, worst and best."""
    if len(values) < 2:
        return [f"{values[0]:+.4f}", "", "", ""]
    deviation = statistics.stdev(values)
    mean = f"{statistics.mean(values):+.4f} ± {deviation / len(values) ** 0.5:.4f}"
    return [mean, f"{deviation:.4f}", f"{min(values):+.4f}", f"{max(values):+.4f}"]


def tables(args: argparse.Namespace, found: frame.Rows, rows: frame.Rows) -> list[str]:
    """The gains beside each other, what was found by each person, and people at random."""
    lines, people = [], []
    for case in args.cases:
        for pictures in args.pictures:
            own = [
                row for row in rows
                if (row["method"], row["guidance"], row["pictures"])
                == (EYE, case.guidance, pictures)
            ]  # fmt: skip
            if not own:
                continue
            values = [row["gain"] for row in own]
            of_them = (EYE, case.guidance, pictures)
            sure = {
                row["seed"]: row["better"]
                for row in found
                if (row["method"], row["guidance"], row["pictures"]) == of_them
            }
            looked = f"{EYE}, {pictures} picture{'s' * (pictures > 1)} a schedule"
            lines.append([
                f"{case.guidance:g}", case.mode, looked,
                len(own), *of_people(values),
            ])  # fmt: skip
            for row in own:
                people.append([
                    f"{case.guidance:g}", pictures, row["seed"],
                    " ".join(f"{float(d):+.2f}" for d in row["D"].split()),
                    f"{row['gain']:+.4f} ± {row['error']:.4f}", f"{sure[row['seed']]:.2f}",
                ])  # fmt: skip
        for method in (TPM, SEARCH, MORE):
            for row in rows:
                if (row["method"], row["guidance"]) == (method, case.guidance):
                    gain = f"{row['gain']:+.4f} ± {row['error']:.4f}"
                    lines.append([f"{case.guidance:g}", case.mode, method, "", gain, "", "", ""])
    head = ["CFG", "mode", "method", "people", "gain", "spread of people", "worst", "best"]
    parts = ["## Gains", markdown(head, lines)]
    head = ["CFG", "pictures", "seed", "D found", "gain ± standard error", "better than off"]
    parts += ["## Everybody", markdown(head, people)]
    own = [row["better"] for row in found if row["method"] == RANDOM]
    if not own:
        return parts
    wrong = sum(value >= taste.SURE for value in own)
    head = ["people", f'told "likely better than off" (from {taste.SURE:g})', "surest"]
    line = [len(own), wrong, f"{max(own):.2f}"]
    return [*parts, "## People who choose at random", markdown(head, [line])]


def plot(args: argparse.Namespace, rows: frame.Rows) -> None:
    """Everybody's gain beside the other methods."""
    figure, axes = frame.drawing(len(args.cases), (4.4 * len(args.cases), 3.4))
    colours = {MORE: "tab:grey", TPM: "tab:orange", SEARCH: "tab:green"}
    for axis, case in zip(axes[0], args.cases, strict=True):
        own = [row for row in rows if row["guidance"] == case.guidance]
        for place, pictures in enumerate(args.pictures):
            part = [r for r in own if (r["method"], r["pictures"]) == (EYE, pictures)]
            at = [place + 0.04 * (k - (len(part) - 1) / 2) for k in range(len(part))]
            axis.errorbar(
                at, [r["gain"] for r in part], [r["error"] for r in part], fmt="o", ms=4,
                color="tab:blue", elinewidth=0.8,
            )  # fmt: skip
        for row in own:
            if row["method"] != EYE:
                axis.axhline(row["gain"], color=colours[row["method"]], lw=1.2, label=row["method"])
        axis.axhline(0, color="black", lw=0.8)
        axis.set_xticks(range(len(args.pictures)), [f"{p} a schedule" for p in args.pictures])
        axis.set_xlim(-0.6, len(args.pictures) - 0.4)
        axis.set_xlabel("pictures looked at for a choice")
        axis.set_title(f"CFG {case.guidance:g}, {case.mode}")
        axis.legend(fontsize=7, loc="lower right")
    axes[0][0].set_ylabel("gain of the reward over D = 0")
    frame.save(figure, args.out / "tune_by_eye.png")


def options() -> argparse.ArgumentParser:
    parser = frame.parser(__doc__)
    add = parser.add_argument
    every = [case.guidance for case in CASES]
    add("--guidance", type=float, nargs="+", default=every, choices=every)
    # seeds 0 to 9 were run with an earlier prior of the taste
    add("--seeds", type=int, nargs="+", default=[*range(10, 20)], help="people")
    add("--random", type=int, default=30, help="people who choose at random")
    add("--pictures", type=int, nargs="+", default=[4], help="of each schedule on a sheet")
    add("--choices", type=int, default=20)
    add("--wrong", type=float, default=0.1, help="share of the choices")
    add("--steps", type=int, default=4)
    add("--n", type=int, default=1024, help="held-out prompts")
    add("--together", type=int, default=6, help="schedules that are measured at a time")
    add("--bf16", action="store_true", help="faster where the CPU has it; changes the numbers")
    frame.threads_option(parser, 1)
    frame.folder_option(parser, "sessions.csv, rows.csv, tune_by_eye.md and tune_by_eye.png")
    return parser


def main() -> None:
    args = options().parse_args()
    args.cases = [case for case in CASES if case.guidance in args.guidance]
    args.out.mkdir(parents=True, exist_ok=True)
    precision = "bf16" if args.bf16 else "fp32"
    setting = f"K {args.steps}, {args.choices} choices, {args.wrong:.0%} wrong, {precision}"
    found = frame.Rows(args.out / "sessions.csv", setting)
    rows = frame.Rows(args.out / "rows.csv", f"{setting}, n {args.n}")
    loaded = [
        searched.load(
            case.space, Plan(0, seed=0), args.steps, case.guidance, args.n, args.threads, precision
        )[1]
        for case in args.cases
    ]
    for case, measure in zip(args.cases, loaded, strict=True):
        sessions(args, case, measure, found)
    for case, measure in zip(args.cases, loaded, strict=True):
        gains(args, case, measure, found, rows)
    sessions(args, args.cases[0], None, found)
    legend = (
        f"Embedded model; {setting}; {args.n:,} held-out prompts, every schedule on the same "
        "noises. Gain of the reward over D = 0. By eye it is the mean over people ± its standard "
        "error, and their spread is a standard deviation; of one schedule it is ± the standard "
        'error of the measurement. "better than off" is the probability that the node\'s line '
        "has after the last choice."
    )
    page = ["# Tune by eye", frame.made_by(frame.command("tune_by_eye")), legend]
    plot(args, rows)
    page += [*tables(args, found, rows), "![everybody's gain](tune_by_eye.png)"]
    print(frame.write_page(args.out / "tune_by_eye.md", page))


if __name__ == "__main__":
    main()
