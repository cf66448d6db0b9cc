"""The commit of this checkout, for the TPM files that it writes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINKS = 5  # of symbolic refs, as many as git follows


def git_commit(root: Path = ROOT) -> str:
    """The commit of a checkout, a worktree or a submodule, read from git's files without git; empty
    outside of one and before the first commit."""
    try:
        folder = git_folder(root / ".git")
        common = folder / "commondir"  # a worktree keeps HEAD of its own, the rest is shared
        shared = folder / common.read_text("utf-8").strip() if common.is_file() else folder
        value = (folder / "HEAD").read_text("utf-8").strip()
        for _ in range(LINKS):
            if not value.startswith("ref: "):
                return value
            value = read_ref(value.removeprefix("ref: "), folder, shared)
        return ""
    except (OSError, ValueError):  # ValueError: not UTF-8
        return ""


def git_folder(path: Path) -> Path:
    """.git itself, or where a file .git points to ("gitdir: ...", relative to that file)."""
    if path.is_dir():
        return path
    return path.parent / path.read_text("utf-8").strip().removeprefix("gitdir: ")


def read_ref(name: str, folder: Path, shared: Path) -> str:
    """A ref's content: a commit, another ref, or "" where it has none yet."""
    for place in (folder, shared):
        if (place / name).is_file():
            return (place / name).read_text("utf-8").strip()
    packed = shared / "packed-refs"
    lines = packed.read_text("utf-8").splitlines() if packed.is_file() else []
    return next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
