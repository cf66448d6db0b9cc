"""The import rules of the layout: who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"tpm", "asyndm", "maps", "report", "nodes", "training"}
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview"}
FOREIGN = {  # folders of other projects, and of the tests that scripts share files with
    "scripts/in_process.py": 1,
    "scripts/make_errors.py": 1,
    "scripts/make_workflows.py": 1,
    "bench/beside.py": 1,
    "bench/official_side.py": 2,
}
COMMANDS = {"train_tpm.py", "evaluate.py", "prepare.py", "make_tiny.py"}  # of training/
MAY = {
    "tpm": set(),
    "asyndm": set(),
    "maps": set(),
    "report": set(),
    "nodes": {"tpm", "asyndm", "maps", "report"},
    "training": {"tpm", "report"},
}


def imports(path: Path, top: str) -> list[tuple[str, bool]]:
    """(top-level package, whether it is one of ours) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.split(".")[0], False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module.split(".")[0], False))
        elif isinstance(node, ast.ImportFrom):
            parts = [*path.relative_to(ROOT).parent.parts][
                : len(path.relative_to(ROOT).parts) - node.level
            ]
            module = parts + (node.module or "").split(".")
            found.append((module[0], True))
    return [(name, ours or (name in OURS and name != top)) for name, ours in found]


@pytest.mark.parametrize("top", sorted(MAY))
def test_import_rules(top):
    files = sorted((ROOT / top).rglob("*.py"))
    assert files
    for path in files:
        for name, ours in imports(path, top):
            where = path.relative_to(ROOT)
            if top != "nodes":
                assert name not in HOST, f"{where} imports {name}"
            if top == "nodes" and name == "nodes" and not ours:
                continue  # ComfyUI's own module of that name
            if ours and name != top and not (top == "nodes" and name == "nodes"):
                assert name in MAY[top], f"{where} imports {name}"


@pytest.mark.parametrize("top", sorted(MAY))
def test_rooms_import_each_other_relatively(top):
    """So there is one copy of every module, whoever loads the package and under whatever name."""
    for path in (ROOT / top).rglob("*.py"):
        if top == "training" and path.name in COMMANDS and path.parent.name == top:
            continue
        absolute = {name for name, ours in imports(path, top) if not ours}
        wrong = (absolute & (OURS | {"async_timestep"})) - ({"nodes"} if top == "nodes" else set())
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_nothing_but_a_tree_is_put_on_the_path():
    """Python puts the folder of a command there, and async_timestep.py lies in it."""
    for top in (*OURS, "scripts", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text("utf-8")
            assert "noqa: E402" not in text, path
            edits = text.count("sys.path.insert") + text.count("sys.path[")
            assert edits <= FOREIGN.get(path.relative_to(ROOT).as_posix(), 0), path


def test_only_nodes_needs_more_than_torch():
    """What the nodes stand on lives on what every ComfyUI has."""
    allowed = {"torch", "safetensors", "numpy", "PIL"} | sys.stdlib_module_names
    for top in ("tpm", "asyndm", "maps", "report"):
        for path in (ROOT / top).rglob("*.py"):
            for name, ours in imports(path, top):
                assert ours or name in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_root_only_points_to_the_nodes_and_their_pages():
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    assert [type(node).__name__ for node in body] == ["Assign", "AsyncFunctionDef"]
    assert ast.unparse(body[0]) == "WEB_DIRECTORY = './web'"
    assert body[1].name == "comfy_entrypoint"
