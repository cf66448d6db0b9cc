"""Writes the table of all claims, docs/measurements/README.md, and the four numbers of README.md.

    python scripts/make_claims.py

What is claimed stands in claims.py; every number is read from the file that a claim names, and a
sentence that its numbers contradict is refused. Run it after a measurement: a claim whose numbers
are new gets the date of today, the others keep theirs (docs/measurements/dates.csv).
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import math
import re
import statistics
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from async_timestep.report.tables import markdown
from async_timestep.scripts.claims import CLAIMS, SHOWN
from async_timestep.scripts.evidence import EXACT, GAIN, LOSS, NONE, NUMBER, Claim

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "measurements"
PAGE, DATES, FRONT = FOLDER / "README.md", FOLDER / "dates.csv", ROOT / "README.md"
BEGIN, END = "<!-- scripts/make_claims.py writes this -->", "<!-- to here -->"
Row = dict[str, str]

HEAD = """# What is known

Made by `python scripts/make_claims.py` from the files of this folder: each line is an entry of
[claims.py](../../scripts/claims.py), and its numbers are read from the file that it names. **What
is gained, what is lost and what makes no difference stand here alike.**

The effect is the paired difference to the same prompts and noises at D = 0 (or plain sampling, or
the method that the claim names) with as many steps, ± one standard error. *Gain* and *loss* are
beyond two of these, *no difference* is within. The reward is an exact judge's, at most 3: shape
overlap, relation, count, background, cleanliness. Noise is the level of fine noise (less is
better), and no part of it. 4 Euler steps where nothing else is said. In so many lines a few stand
beyond two errors by chance; a finding near the border is no more than that.

