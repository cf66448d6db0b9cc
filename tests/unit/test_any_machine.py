"""What a test may not depend on: the speed of the machine."""

from __future__ import annotations

import ast
from pathlib import Path

from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parents[1]


def test_no_property_test_has_a_deadline():
    """Hypothesis' own are 200 ms an example, and a check of how fast its examples are drawn."""
    assert settings().deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "deadline":
                assert getattr(node.value, "value", 0) is None, f"{path.name}:{node.value.lineno}"


def test_no_test_waits_for_a_number_of_seconds_or_gives_up_after_some():
    """It waits for what it needs, in pieces of a second where it has to look again and again; a
    limit is there for what hangs, and is a name that says so."""
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            place = f"{path.name}:{node.lineno}"
            assert name != "wait_for_timeout", place
            if name == "sleep":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant) and argument.value < 1, place
            for keyword in node.keywords:
                number = isinstance(keyword.value, ast.Constant) and keyword.value.value
                assert keyword.arg != "timeout" or not number, place
