"""Every command that README and docs print is understood as it is printed, by its own parser."""

from __future__ import annotations

import argparse
import contextlib
import re
import runpy
import shlex
import sys
from pathlib import Path

import jsonargparse
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "training").rglob("README.md")),
]
STANDS_FOR = {"P": "tiny", "PUBLISHER": "publisher", "...": ""}  # words that a reader replaces


class Understood(BaseException):
    """In the place of what follows on the arguments; no `except Exception` catches it."""


def printed() -> dict[str, Path]:
    """command -> a page that has it: lines of code blocks, and words in backticks."""
    found = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        lines = [line for b in blocks for line in re.sub(r"\\\n\s*", "", b).splitlines()]
        rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += [re.sub(r"\s+", " ", words) for words in re.findall(r"`([^`]+)`", rest)]
        for line in lines:
            command = re.split(r"\s+#", line.strip())[0]
            if re.match(r"(python|torchrun --\S+ \d+) (training|bench|scripts)/\w+\.py\b", command):
                found.setdefault(command, page)
            if re.match(r"make \w+$", command):
                found.setdefault(command, page)
    return found


COMMANDS = printed()


def stopped(parse_args):
    def parse(self, *args, **kwargs):
        parse_args(self, *args, **kwargs)
        raise Understood

    return parse


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c[:60])
def test_it_is_understood(command, monkeypatch, capsys):
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
    if words[0] == "make":
        assert f"\n{words[1]}: ;" in (ROOT / "Makefile").read_text(), COMMANDS[command]
        return
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, arguments = ROOT / words[at], [word for word in words[at + 1 :] if word]
    source = script.read_text("utf-8")
    if not re.search(r"parse|import main|PARTS", source):
        assert not arguments, f"{script.name} takes none"
        return
    for kind in (jsonargparse.ArgumentParser, argparse.ArgumentParser):
        monkeypatch.setattr(kind, "parse_args", stopped(kind.parse_args))
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    monkeypatch.chdir(ROOT)
    with contextlib.suppress(Understood):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as error:
            code = error.code
            pytest.fail(f"{COMMANDS[command].name}: {code}; {capsys.readouterr().err[-600:]}")
        pytest.fail(f"{script.name} never came to its arguments")


def test_there_are_commands():
    assert len(COMMANDS) > 50 and any("torchrun" in command for command in COMMANDS)
