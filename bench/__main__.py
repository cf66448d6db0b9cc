"""Lists the benches, or runs one of them.

    python -m bench                         all of them, each with the first line of its docstring
    python -m bench laboratory --n 128 ...  the same as python bench/laboratory.py --n 128 ...

A bench is a file of this folder with a `main`; what benches share lies in parts/, and no bench
imports another. Started in the checkout's root.
"""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
NO_BENCH = {"__main__", "async_timestep"}


def benches() -> dict[str, str]:
    """Name -> the first line of its docstring. Nothing is imported for it."""
    files = {p.stem: p for p in sorted(FOLDER.glob("*.py")) if p.stem not in NO_BENCH}
    trees = {name: ast.parse(path.read_text("utf-8")) for name, path in files.items()}
    return {name: ast.get_docstring(tree).splitlines()[0] for name, tree in trees.items()}


def main(arguments: list[str]) -> int:
    """The exit code of the bench that `arguments` begin with."""
    known = benches()
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {line}" for name, line in known.items()))
        return 0
    name, *own = arguments
    if name not in known:
        print(f"There is no bench {name!r}; choose one of {', '.join(known)}.", file=sys.stderr)
        return 2
    sys.argv = [f"bench/{name}.py", *own]  # what the tables name as their command
    return importlib.import_module(f"async_timestep.bench.{name}").main() or 0


if __name__ == "__main__":
    from . import async_timestep  # noqa: F401  gives main() the package by its name

    sys.exit(main(sys.argv[1:]))
