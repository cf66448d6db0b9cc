"""Writes into docs/guides/errors.md what a real server says to each mistake of harness/mistakes.py.

    python scripts/make_errors.py

Only the third column of its tables changes; a mistake without a row is printed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.host import ROOT, TEST, ensure_host
from async_timestep.harness.venvs import say

DOC = ROOT / "docs" / "guides" / "errors.md"
WHERE = {"node": "red node", "before": "before it runs", "log": "log", "plot": "plot text"}


def filled(line: str, answers: dict[str, tuple[str, str]]) -> str:
    """A line of the page with the answer in its row, and any other line as it is."""
    cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
    if not line.startswith("| ") or cells[0] not in answers:
        return line
    where, text = answers.pop(cells[0])
    said = f"`{text}`" if text else "it works"
    return f"| {cells[0]} | {WHERE.get(where, '')} | {said} | {cells[-1]} |"


def main() -> int:
    ensure_host(TEST)
    from async_timestep.harness.mistake_files import write
    from async_timestep.harness.mistakes import MISTAKES, seen

    answers = {}
    with tempfile.TemporaryDirectory() as folder, ComfyServer(Path(folder)) as server:
        write(server.base)
        for did, mistake in MISTAKES.items():
            answers[did] = (mistake.where, seen(server, mistake))
    lines = [filled(line, answers) for line in DOC.read_text().splitlines()]
    DOC.write_text("\n".join(lines) + "\n")
    for did, (_, text) in answers.items():
        say(f"docs/guides/errors.md has no row for {did!r}: {text}")
    return bool(answers)


if __name__ == "__main__":
    sys.exit(main())
