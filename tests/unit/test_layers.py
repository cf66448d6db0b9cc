"""The rooms of the house: which may import which, and what stands on their floors."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "latent_preview"}
MAY = {  # a room is a folder: its files may import its own, and these
    "tpm": "",
    "asyndm": "",
    "maps": "",
    "embedded": "",
    "report": "",
    "eye": "tpm report",
    "nodes/pixels": "maps",
    "nodes/run": "nodes/pixels tpm asyndm maps report",
    "nodes": "nodes/run tpm eye report embedded",
    "training/run": "tpm",
    "training/tiny": "training/run report",
    "training/pictures": "training/run training/tiny report embedded",
    "training/data": "training/run training/tiny tpm",
    "training/backbones": "training/run training/tiny tpm report",
    "training/rewards": "training/run training/tiny report",
    "training/evaluation": "training/run training/tiny training/data training/backbones "
    "training/rewards tpm report",
    "training/grpo": "training/run training/data training/backbones training/rewards "
    "training/evaluation tpm",
    "training/search": "training/run training/data training/backbones training/evaluation tpm",
    "training/suite": "training/backbones/comfy training/run training/rewards training/evaluation "
    "report",
    "training/backbones/comfy": "nodes nodes/run training/run tpm report",
    "training": "",
    "harness": "tpm",
}
WITH_COMFYUI = ("nodes", "nodes/run", "nodes/pixels", "training/backbones/comfy", "harness")
USERS = ("scripts", "bench")  # they import every room, by the package's name
OURS = {room.split("/")[0] for room in MAY}
# What a user types, what is started with a Python of its own, and the package's own name.
COMMANDS = {
    f"{name}.py"
    for name in (
        "train_tpm",
        "search_schedule",
        "export_schedule",
        "evaluate",
        "prepare",
        "make_tiny",
        "make_pictures",
    )
}
ALONE = {"paper_runs.py", "reward_worker.py", "async_timestep.py"}
FOREIGN = {
    "harness/in_process.py": 1,
    "training/backbones/comfy/host.py": 1,
    "bench/parts/official_side.py": 2,
}  # folders of other projects


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("*.py"))


def imports(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """(level, module) of every import in a file; a relative one as a path from the checkout."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((0, tuple(node.module.split("."))))
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = package[: len(package) - node.level + 1]
            names = node.module.split(".") if node.module else []
            if names:
                found.append((node.level, (*base, *names)))
            else:  # from . import module
                found += [(node.level, (*base, alias.name)) for alias in node.names]
    return found


def room_of(module: tuple[str, ...]) -> str:
    """The room that a module lies in, or is."""
    whole, above = "/".join(module), "/".join(module[:-1])
    return whole if whole in MAY else above


def test_every_folder_is_a_room():
    folders = {
        p.parent.relative_to(ROOT).as_posix() for top in OURS for p in (ROOT / top).rglob("*.py")
    }
    assert folders == set(MAY)
    assert not {path.name for path in files_of("training")} - COMMANDS - ALONE - {"__init__.py"}


@pytest.mark.parametrize("room", sorted(MAY))
def test_arrows(room):
    """All between rooms is relative, so that there is one copy of every module, whoever loads the
    package and under whatever name; the commands alone say the package's name."""
    files = files_of(room)
    assert files
    seen = set()
    for path in files:
        where = path.relative_to(ROOT).as_posix()
        for level, module in imports(path):
            if level:
                seen.add(room_of(module))
                assert room_of(module) in {room, *MAY[room].split()}, f"{where} imports {module}"
            elif room == "training" and path.name in COMMANDS:
                assert module[0] in {"async_timestep", *sys.stdlib_module_names}, where
            else:
                comfyui = module[0] in HOST or module == ("nodes",)
                comfyui &= room in WITH_COMFYUI
                assert comfyui or module[0] not in OURS | HOST | {"async_timestep"}, (
                    f"{where} imports {'.'.join(module)}"
                )
    assert set(MAY[room].split()) <= seen, "an arrow that nobody uses"


