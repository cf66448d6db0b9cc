"""What the registry would get: the archive's files, free of what its scan flags, small and whole.

The publisher packs the files of git that .comfyignore lets through, by gitignore rules.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pathspec
import pytest
import tomllib

from async_timestep.harness.host import FLOOR

ROOT = Path(__file__).parents[2]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXT = {".py", ".js", ".md", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".txt", ""}
TOKENS = (  # substrings that held packs back, from the reports of their authors
    "subprocess", "os.environ", "os.getenv", "os.putenv", "os.system", "os.popen", "urllib",
    "import requests", "requests.get", "requests.post", "import socket", "socket.socket",
    "http.client", "aiohttp.ClientSession(", ".connect(", ".bind(", ".send(", ".sendall(",
    "rm -rf", "marshal", "__code__", "co_code", "CodeType",
)  # fmt: skip
CALLS = (
    r"(?<![\w.])eval\(",
    r"(?<![\w.])exec\(",
    r"\.eval\(",
    r"\.exec\(",
    r"__import__|\bimport dis\b",
    r"socket\.",
)
NEEDED = (
    "__init__.py", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "nodes/__init__.py",
    "nodes/pixels/calls.py", "tpm/network.py", "maps/time_rows.py", "web/docs/AsynDMKSampler.md",
    "web/js/deviation_preview.js", "web/js/parts/axes.js", "nodes/routes.py",
    "training/train_tpm.py", "training/reward_worker.py", "training/presets/tiny.yaml",
    "training/data/files.yaml",
    "training/tiny/weights/transformer.safetensors", "training/tiny/weights/text.safetensors",
    "training/tiny/weights/unet.safetensors", "training/tiny/weights/vae.safetensors",
    "training/tiny/tpm/tiny.safetensors",
    "workflows/01 More detail, same steps.json", "workflows/01 More detail, same steps.jpg",
)  # fmt: skip
ICONS = ("Icon", "Banner")
LEFT_OUT = {"tests", "bench", "scripts", "harness", "docs", "asset", "runs", "demo", "Makefile"}


def tracked() -> list[str]:
    """The files of git, and new ones that are not committed yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def shipped() -> list[str]:
    lines = (ROOT / ".comfyignore").read_text().splitlines()
    ignored = pathspec.PathSpec.from_lines("gitignore", lines)
    return [name for name in tracked() if not ignored.match_file(name)]


def test_the_pack_is_whole_and_the_rest_stays_out(shipped):
    assert set(NEEDED) <= set(shipped), set(NEEDED) - set(shipped)
    tops = {name.split("/")[0] for name in shipped}
    assert not tops & LEFT_OUT and not [top for top in tops if top.startswith(".")]


def test_nothing_that_the_scan_flags(shipped):
    for name in shipped:
        if Path(name).suffix not in TEXT:
            continue
        text = (ROOT / name).read_text(errors="replace")
        for token in TOKENS:
            assert token not in text, f"{name}: {token}"
        if name.endswith((".py", ".js")):
            for call in CALLS:
                assert not re.search(call, text), f"{name}: {call}"


def test_the_publishers_own_style_check():
    rules = ["--select", "S102,S307,E702", "--no-cache"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", ".", *rules],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_what_ships_imports_nothing_that_stays_behind(shipped):
    for name in (name for name in shipped if name.endswith(".py")):
        for node in ast.walk(ast.parse((ROOT / name).read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            assert not {m.split(".")[0] for m in modules} & LEFT_OUT, f"{name}: {modules}"


def test_pictures_in_the_node_pages_and_workflows_ship(shipped):
    for name in shipped:
        if name.startswith("web/docs/") and name.endswith(".md"):
            for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / name).read_text()):
                assert f"web/docs/{target}" in shipped, f"{name}: {target}"
        if name.startswith("workflows/") and name.endswith(".json"):
            json.loads((ROOT / name).read_text())
            assert name.replace(".json", ".jpg") in shipped


def test_no_absolute_path_or_registry_host_in_any_file():
    pattern = re.compile(
        r"(^|[^\w./-])/(work|home|root|Users)/|pypi\.org|files\.pythonhosted|registry\.npmjs"
    )
    for name in tracked():
        if Path(name).suffix in TEXT and ROOT / name != Path(__file__):
            found = pattern.search((ROOT / name).read_text(errors="replace"))
            assert not found, f"{name}: {found.group(0)}"


def test_the_archive_is_small(shipped, tmp_path):
    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in shipped:
            packed.write(ROOT / name, name)
    print(f"{len(shipped)} files, {archive.stat().st_size / 1e6:.2f} MB")
    assert archive.stat().st_size <= 20e6


def test_the_laboratory_is_small():
    total = sum(
        path.stat().st_size for path in (ROOT / "training" / "tiny").rglob("*") if path.is_file()
    )
    assert total <= 28e6, f"{total / 1e6:.1f} MB"


def test_the_metadata_is_what_the_registry_wants():
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z][\w.-]{0,99}", project["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert set(project["license"]) <= {"file", "text"} and project["dependencies"] == []
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Async Timestep"
    assert comfy["requires-comfyui"] == f">={FLOOR.tag.removeprefix('v')}", "what was tested"
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_one_file_holds_the_addresses(tmp_path):
    """Until it is published the README names none; the script writes and takes them back."""
    from async_timestep.scripts import addresses

    for name in ("README.md", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    front = tmp_path / "README.md"
    before = front.read_text()
    assert "github.com" not in before and "Copy this folder into" in before
    assert addresses.main(["somebody/a-pack", "some-body"], tmp_path) == 0
    written = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    found = [*written["project"]["urls"].values(), *map(written["tool"]["comfy"].get, ICONS)]
    assert all("/somebody/a-pack" in url for url in found) and len(found) == 5
    assert written["tool"]["comfy"]["PublisherId"] == "some-body"
    assert "git clone https://github.com/somebody/a-pack\n" in front.read_text()
    assert addresses.main(["--nowhere"], tmp_path) == 0 and front.read_text() == before
    with pytest.raises(SystemExit):
        addresses.main(["no address", "x"], tmp_path)


@pytest.mark.parametrize("key", ICONS)
def test_the_pictures_of_the_registry_page(key):
    from PIL import Image

    start = PROJECT["project"]["urls"]["Repository"].replace(
        "github.com", "raw.githubusercontent.com"
    )
    url = PROJECT["tool"]["comfy"][key]
    assert url.startswith(f"{start}/main/")
    path = ROOT / url.removeprefix(f"{start}/main/")
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        width, height = picture.size
    if key == "Icon":
        assert width == height <= 400
    else:
        assert width * 9 == height * 21
