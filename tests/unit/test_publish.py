"""What the registry would get: the git files that .comfyignore lets through, free of flagged
tokens.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOKENS = (
    "subprocess", "os.environ", "os.getenv", "urllib", "import requests", "requests.get", "socket.",
    "aiohttp.ClientSession(", ".connect(", ".bind(", ".sendall(", "rm -rf", "marshal",
)  # fmt: skip
CALLS = (r"(?<![\w.])eval\(", r"(?<![\w.])exec\(", r"\.eval\(", r"\.exec\(")


def shipped() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    ignored = [
        line.strip() for line in (ROOT / ".comfyignore").read_text().splitlines() if line.strip()
    ]
    keep = []
    for name in listed.stdout.splitlines():
        out = any(
            name == rule or (rule.endswith("/") and name.startswith(rule)) for rule in ignored
        )
        if not out and (ROOT / name).exists():
            keep.append(ROOT / name)
    return keep


def test_tests_and_scripts_stay_out():
    tops = {path.relative_to(ROOT).parts[0] for path in shipped()}
    assert not tops & {"tests", "bench", "scripts", ".ci", ".host", "Makefile"}
    assert {"__init__.py", "nodes", "tpm", "training", "workflows", "LICENSE", "README.md"} <= tops


def test_no_flagged_token_in_what_ships():
    for path in shipped():
        if path.suffix in (".py", ".js"):
            text = path.read_text()
            name = path.relative_to(ROOT)
            for token in TOKENS:
                assert token not in text, f"{name}: {token}"
            for call in CALLS:
                assert not re.search(call, text), f"{name}: {call}"


def test_no_absolute_path_or_registry_host_in_any_file():
    pattern = re.compile(
        r"(^|[^\w./-])/(work|home|root|Users)/|pypi\.org|files\.pythonhosted|registry\.npmjs"
    )
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".json", ".toml", ".yaml", ".txt", "") and path.exists():
            if path == Path(__file__):
                continue
            found = pattern.search(path.read_text(errors="replace"))
            assert not found, f"{name}: {found.group(0)}"


def test_the_archive_is_small():
    total = sum(path.stat().st_size for path in shipped())
    assert total <= 16e6, f"{total / 1e6:.1f} MB"


def test_the_laboratory_is_small():
    total = sum(
        path.stat().st_size for path in (ROOT / "training" / "tiny").rglob("*") if path.is_file()
    )
    assert total <= 12e6, f"{total / 1e6:.1f} MB"
