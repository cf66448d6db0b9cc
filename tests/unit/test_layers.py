"""The import rules of the layout: who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"tpm", "asyndm", "nodes", "training"}
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview"}
MAY = {"tpm": set(), "asyndm": set(), "nodes": {"tpm", "asyndm"}, "training": {"tpm", "asyndm"}}


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


def test_only_nodes_needs_more_than_torch():
    """`tpm` and `asyndm` live on what every ComfyUI has."""
    allowed = {"torch", "safetensors", "numpy", "PIL"} | sys.stdlib_module_names
    for top in ("tpm", "asyndm"):
        for path in (ROOT / top).rglob("*.py"):
            for name, ours in imports(path, top):
                assert ours or name in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_the_root_only_points_to_the_nodes_and_their_pages():
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    assert [type(node).__name__ for node in body] == ["Assign", "AsyncFunctionDef"]
    assert ast.unparse(body[0]) == "WEB_DIRECTORY = './web'"
    assert body[1].name == "comfy_entrypoint"
