"""What another system lacks: Windows has no `resource` and no sockets at paths."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from async_timestep.training.grpo import dry_run, result
from async_timestep.training.rewards.packages import worker_address

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("worker", ROOT / "training" / "reward_worker.py")
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix", "readline"}
CPU = torch.device("cpu")


def files() -> list[Path]:
    rooms = ("training", "tpm", "report")
    return [path for room in rooms for path in (ROOT / room).rglob("*.py")]


def guarded(tree: ast.AST) -> set[int]:
    """Lines inside a try that expects an ImportError."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any("ImportError" in ast.unparse(h.type) for h in node.handlers if h.type)
        for part in node.body
        for line in range(part.lineno, (part.end_lineno or part.lineno) + 1)
    }


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_what_only_posix_has_is_never_taken_for_granted(path):
    tree = ast.parse(path.read_text("utf-8"))
    safe = guarded(tree)
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not POSIX & {n.split(".")[0] for n in names} or node.lineno in safe, node.lineno
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            assert text not in ("os.fork", "os.getuid", "os.kill", "os.mkfifo", "signal.SIGKILL",
                                "signal.SIGHUP", "signal.SIGALRM", "socket.AF_UNIX")  # fmt: skip


def test_peak_memory_of_this_process():
    """Grows by what is written to, in GiB."""
    pytest.importorskip("resource")
    before = result.device_memory(CPU)
    block = torch.ones(300 * 2**20, dtype=torch.uint8)
    after = result.device_memory(CPU)
    assert 0 < before <= after < 1000 and after >= block.numel() / 2**30


def test_peak_memory_in_bytes_where_the_system_counts_them(monkeypatch):
    usage = SimpleNamespace(
        getrusage=lambda who: SimpleNamespace(ru_maxrss=3 * 2**30), RUSAGE_SELF=0
    )
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(result.sys, "platform", "darwin")
    assert result.device_memory(CPU) == 3.0
    monkeypatch.setattr(result.sys, "platform", "linux")
    assert result.device_memory(CPU) == 3.0 * 1024


def test_peak_memory_without_the_module(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resource", None)
    info = SimpleNamespace(peak_wset=5 * 2**29)
    psutil = SimpleNamespace(Process=lambda: SimpleNamespace(memory_info=lambda: info))
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    assert result.device_memory(CPU) == 2.5
    assert dry_run.peak(CPU) == "2.50 GiB on cpu"
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert result.device_memory(CPU) is None
    assert dry_run.peak(CPU) == "not known on this system, which has no psutil (cpu)"


ADDRESSES = [".host/reward_worker.sock", "other.sock", r"\\.\pipe\mine"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_trainer_and_worker_meet_where_sockets_have_paths(address):
    found = worker_address(address)
    assert found == worker.listening_address(address)
    assert found == (address if address.startswith("\\\\") else str(ROOT / address))


@pytest.mark.parametrize("address", ADDRESSES)
def test_trainer_and_worker_meet_at_a_pipe_where_they_have_none(monkeypatch, address):
    monkeypatch.setattr(sys, "platform", "win32")
    found = worker_address(address)
    assert found == worker.listening_address(address) and found.startswith("\\\\.\\pipe\\")
    assert len({worker_address(a) for a in ADDRESSES}) == len(ADDRESSES)


def test_a_worker_that_cannot_listen_is_one_sentence(monkeypatch):
    """A path that is too long for a socket."""
    monkeypatch.setattr(sys, "argv", ["reward_worker.py", "--address", "/tmp/" + "x" * 200])
    with pytest.raises(SystemExit, match="cannot listen on .*--address") as stopped:
        worker.main()
    assert "\n" not in str(stopped.value)
