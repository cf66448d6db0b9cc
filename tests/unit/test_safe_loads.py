"""No file from elsewhere is unpickled anywhere in the tree: a checkpoint runs no code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("nodes", "tpm", "asyndm", "maps", "report", "training", "harness", "bench", "scripts")
UNPICKLES = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads",
    "shelve.open", "joblib.load", "dill.load", "dill.loads", "cloudpickle.load", "torch.hub.load",
    "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle", "pd.read_pickle",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all",
}  # fmt: skip


def unsafe(call: ast.Call) -> str:
    """Why a call may run what a file says, or ""."""
    name = ast.unparse(call.func)
    given = {k.arg: ast.unparse(k.value) for k in call.keywords}
    if name in UNPICKLES:
        return f"{name} unpickles"
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        return f"{name} without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle"
    if given.get("trust_remote_code", "False") != "False":
        return f"{name} with trust_remote_code"
    if isinstance(call.func, ast.Attribute) and call.func.attr == "recv" and not call.args:
        return f"{name}() of multiprocessing unpickles, recv_bytes does not"
    return ""


def found_in(path: Path) -> list[str]:
    tree = ast.parse(path.read_text("utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    said = [f"{call.lineno}: {why}" for call in calls if (why := unsafe(call))]
    for node in names:  # from pickle import loads
        said += [
            f"{node.lineno}: {node.module}.{alias.name}"
            for alias in node.names
            if f"{node.module}.{alias.name}" in {*UNPICKLES, "torch.load"}
        ]
    return said


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_nothing_from_a_file_is_run(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    found = {path.relative_to(ROOT).as_posix(): found_in(path) for path in files}
    assert not {path: said for path, said in found.items() if said}


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("torch.load(path)", 1),
        ("self.torch.load(path, weights_only=False)", 1),
        ("torch.load(path, map_location='cpu', weights_only=True)", 0),
        ("from pickle import loads", 1),
        ("pickle.dumps(3)", 0),
        ("yaml.load(text, yaml.SafeLoader)", 1),
        ("yaml.safe_load(text)", 0),
        ("numpy.load(path, allow_pickle=True)", 1),
        ("numpy.load(path)", 0),
        ("connection.recv()", 1),
        ("socket.recv(1024), connection.recv_bytes()", 0),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", 1),
    ],
)
def test_the_walk_sees_what_it_looks_for(tmp_path, code, count):
    (tmp_path / "a.py").write_text(code)
    assert len(found_in(tmp_path / "a.py")) == count
