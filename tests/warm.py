"""Commands as processes of their own, without the seconds (up to twenty) in which each of them
would import torch and diffusers: one process has imported everything, and forks for each command.

    process = Warm().start("grpo.command", ["--preset", "tiny"])   # as subprocess.Popen gives

What is left out is only the interpreter's start; test_front.py and test_trainer.py have real ones.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRAINING = "async_timestep.training."
IMPORTED = ("grpo.command", "grpo.dry_run", "grpo.trainer", "grpo.train_log", "tiny.train_backbone")
IMPORTED += ("tiny.train_unet",)


class Warm:
    """The process that forks: started at the first test that needs it."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "training")},
        )

    def ask(self, **question) -> int | None:
        self.server.stdin.write(json.dumps(question) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        if not answer:
            raise RuntimeError("the process that forks has ended; its own words are on stderr")
        return json.loads(answer)

    def start(self, module: str, arguments: list[str], cwd: Path = ROOT, **environment) -> Forked:
        """main() of a module of training/ with these arguments; the output is kept."""
        handle, output = tempfile.mkstemp(dir=self.folder.name)
        os.close(handle)
        pid = self.ask(
            module=module,
            arguments=[str(a) for a in arguments],
            cwd=str(cwd),
            environment=environment,
            output=output,
        )
        return Forked(self, pid, Path(output))

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        self.folder.cleanup()


class Forked:
    """What of subprocess.Popen the tests use: standard output and error are one text."""

    def __init__(self, warm: Warm, pid: int, output: Path):
        self.warm, self.pid, self.output, self.returncode = warm, pid, output, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.warm.ask(poll=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def text(self) -> str:
        return self.output.read_text()

    def communicate(self) -> tuple[bytes, None]:
        self.wait()
        return self.output.read_bytes(), None


def child(job: dict) -> None:
    """The forked process: the module's main() with its arguments; never returns."""
    code = 1
    try:
        output = os.open(job["output"], os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.update(job["environment"])
        os.chdir(job["cwd"])
        sys.argv = [job["module"], *job["arguments"]]
        code = importlib.import_module(TRAINING + job["module"]).main()
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def serve() -> None:
    """Answers questions: starts a process (its number), or how one ended (None: it runs)."""
    for module in IMPORTED:
        importlib.import_module(TRAINING + module)
    answers = os.fdopen(os.dup(1), "w")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                child(job)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
