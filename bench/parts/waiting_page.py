"""The table and the plot of bench/asyndm_laboratory.py, from its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from async_timestep.bench.parts import frame, judged
from async_timestep.bench.parts.waiting import METHODS, PLAIN
from async_timestep.report.tables import markdown

LEGEND = (
    "Same noises for every method; ± is one standard error of the paired difference to plain Euler "
    "with the same number of steps, seeds put together; n counts the images. reward: at most 3, "
    "see training/tiny/score.py; strict: share of images in which everything is right; noise: "
    "level of high-frequency noise. Words are the caption's objects. AsynDM of strength 0.5 where "
    "none is named; the rows D and TPM are Async Timestep's deviation, everywhere or in a region. "
    "`words, static` samples twice."
)
COLUMNS = {
    "reward": "reward", "strict": "strict", "iou": "IoU", "relation": "relation",
    "count": "count", "scorer": "scorer", "noise": "noise",
}  # fmt: skip


def setting_of(args) -> str:
    """What is the same for all rows of a file."""
    model = [] if args.model == "transformer" else [judged.MODELS[args.model]]
    return ", ".join([" ".join(args.kinds), "bf16" if args.bf16 else "fp32", *model])


def largest(rows: Sequence[dict]) -> list[dict]:
    """Of the rows of a seed those with the most prompts, of which fewer are a part."""
    most: dict = {}
    for row in rows:
        key = (row["steps"], row["method"], row["guidance"], row["seed"], row["kind"])
        if key not in most or row["prompts"] > most[key]["prompts"]:
            most[key] = row
    return list(most.values())


def together(rows: Sequence[dict], name: str) -> tuple[float, float, float, int]:
    """Mean, paired difference, its standard error and the number of images over several seeds."""
    n = sum(row["n"] for row in rows)
    mean, change = (sum(r["n"] * r[name + part] for r in rows) / n for part in ("", "_d"))
    error = sum((r["n"] * r[f"{name}_se"]) ** 2 for r in rows) ** 0.5 / n
    return mean, change, error, n


def cell(rows: Sequence[dict], name: str, digits: int = 4) -> str:
    mean, change, error, _ = together(rows, name)
    if rows[0]["method"] == PLAIN:
        return f"{mean:.{digits}f}"
    return f"{change:+.{digits}f} ± {error:.{digits}f}"


def sections(rows: Sequence[dict]) -> list[tuple[int, float]]:
    return sorted({(row["steps"], row["guidance"]) for row in rows}, key=lambda s: (s[1], s[0]))


def section(rows: Sequence[dict], steps: int, guidance: float) -> dict[tuple[str, str], list]:
    """(method, kind) -> the rows of its seeds."""
    found: dict = {}
    for row in largest(rows):
        if (row["steps"], row["guidance"]) == (steps, guidance):
            found.setdefault((row["method"], row["kind"]), []).append(row)
    return {(m, k): found[m, k] for m in METHODS for k in kinds(rows) if (m, k) in found}


def kinds(rows: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(row["kind"] for row in rows))


def commands(rows: Sequence[dict], setting: str) -> list[str]:
    """The command lines that measure these rows, each without its folder."""
    methods, seeds = defaultdict(list), defaultdict(list)
    for row in rows:
        if row["kind"] == "all":
            methods[row["prompts"], row["guidance"], row["steps"], row["seed"]].append(
                row["method"]
            )
    for (*head, seed), own in methods.items():
        chosen = tuple(m for m in METHODS if m in own and m != PLAIN)
        seeds[(*head, chosen)].append(str(seed))
    scenes, precision, *_ = setting.split(", ")
    models = [name for name, said in judged.MODELS.items() if setting.endswith(f", {said}")]
    found = []
    for (prompts, guidance, steps, own), those in seeds.items():
        options = ["--bf16"] * (precision == "bf16") + ["--kinds", *scenes.split()]
        options += [part for name in models for part in ("--model", name)]
        options += ["--n", str(prompts), "--steps", str(steps), "--guidance", f"{guidance:g}"]
        options += ["--seeds", *those, "--methods", *(own or [PLAIN]), "--out", "FOLDER"]
        found.append(frame.command("asyndm_laboratory", options))
    return found


def page(rows: Sequence[dict], setting: str) -> list[str]:
    made = "\n".join(f"- `{command}`" for command in commands(rows, setting))
    titles = {"unet": "the embedded UNet", "unet_v": "the embedded UNet (v)"}
    said = (title for name, title in titles.items() if judged.MODELS[name] in setting)
    title = f"# AsynDM on {next(said, 'the embedded model')}"
    parts = [title, f"Made by\n\n{made}", f"{setting}. {LEGEND}"]
    for steps, guidance in sections(rows):
        cells = section(rows, steps, guidance)
        parts.append(f"## {steps} steps, guidance {guidance:g}")
        lines = []
        for (method, kind), own in cells.items():
            if kind == "all":
                seeds = " ".join(str(row["seed"]) for row in own)
                shown = [cell(own, name) for name in COLUMNS]
                lines.append([method, *shown, str(together(own, "reward")[3]), seeds])
        parts.append(markdown(["", *COLUMNS.values(), "n", "seeds"], lines))
        parts += by_kind(cells)
    return parts


def by_kind(cells: dict) -> list[str]:
    """Reward and strict of every kind, where there are several."""
    names = [kind for kind in dict.fromkeys(k for _, k in cells) if kind != "all"]
    lines = []
    for method in dict.fromkeys(m for m, k in cells if k != "all"):
        own = [cells.get((method, kind)) for kind in names]
        shown = [f"{cell(o, 'reward')}; {cell(o, 'strict', 3)}" if o else "" for o in own]
        lines.append([method, *shown])
    if not lines:
        return []
    counts = [together(cells[PLAIN, kind], "reward")[3] for kind in names]
    head = [f"{kind} (n {n})" for kind, n in zip(names, counts, strict=True)]
    return ["Reward; strict, by kind of scene", markdown(["", *head], lines)]


def plot(rows: Sequence[dict], overlaps: Sequence[dict], path: Path) -> None:
    """Reward by method, and which share of the objects, of the ring around them and of the rest
    the words' masks hold over the sampling."""
    names = [m for m in METHODS if m != PLAIN and any(row["method"] == m for row in rows)]
    figure, ((left, right),) = frame.drawing(2, (12, 1.6 + 0.26 * max(len(names), 8)))
    shown = sections(rows)
    for offset, (steps, guidance) in enumerate(shown):
        cells = section(rows, steps, guidance)
        at = [(i, together(cells[m, "all"], "reward")) for i, m in enumerate(names)
              if (m, "all") in cells]  # fmt: skip
        left.errorbar(
            [found[1] for _, found in at],
            [i + 0.16 * (offset - (len(shown) - 1) / 2) for i, _ in at],
            xerr=[found[2] for _, found in at],
            fmt="o",
            capsize=2,
            markersize=4,
            label=f"{steps} steps, CFG {guidance:g}",
        )
    left.axvline(0, color="grey", linewidth=0.8)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.invert_yaxis()
    left.locator_params(axis="x", nbins=5)
    left.set_xlabel("reward, difference to plain (± s.e.)")
    left.legend(fontsize=8)
    styles = {"objects": "-", "ring": "--", "beyond": ":"}
    counts = sorted({line["steps"] for line in overlaps})
    for steps in counts:
        lines = [o for o in overlaps if (o["steps"], o["method"]) == (steps, "words")]
        lines = [o for o in lines if o["guidance"] == min(o["guidance"] for o in lines)]
        for name, style in styles.items():
            values = [mean([o[name] for o in lines if o["step"] == step]) for step in range(steps)]
            at = [step / (steps - 1) for step in range(1, steps)]
            label = f"{name}, {steps} steps"
            right.plot(at, values[1:], style, color=f"C{counts.index(steps)}", label=label)
    right.set_xlabel("share of the sampling done")
    right.set_ylabel("share that the words' regions hold")
    right.set_ylim(0, 1.02)
    if counts:
        right.legend(fontsize=8)
    frame.save(figure, path)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
