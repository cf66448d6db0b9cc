"""What a log file shows: a line at once, one every 10 to 30 seconds while work lasts, never more.
The clock is a fake one throughout."""

from __future__ import annotations

import sys

import pytest
from small_model import small_model

from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import train
from async_timestep.training.run import console
from async_timestep.training.run.console import EVERY, Lines, Report, beat
from async_timestep.training.run.distributed import World
from async_timestep.training.run.phase import heard, listeners, phase
from async_timestep.training.run.settings import parse

SMALL = [
    "--backbone.path",
    small_model(),
    "--preset=tiny",
    "--backbone.precision=fp32",
    "--grpo.num_generations=4",
    "--grpo.minibatch_size=2",
    "--grpo.prompts_per_iteration=1",
    "--steps=2",
    "--data.validation_prompts=4",
    "--rewards.batch=2",
    "--log.samples_every=0",
    "--threads=1",
    "--iterations=2",
]


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log():
    """(clock, lines, what was written with its time)."""
    clock, written = Clock(), []
    return clock, Lines(lambda text: written.append((clock.now, text)), clock), written


def test_the_first_line_comes_at_once(log):
    clock, lines, written = log
    lines.begin("training", 200)
    assert written == [(1000.0, "training 0 of 200; 0:00:00 so far")]


def test_a_thousand_quick_steps_are_not_a_thousand_lines(log):
    clock, lines, written = log
    lines.begin("training", 1000)
    for i in range(1000):
        clock.now += 0.1
        lines.phase("rollout")
        lines.update(i + 1, f"D {i}")
    times = [when for when, _ in written]
    apart = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert len(written) == 5 and all(EVERY <= gap <= 30 for gap in apart)
    words = "training 199 of 1000; D 198; rollout (0:00:00); 0:00:20 so far, about 0:01:20 to go"
    assert written[1][1] == words


def test_one_step_of_minutes_shows_what_it_is_at(log):
    """Nothing calls but the thread's tick: a rollout of a huge model, a download, a load."""
    clock, lines, written = log
    lines.begin("training", 4)
    clock.now += 1
    lines.phase("rollout")
    ticks = iter([False] * 300 + [True])

    def wait(seconds: float) -> bool:
        clock.now += seconds
        return next(ticks)

    beat(lines.tick, wait)
    times = [when for when, _ in written]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= 30
    assert 300 / 30 <= len(written) <= 300 / 10 + 1
    assert written[2][1] == "training 0 of 4; rollout (0:00:39); 0:00:40 so far"


def test_a_phase_counts_from_its_begin_and_keeps_it_while_it_goes_on(log):
    clock, lines, written = log
    lines.begin("starting")
    for done in (0, 32, 64):
        lines.phase("validation", done, 256)
        clock.now += 21
    lines.phase("rollout")
    assert [text for _, text in written[1:]] == [
        "starting; validation 32 of 256 (0:00:21); 0:00:21 so far",
        "starting; validation 64 of 256 (0:00:42); 0:00:42 so far",
        "starting; rollout (0:00:00); 0:01:03 so far",
    ]


def test_what_comes_once_is_no_part_of_what_is_left(log):
    """A first validation of ten minutes before iterations of one second."""
    clock, lines, written = log
    lines.begin("training", 100)
    clock.now += 600
    for i in range(30):
        clock.now += 1
        lines.update(i + 1)
    lines.update(30)
    clock.now += 30
    lines.tick()
    assert written[-1][1] == "training 30 of 100; 0:11:00 so far, about 0:01:10 to go"


def test_nothing_is_written_when_nothing_is_under_way(log):
    clock, lines, written = log
    lines.phase("loading")
    lines.tick()
    lines.begin("training")
    lines.end()
    clock.now += 1000
    lines.tick()
    assert len(written) == 1


def test_a_log_file_gets_plain_lines_also_where_colour_is_forced(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes every stream for a terminal then
    clock = Clock()
    with Report(clock=clock) as report:
        assert not report.live
        report.begin("evaluation [x], :bug:", 8)
        clock.now += EVERY
        report.advance(2, "K=4 D=0")
        report.advance(2, "K=4 D=0")
        report.say("runs/[a]/:b: is kept as it is")
    text = capfd.readouterr().err
    assert "\x1b" not in text and "\r" not in text
    assert text.splitlines() == [
        "evaluation [x], :bug: 0 of 8; 0:00:00 so far",
        "evaluation [x], :bug: 2 of 8; K=4 D=0; 0:00:20 so far",
        "runs/[a]/:b: is kept as it is",
    ]


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch, capfd):
    monkeypatch.setattr(console, "in_terminal", lambda: True)
    clock = Clock()
    with Report(clock=clock) as report:
        report.begin("starting")
        phase("loading the model tiny")
        report.begin("training", 10, done=3)
        report.update(4, "D +0.1")
        clock.now += 1000
        phase("rollout", 1, 2)
        assert [(t.description, t.completed, t.total) for t in report.bar.tasks] == [
            ("D +0.1", 4, 10)
        ]
        assert report.bar.tasks[0].fields["doing"] == "rollout 1/2"
    assert "so far" not in capfd.readouterr().err


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_terminal_is_asked_for_by_what_it_is(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert console.in_terminal() == (term == "xterm")


def test_the_other_ranks_are_silent(monkeypatch, capfd):
    """From when they know which rank they are; also where each is in a terminal of its own."""
    for shown, live in ((False, False), (True, False), (True, True)):
        monkeypatch.setattr(console, "in_terminal", lambda live=live: live)
        with Report(shown=shown) as report:
            report.silence()
            capfd.readouterr()
            report.begin("training", 3)
            report.update(1, "x")
            phase("rollout")
            report.lines.tick()
            report.say("y")
        assert capfd.readouterr().err == "" and not listeners


def test_every_long_part_of_a_run_says_what_it_is():
    """Reads, loads, batches of a validation, parts of an iteration: with 25 seconds between two of
    them each gets its line."""
    clock, written = Clock(), []
    lines = Lines(written.append, clock)

    def slow(what: str, done: int = 0, total: int = 0) -> None:
        lines.phase(what, done, total)
        clock.now += 25

    def log(kind: str, record: dict) -> None:
        if kind == "start":
            lines.begin("training", 2)

    lines.begin("starting")
    clock.now += 25
    with heard(slow):
        train(load_training(parse(SMALL)[0], World()), None, False, log)
    for words in (
        "reading the prompts", "loading the rewards", "loading the model tiny", "encode", "rollout",
        "decode", "score", "update", "validation of the baseline 2 of 4", "validation 2 of 4",
    ):  # fmt: skip
        assert any(f"; {words} (" in line for line in written), words
