"""Two trainers and one run folder: the second is refused, and a killed one leaves no lock."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_run import SMALL, resume

from async_timestep.training.grpo import command as train_command
from async_timestep.training.run.folder import RunFolder, RunFolderError
from async_timestep.training.run.lock import is_at

ROOT = Path(__file__).resolve().parents[2]


def test_two_trainers_do_not_share_a_folder(run, capsys):
    with RunFolder(run).only_here():
        code, sentence = resume(run, capsys, "--iterations", "4")
        assert code == 1 and f"{run} is in use: process " in sentence
    assert resume(run, capsys, "--iterations", "4")[0] == 0
    assert not (run / ".lock").exists()


def test_a_killed_trainer_leaves_no_lock_behind(run, capsys):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'training')!r})\n"
        "from async_timestep.training.run.lock import locked\n"
        "from pathlib import Path\n"
        "with locked(Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    lock = run / ".lock"
    other = subprocess.Popen(
        [sys.executable, "-c", code, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "True\n"
    with (
        pytest.raises(RunFolderError, match=f"process {other.pid} on "),
        RunFolder(run).only_here(),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock.exists()
    assert resume(run, capsys, "--iterations", "4")[0] == 0 and not lock.exists()


def test_a_lock_that_was_removed_is_none(tmp_path):
    """Whoever opened it before its holder removed it has a file that nobody else finds."""
    path = tmp_path / ".lock"
    with open(path, "a+") as removed:
        assert is_at(path, removed.fileno())
        path.unlink()
        assert not is_at(path, removed.fileno())
        path.touch()
        assert not is_at(path, removed.fileno())


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunFolderError, match=r"\.lock could not be written"):
        with RunFolder(tmp_path).only_here():
            pass


def test_a_start_beside_a_start_moves_nothing_aside(tmp_path, capsys):
    """The first has no checkpoint yet, so its files look like those of an aborted start."""
    out = tmp_path / "run"
    with RunFolder(out).only_here():
        RunFolder(out).create(False)
        (out / "config.yaml").write_text("of the first\n")
        capsys.readouterr()
        assert train_command.main([*SMALL, "--out", str(out)]) == 1
        assert "is in use" in capsys.readouterr().err
        assert (out / "config.yaml").read_text() == "of the first\n"

    assert not list(out.glob("aborted_*"))
