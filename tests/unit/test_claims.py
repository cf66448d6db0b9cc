"""The table of claims: it says what the files say, and refuses what they do not."""

from __future__ import annotations

import csv
import statistics
from dataclasses import replace

import pytest

from async_timestep.scripts import make_claims
from async_timestep.scripts.claims import CLAIMS
from async_timestep.scripts.evidence import (
    EXACT,
    GAIN,
    LABORATORY,
    LOSS,
    NONE,
    NUMBER,
    Claim,
    File,
    lab,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Measurements of the test's own: `write(name, rows)` makes a CSV file of them."""
    monkeypatch.setattr(make_claims, "FOLDER", tmp_path)

    def write(name: str, rows: list[dict]) -> File:
        with open(tmp_path / name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        make_claims.rows_of.cache_clear()
        return File(name, "reward")

    yield write
    make_claims.rows_of.cache_clear()


def test_the_pages_are_what_the_script_makes_of_the_files():
    """After a new measurement: python scripts/make_claims.py."""
    paths = (make_claims.PAGE, make_claims.FRONT, make_claims.DATES)
    for path, text in zip(paths, make_claims.texts(), strict=True):
        assert path.read_text("utf-8") == text, path.name


def test_the_page_has_every_claim_and_losses_too():
    page = make_claims.PAGE.read_text("utf-8")
    rows = make_claims.rows_of(make_claims.PAGE)
    assert [row["claim"] for row in rows] == [claim.says for claim in CLAIMS]
    assert len(set(row["claim"] for row in rows)) == len(rows) > 60
    kinds = [row["found"] for row in rows]
    assert all(kinds.count(kind) >= 3 for kind in (GAIN, LOSS, NONE, EXACT, NUMBER))
    assert all(row["date"] and row["model"] and row["effect"] for row in rows)
    assert "`python bench/laboratory.py --n 512" in page


def test_a_number_in_the_table_is_that_of_the_file():
    rows = make_claims.rows_of(make_claims.FOLDER / LABORATORY.path)
    wanted = {"method": "D=+0.5", "group": "rough", "steps": "4"}
    (row,) = [r for r in rows if wanted.items() <= r.items()]
    found = make_claims.evidence(Claim("a", GAIN, LABORATORY, lab("D=+0.5", "rough")))
    assert found.value == float(row["reward_d"]) and found.error == float(row["reward_se"])
    assert found.effect == f"{found.value:+.4f} ± {found.error:.4f}" and found.n == "128"
    cell = "| lifted_s42/tpm gamma=1 (bound 1, lifted) | 2.789 ± 0.003 | +0.022 ± 0.002 |"
    assert cell in (make_claims.FOLDER / "trainer/cfg3_k4.md").read_text("utf-8")
    (claim,) = [one for one in CLAIMS if one.name == "tpm3"]
    assert make_claims.evidence(claim).effect == "+0.022 ± 0.002"
    assert "**+0.022 ± 0.002**" in make_claims.FRONT.read_text("utf-8")


@pytest.mark.parametrize(("says", "holds"), [(c.says, c.holds) for c in CLAIMS])
def test_no_claim_holds_with_another_finding(says, holds):
    (claim,) = [one for one in CLAIMS if one.says == says]
    if holds in (GAIN, LOSS, NONE):
        for other in {GAIN, LOSS, NONE} - {holds}:
            with pytest.raises(ValueError, match="change the sentence in claims.py"):
                make_claims.evidence(replace(claim, holds=other))
    with pytest.raises(ValueError, match="measure it, or change the entry"):
        make_claims.evidence(replace(claim, rows={**claim.rows, "method": "no such method"}))


def test_rows_an_image_each_are_paired(folder):
    """In whatever order; the error of the pairs is much less than that of two means."""
    scores = {"plain": [1.0, 2.0, 3.0, 4.0], "ours": [1.1, 2.3, 3.1, 4.3]}
    rows = [
        {"method": m, "prompt": str(i), "seed": "7", "reward": repr(v), "noise": repr(v / 10)}
        for m, values in scores.items()
        for i, v in enumerate(values)
    ]
    file = replace(folder("per_image.csv", rows[::-1]), noise="noise")
    claim = Claim("a", GAIN, file, {"method": "ours"}, against={"method": "plain"})
    found = make_claims.evidence(claim)
    changes = [a - b for a, b in zip(scores["ours"], scores["plain"], strict=True)]
    assert found.value == pytest.approx(0.2)
    assert found.error == pytest.approx(statistics.stdev(changes) / 2) and found.n == "4"
    assert found.noise == "+0.0200 ± 0.0058"
    file = folder("per_image.csv", rows[:-1])
    with pytest.raises(ValueError, match="has 3 images of .* and 4 of .*measure what is missing"):
        make_claims.evidence(replace(claim, file=file))


def test_seeds_are_put_together_by_their_number_of_images(folder):
    def row(seed: int, n: int, d: float, se: float, kind: str = "chain") -> dict:
        head = {"setting": "bf16", "steps": 10, "method": "words", "seed": seed, "kind": kind}
        return {**head, "n": n, "reward": 2.7 + d, "reward_d": d, "reward_se": se}

    own = [row(77, 100, 0.02, 0.003), row(78, 300, 0.04, 0.002)]
    claim = Claim("a", GAIN, folder("rows.csv", own), {"method": "words"})
    found = make_claims.evidence(claim)
    assert found.value == pytest.approx((2 + 12) / 400) and found.n == "400"
    assert found.error == pytest.approx((0.3**2 + 0.6**2) ** 0.5 / 400)
    for other in (row(79, 100, 0.03, 0.003, kind="pair"), row(78, 300, 0.04, 0.002)):
        folder("rows.csv", [*own, other])
        with pytest.raises(ValueError, match="expected one row, or one a seed"):
            make_claims.evidence(claim)


def test_what_is_claimed_to_be_exact_is_refused_beyond_its_bound(folder):
    rows = [{"check": f"loop {i}", "found": x, "bound": 1e-4} for i, x in enumerate((1e-6, 2e-6))]
    claim = Claim("a", EXACT, replace(folder("a.csv", rows), effect="found"), {"check": "loop *"})
    make_claims.FOLDER.joinpath("page.md").write_text("`python a.py`\n")
    claim = replace(claim, file=replace(claim.file, page="page.md"))
    assert make_claims.evidence(claim).effect == "2e-06"
    folder("a.csv", [*rows, {"check": "loop 3", "found": 1e-3, "bound": 1e-4}])
    with pytest.raises(ValueError, match="claimed to be exact, but a.csv has 0.001"):
        make_claims.evidence(claim)


def test_new_numbers_get_a_new_date_and_the_others_keep_theirs(tmp_path, monkeypatch):
    before = make_claims.read_dates()
    first = next(iter(before))
    kept = tmp_path / "dates.csv"
    kept.write_text(
        "evidence,date\n" + "".join(f"{k},{v}\n" for k, v in before.items() if k != first)
    )
    monkeypatch.setattr(make_claims, "DATES", kept)
    dates = dict(line.split(",") for line in make_claims.texts()[2].splitlines()[1:])
    today = make_claims.datetime.date.today().isoformat()
    assert dates == {**before, first: today}


def test_the_readme_without_a_place_is_refused(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("nothing here\n")
    monkeypatch.setattr(make_claims, "FRONT", tmp_path / "README.md")
    with pytest.raises(ValueError, match="no place for the four numbers"):
        make_claims.texts()
