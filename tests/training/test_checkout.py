"""The commit that a TPM file names, from git's files, in every kind of checkout."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from async_timestep.training.run.checkout import git_commit

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main",
           "-c", "protocol.file.allow=always", "-c", "commit.gpgsign=false"]  # fmt: skip
    done = subprocess.run(
        ["git", *own, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder)
    return folder


def commit(folder: Path) -> str:
    git(folder, "commit", "-q", "--allow-empty", "-m", "text")
    return git(folder, "rev-parse", "HEAD")


@needs_git
def test_a_checkout_loose_packed_and_detached(repository):
    first = git(repository, "rev-parse", "HEAD")
    assert git_commit(repository) == first and len(first) == 40
    git(repository, "branch", "longer/main")
    git(repository, "pack-refs", "--all")
    assert not (repository / ".git" / "refs" / "heads" / "main").exists()
    assert git_commit(repository) == first
    second = commit(repository)  # a loose ref beside the packed one, which is old
    assert git_commit(repository) == second != first
    git(repository, "checkout", "-q", "--detach", first)
    assert git_commit(repository) == first
    git(repository, "checkout", "-q", "--orphan", "new")
    assert git_commit(repository) == ""  # no commit yet


@needs_git
def test_a_worktree(repository, tmp_path):
    main, tree = git(repository, "rev-parse", "HEAD"), tmp_path / "tree"
    git(repository, "worktree", "add", "-q", "-b", "side", str(tree))
    assert (tree / ".git").is_file()
    assert git_commit(tree) == main
    own = commit(tree)
    assert git_commit(tree) == own and git_commit(repository) == main
    git(repository, "pack-refs", "--all")
    assert git_commit(tree) == own
    git(tree, "checkout", "-q", "--detach", main)
    assert git_commit(tree) == main


@needs_git
def test_a_submodule(repository, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    git(inner, "commit", "-q", "--allow-empty", "-m", "another text")
    wanted = git(inner, "rev-parse", "HEAD")
    git(repository, "submodule", "--quiet", "add", str(inner), "packs/inner")
    text = (repository / "packs" / "inner" / ".git").read_text()
    assert text.startswith("gitdir: ../../.git/modules/")
    assert git_commit(repository / "packs" / "inner") == wanted != git_commit(repository)


@needs_git
def test_a_symbolic_ref_and_a_ring_of_them(repository):
    first = git(repository, "rev-parse", "HEAD")
    git(repository, "symbolic-ref", "refs/heads/alias", "refs/heads/main")
    git(repository, "symbolic-ref", "HEAD", "refs/heads/alias")
    assert git_commit(repository) == first
    (repository / ".git" / "HEAD").write_text("ref: HEAD\n")
    assert git_commit(repository) == ""


@pytest.mark.parametrize("content", [None, "", "gitdir: nowhere\n", "text\n", b"\xff\xfe"])
def test_what_is_no_checkout_is_empty(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / ".git").write_bytes(content)
    elif content is not None:
        (tmp_path / ".git").write_text(content)
    assert git_commit(tmp_path) == ""