All pictures are 64 pixels of coloured shapes, by small models that were trained here: they show how
a thing works, not what it will do for Flux. No number for a large model has been measured here.
"""


@dataclass(frozen=True)
class Found:
    """What a claim's rows say. value, error: NaN where there is none; effect, noise, n: as they are
    shown; evidence: a hash of the rows."""

    value: float
    error: float
    effect: str
    noise: str
    n: str
    evidence: str


@cache
def rows_of(path: Path) -> tuple[Row, ...]:
    """The rows of a CSV file, or of all tables of a page; there `section` is the heading above."""
    text = path.read_text("utf-8")
    if path.suffix == ".csv":
        return tuple(csv.DictReader(text.splitlines()))
    found, header, section = [], None, ""
    for line in text.splitlines():
        if line.startswith("#"):
            section = line.lstrip("# ")
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip().strip("*") for cell in line.strip().strip("|").split("|")]
        if header is None:
            header = cells
        elif not set("".join(cells)) <= set("-: "):
            found.append({"section": section, **dict(zip(header, cells, strict=True))})
    return tuple(found)


def chosen(rows: tuple[Row, ...], wanted: Row, column: str) -> list[Row]:
    """The rows whose columns are as wanted (patterns), and which have something in `column`."""
    return [
        row
        for row in rows
        if all(fnmatchcase(row.get(name, "\0"), pattern) for name, pattern in wanted.items())
        and (row.get(column) or row.get(f"{column}_d"))
    ]


def number(text: str) -> tuple[float, float, int]:
    """ "+0.016 ± 0.001" -> (0.016, 0.001, decimals of it); NaN where there is no error."""
    value, _, error = text.partition("±")
    decimals = len(value.strip().partition(".")[2])
    return float(value), float(error) if error else math.nan, decimals


def measured(row: Row, column: str) -> tuple[float, float, int | None]:
    """(difference, its error, decimals as written) of one row; None: at full precision."""
    if f"{column}_d" in row:
        return float(row[f"{column}_d"]), float(row[f"{column}_se"]), None
    if "error" in row:
        return float(row[column]), float(row["error"]), None
    return number(row[column])


def paired(claim: Claim, rows: tuple[Row, ...], column: str) -> tuple[float, float, int]:
    """(difference, its error, n) of rows an image each, paired by what names an image. Raises
    ValueError where an image is missing on one side."""
    sides = []
    for wanted in (claim.rows, {**claim.rows, **claim.against}):
        own = chosen(rows, wanted, column)
        sides.append({tuple(row[name] for name in claim.pair): float(row[column]) for row in own})
    first, second = sides
    if first.keys() != second.keys() or len(first) < 2:
        raise ValueError(
            f"{claim.file.path} has {len(first)} images of {claim.rows} and {len(second)} of "
            f"{claim.against}, expected the same ones, two or more; measure what is missing."
        )
    changes = [first[key] - second[key] for key in first]
    error = statistics.stdev(changes) / len(changes) ** 0.5
    return statistics.fmean(changes), error, len(changes)


def describes(row: Row, name: str) -> bool:
    """Whether a column says what a row is of, and is no number that was measured, no seed."""
    stem = re.sub("_(d|se)$", "", name)
    return f"{stem}_d" not in row and name not in ("seed", "n", "prompts", "gain", "error")


def pooled(claim: Claim, rows: list[Row], column: str) -> tuple[float, float, int | None]:
    """One row as it is; rows that differ in their seed put together, weighted by n. Raises
    ValueError on rows that differ otherwise."""
    parts = [measured(row, column) for row in rows]
    if len(rows) == 1:
        return parts[0]
    names = [name for name in rows[0] if describes(rows[0], name)]
    other = [name for name in names if len({row[name] for row in rows}) > 1]
    if other or len({row.get("seed") for row in rows}) < len(rows) or "n" not in rows[0]:
        raise ValueError(
            f"{claim.says!r} names {len(rows)} rows of {claim.file.path} that differ in "
            f"{', '.join(other) or 'no seed'}, expected one row, or one a seed; name more columns."
        )
    counts = [int(row["n"]) for row in rows]
    value = sum(n * part[0] for n, part in zip(counts, parts, strict=True)) / sum(counts)
    error = math.hypot(*(n * part[1] for n, part in zip(counts, parts, strict=True))) / sum(counts)
    return value, error, None


def shown(value: float, error: float, decimals: int | None) -> str:
    """+0.0457 ± 0.0026: two digits of the error, or as many decimals as were written."""
    if decimals is None:
        least = 1 - math.floor(math.log10(error)) if error > 0 else 4
        decimals = min(max(least, 2), 5)
    text = f"{value:+.{decimals}f}"
    return text if math.isnan(error) else f"{text} ± {error:.{decimals}f}"


def count(claim: Claim, rows: list[Row]) -> str:
    """How many images: a column n, the setting's "n 512", or "1024 prompts" above the tables."""
    if "n" in rows[0]:
        return f"{sum(int(row['n']) for row in rows):,}"
    if told := re.search(r"\bn (\d+)", rows[0].get("setting", "")):
        return f"{int(told[1]):,}"
    above = page_of(claim).read_text("utf-8").split("\n|")[0]
    told = re.search(r"([\d,]+) (?:held-out )?(?:prompts|tiles)\b", above)
    return f"{int(told[1].replace(',', '')):,}" if told else ""


def page_of(claim: Claim) -> Path:
    return FOLDER / (claim.file.page or claim.file.path)


def exact(claim: Claim, rows: list[Row], column: str) -> str:
    """The largest of the rows, each within its bound; or the words that all of them have. Raises
    ValueError where one is not."""
    cells = [row[column] for row in rows]
    if "bound" in rows[0]:
        beyond = [row for row in rows if float(row[column]) > float(row["bound"])]
        text = max(cells, key=float)
    else:
        beyond = [row for row in rows if row[column] != cells[0]]
        text = f"{cells[0]} in all {len(cells)} rows"
    if beyond:
        raise ValueError(
            f"{claim.says!r} is claimed to be exact, but {claim.file.path} has "
            f"{beyond[0][column]} in {beyond[0]}; change the sentence, or mend what it is about."
        )
    return text


