"""The pages under docs/ and the README: every link leads somewhere, every page is on the list, and
every measurement names the command that made it, which exists.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MEASURED = sorted((DOCS / "measurements").rglob("*.md"))


def links(page: Path) -> list[Path]:
    """The files of this checkout that the page links to or shows."""
    found = re.findall(r"\]\(([^)\s#]+)", page.read_text("utf-8"))
    return [page.parent / link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    assert not [link for link in links(page) if not link.exists()]


def test_every_page_and_picture_is_reached_from_the_list_or_the_readme():
    reached, fresh = set(), {DOCS / "README.md", ROOT / "README.md"}
    while fresh:
        reached |= fresh
        there = {link.resolve() for page in fresh if page.suffix == ".md" for link in links(page)}
        there |= {file for folder in there if folder.is_dir() for file in folder.glob("*.*")}
        fresh = there - reached
    shown = {path for path in DOCS.rglob("*.*") if path.suffix in (".md", ".png", ".jpg")}
    assert not sorted(map(str, shown - reached))


@pytest.mark.parametrize("page", MEASURED, ids=lambda page: page.stem)
def test_a_measurement_names_its_command(page):
    """Above its first table; the program is in the checkout, and has the settings that it names."""
    above = page.read_text("utf-8").split("\n|")[0]
    commands = re.findall(r"`python (\S+\.py)([^`]*)`", above)
    assert commands, "no command above the first table"
    for program, arguments in commands:
        assert (ROOT / program).exists()
        if program.startswith("bench/"):  # evaluate.py's settings are the trainer's
            shared = sorted((ROOT / "bench" / "parts").glob("*.py"))  # options of several benches
            text = "".join(path.read_text("utf-8") for path in (ROOT / program, *shared))
            for setting in re.findall(r"(?<= )--[a-z_-]+", arguments):
                assert setting in text, setting