def test_the_page_of_the_house_says_the_same():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    told = {row[0].strip("`"): row[2] for row in rows if len(row) == 3 and "`" in row[0]}
    told.pop("", None)
    assert {room: re.findall("`([^`]+)`", told[room]) for room in MAY} == {
        room: may.split() for room, may in MAY.items()
    }
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link


def test_nothing_goes_round():
    """The rooms can be put in an order in which each imports only earlier ones."""
    left = {room: set(may.split()) for room, may in MAY.items()}
    while left:
        ground = [room for room, may in left.items() if not may & left.keys()]
        assert ground, left
        for room in ground:
            del left[room]


@functools.cache  # asked for every import of it
def given(path: Path) -> set[str]:
    """The names that a file gives to whoever imports it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names | {"__file__"}


def module_of(path: Path, node: ast.ImportFrom) -> Path | None:
    """Where in the checkout `from X import ...` of a file looks; None outside of it."""
    parts = (node.module or "").split(".")
    if node.level:
        return path.parents[node.level - 1].joinpath(*parts)
    return ROOT.joinpath(*parts[1:]) if parts[0] == "async_timestep" else None


def test_what_is_imported_is_there():
    """Inside functions too, where only a run of that very line would see it."""
    seen = 0
    tops = (*OURS, *USERS, "tests")
    for path in [path for top in tops for path in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            module = module_of(path, node) if isinstance(node, ast.ImportFrom) else None
            if module is None:
                continue
            sources = (module.with_suffix(".py"), module / "__init__.py")
            names = set().union(*(given(source) for source in sources if source.exists()))
            for name in {alias.name for alias in node.names} - names:
                inside = module / name
                where = f"{path.relative_to(ROOT)}:{node.lineno} imports {name}"
                assert inside.is_dir() or inside.with_suffix(".py").exists(), where
            seen += len(node.names)
    assert seen > 1000


def test_nothing_but_a_tree_is_put_on_the_path():
    """Python puts the folder of a command there, and async_timestep.py lies in it."""
    for top in (*OURS, *USERS):
        for path in (ROOT / top).rglob("*.py"):
            text = path.read_text("utf-8")
            assert "noqa: E402" not in text, path
            edits = text.count("sys.path.insert") + text.count("sys.path[")
            assert edits == FOREIGN.get(path.relative_to(ROOT).as_posix(), 0), path


def test_nothing_imports_tests():
    """What they share with benches and scripts lies in harness, and of benches and scripts neither
    imports the other."""
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"tests"}
    apart = {"scripts": "bench", "bench": "scripts"}
    for top in (*OURS, *USERS):
        for path in (ROOT / top).rglob("*.py"):
            for level, module in imports(path):
                where = f"{path.relative_to(ROOT)} imports {'.'.join(module)}"
                if level:
                    assert module[0] != "tests", where
                elif module[0] == "async_timestep":
                    assert module[1:2] not in {("tests",), (apart.get(top),)}, where
                else:
                    assert module[0] not in tests, where


def test_no_two_test_files_have_one_name():
    """pytest imports them by their name alone, and refuses the second."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_no_bench_imports_another():
    """What they share lies in bench/parts, which imports none of them (bench/__main__.py)."""
    benches = {path.stem for path in files_of("bench")} - {"async_timestep"}
    for path in (ROOT / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [*node.module.split(".")[1:], *(alias.name for alias in node.names)]
                assert names[0] != "bench" or names[1] not in benches, f"{path.name}: {names}"


@pytest.mark.parametrize("room", ["tpm", "asyndm", "maps", "report", "eye", "embedded"])
def test_only_nodes_needs_more_than_torch(room):
    """What the nodes stand on lives on what every ComfyUI has."""
    allowed = {"torch", "safetensors", "numpy", "PIL"} | sys.stdlib_module_names
    for path in files_of(room):
        for level, module in imports(path):
            assert level or module[0] in allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_the_root_only_points_to_the_nodes_and_their_pages():
    body = ast.parse((ROOT / "__init__.py").read_text()).body
    assert [type(node).__name__ for node in body] == ["Assign", "AsyncFunctionDef"]
    assert ast.unparse(body[0]) == "WEB_DIRECTORY = './web'"
    assert body[1].name == "comfy_entrypoint"