def require_agreement(claim: Claim, value: float, error: float) -> None:
    """Raises ValueError where the numbers do not say what the claim does."""
    says = GAIN if value > 2 * error else LOSS if value < -2 * error else NONE
    if math.isnan(error) or claim.holds != says:
        raise ValueError(
            f"{claim.says!r} is claimed to be {claim.holds!r}, but {claim.file.path} has "
            f"{value:+.5f} ± {error:.5f}, which is {says!r}; change the sentence in claims.py."
        )


def evidence(claim: Claim) -> Found:
    """Reads what a claim is about. Raises ValueError of one sentence where its rows are not there,
    or say something else."""
    rows, column = rows_of(FOLDER / claim.file.path), claim.effect or claim.file.effect
    own = chosen(rows, claim.rows, column)
    if not own:
        raise ValueError(
            f"{claim.file.path} has no row with {claim.rows} and a column {column}, which "
            f"{claim.says!r} names; measure it, or change the entry in claims.py."
        )
    if claim.against:
        own += chosen(rows, {**claim.rows, **claim.against}, column)
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
    noise = claim.noise or claim.file.noise
    if claim.against:
        value, error, n = paired(claim, rows, column)
        require_agreement(claim, value, error)
        other = shown(*paired(claim, rows, noise)[:2], None) if noise else ""
        return Found(value, error, shown(value, error, None), other, f"{n:,}", digest)
    n = count(claim, own)
    if claim.holds in (NUMBER, EXACT):
        text = exact(claim, own, column) if claim.holds == EXACT else own[0][column]
        return Found(math.nan, math.nan, text, "", n, digest)
    value, error, decimals = pooled(claim, own, column)
    require_agreement(claim, value, error)
    other = shown(*pooled(claim, own, noise)) if noise else ""
    return Found(value, error, shown(value, error, decimals), other, n, digest)


def command_of(page: Path) -> str:
    """The first command that a page names."""
    return re.search(r"`(python [^`]+)`", page.read_text("utf-8"))[1]


def link(page: Path) -> str:
    return f"[{page.stem}]({page.relative_to(FOLDER).as_posix()})"


def read_dates() -> dict[str, str]:
    return {row["evidence"]: row["date"] for row in rows_of(DATES)} if DATES.exists() else {}


def texts() -> tuple[str, str, str]:
    """(the page of all claims, README.md, dates.csv) as they should be."""
    found = {claim: evidence(claim) for claim in CLAIMS}
    known, today = read_dates(), datetime.date.today().isoformat()
    dates = {one.evidence: known.get(one.evidence, today) for one in found.values()}
    pages = list(dict.fromkeys(map(page_of, CLAIMS)))
    table = []
    for claim, one in found.items():
        effect = f"{claim.measure} {one.effect}".strip()
        cells = (claim.model or claim.file.model, one.n, effect, one.noise, link(page_of(claim)))
        table.append((claim.holds, claim.says, *cells, dates[one.evidence]))
    columns = ("found", "claim", "model", "n", "effect", "noise", "by", "date")
    commands = [f"- {link(page)}: `{command_of(page)}`" for page in pages]
    whole = "\n".join([HEAD, markdown(columns, table), "## By which command\n", *commands, ""])
    kept = "".join(f"{one},{date}\n" for one, date in dates.items())
    return whole, front(found), f"evidence,date\n{kept}"


def front(found: dict[Claim, Found]) -> str:
    """README.md with its four numbers. Raises ValueError where their place is not marked."""
    named = {claim.name: one for claim, one in found.items() if claim.name}
    rows = [
        (what, named[name].n, f"**{named[name].effect}**", named[step].effect, named[name].noise)
        for what, name, step in SHOWN
    ]
    table = markdown(("4 Euler steps", "n", "reward", "one more step instead", "noise"), rows)
    text = FRONT.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(
            f"README.md has no place for the four numbers, expected the lines {BEGIN} and {END}; "
            "put them in."
        )
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END)[1]}"


def main() -> None:
    try:
        made = texts()
    except ValueError as error:
        raise SystemExit(f"make_claims.py: {error}") from None
    for path, text in zip((PAGE, FRONT, DATES), made, strict=True):
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
