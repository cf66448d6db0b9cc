"""What a command shows on stderr while it runs: a bar in a terminal, plain lines in a log file.

    with Report() as report:
        report.begin("evaluation", total=100)
        report.advance(10, "K=4 D=0")
        report.say("a sentence")

A log file gets a line at once and then, while the work lasts, one every EVERY seconds: a thread
sees to it, so a load or a step that takes minutes shows too. What is under way is heard from
phase.py.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .phase import heard

EVERY = 20.0  # seconds between two lines of a log file


class Lines:
    """The progress of one task after the other, as lines. Safe to call from several threads."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.write, self.clock, self.lock = write, clock, threading.RLock()
        self.what = ""  # nothing is under way
        self.total = self.done = 0
        self.note = self.doing = ""
        self.made: list[tuple[float, int]] = []  # the first and the last part: when, how many

    def begin(self, what: str, total: int = 0, done: int = 0) -> None:
        """A task: its first line comes at once."""
        with self.lock:
            self.what, self.total, self.done = what, total, done
            self.note, self.doing, self.made = "", "", []
            self.start = self.since = self.clock()
            self.show()

    def update(self, done: int | None = None, note: str | None = None) -> None:
        with self.lock:
            if done is not None:
                self.done, self.doing = done, ""
                self.made = [*self.made[:1], (self.clock(), done)]
            self.note = self.note if note is None else note
            self.tick()

    def phase(self, what: str, done: int = 0, total: int = 0) -> None:
        """A part of the task that has begun, or how far it is."""
        with self.lock:
            if not self.what:
                return
            if not self.doing.startswith(what):
                self.since = self.clock()
            self.doing = what + (f" {done} of {total}" if total else "")
            self.tick()

    def tick(self) -> None:
        """The next line, where it is due."""
        with self.lock:
            if self.what and self.clock() - self.shown >= EVERY:
                self.show()

    def end(self) -> None:
        with self.lock:
            self.what = ""

    def show(self) -> None:
        self.shown = now = self.clock()
        parts = [self.what + (f" {self.done} of {self.total}" if self.total else ""), self.note]
        if self.doing:
            parts.append(f"{self.doing} ({span(now - self.since)})")
        parts.append(f"{span(now - self.start)} so far{self.left()}")
        self.write("; ".join(filter(None, parts)))

    def left(self) -> str:
        """From the first part that was done to the last: what came before them is not repeated."""
        if not self.total or len(self.made) < 2 or self.made[0][1] >= self.done:
            return ""
        (begun, first), (last, done) = self.made
        return f", about {span((last - begun) / (done - first) * (self.total - done))} to go"


def span(seconds: float) -> str:
    """0:01:12"""
    return str(timedelta(seconds=round(seconds)))


def beat(tick: Callable[[], None], wait: Callable[[float], bool]) -> None:
    """Calls `tick` every second until `wait` says that it is over."""
    while not wait(1.0):
        tick()


def in_terminal() -> bool:
    """Whether a bar can be drawn. What rich makes of FORCE_COLOR would draw it into log files."""
    return sys.stderr.isatty() and not Terminal(stderr=True).is_dumb_terminal


class Report(contextlib.ExitStack):
    """A context manager; shown: whether anything is."""

    def __init__(self, shown: bool = True, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.shown, self.live = shown, shown and in_terminal()
        self.terminal = Terminal(stderr=True, quiet=not shown)
        self.lines = Lines(self.say, clock)
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[doing]}", markup=False),
            console=self.terminal,
            disable=not self.live,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> Report:
        if self.live:
            self.enter_context(self.bar)
            self.enter_context(heard(self.phase))
        elif self.shown:
            # download bars of the model libraries would fill a log file
            with contextlib.suppress(ImportError):
                from huggingface_hub.utils import disable_progress_bars

                disable_progress_bars()
            over = threading.Event()
            thread = threading.Thread(target=beat, args=(self.lines.tick, over.wait), daemon=True)
            self.callback(thread.join)
            self.callback(over.set)
            thread.start()
            self.callback(self.lines.end)
            self.enter_context(heard(self.lines.phase))
        return self

    def silence(self) -> None:
        """Nothing is shown from here on: all ranks but the first."""
        self.close()
        self.shown = self.live = False
        self.terminal.quiet = True

    def begin(self, what: str, total: int = 0, done: int = 0) -> None:
        """A task of so many parts; 0 where that is not known."""
        if not self.live:
            return self.lines.begin(what, total, done)
        if self.task is not None and self.bar.tasks[-1].total is None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(what, total=total or None, completed=done, doing="")

    def update(self, done: int | None = None, note: str | None = None) -> None:
        """How many parts are done, and a word about the last."""
        if self.live:
            if self.task is not None:
                self.bar.update(self.task, completed=done, description=note, doing="")
        else:
            self.lines.update(done, note)

    def advance(self, count: int, note: str | None = None) -> None:
        done = self.bar.tasks[-1].completed if self.live else self.lines.done
        self.update(done + count, note)

    def phase(self, what: str, done: int = 0, total: int = 0) -> None:
        if self.task is not None:
            self.bar.update(self.task, doing=what + (f" {done}/{total}" if total else ""))

    def say(self, text: str) -> None:
        self.terminal.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)
