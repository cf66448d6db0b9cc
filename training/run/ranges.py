"""What a setting may be: every field of config.py has a rule, checked where the config is made.

    lr: float = real(1e-5, above=0, high=1)      # the default, then what it may be
    batch: int = whole(16, 1, 65536)

A rule gives back the value as its type has it (1 becomes 1.0, a list of two a tuple), so that one
setting has one form however it was written. Literal and bool need no rule: their type is one.
"""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RULE = "rule"
MOST_TEXT = 4096  # characters, the longest path that Linux has


@dataclass(frozen=True)
class Rule:
    """expected: for a sentence; read: the value in its own form, raises ValueError or TypeError;
    ends: the smallest and the largest number, where it is one."""

    expected: str
    read: Callable[[Any], Any]
    ends: tuple = ()


def ruled(default: Any, rule: Rule) -> Any:
    return field(default=default, metadata={RULE: rule})


def number(value: Any, low: float, high: float, above: bool = False) -> float:
    """A float in a range. Raises ValueError on another number, NaN, or what is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    if not (low < value <= high if above else low <= value <= high):  # NaN is in no range
        raise ValueError(value)
    return float(value)


def whole_number(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(value)
    return value


def whole(default: int, low: int, high: int, note: str = "") -> Any:
    """An int from `low` to `high`."""
    expected = f"a whole number from {low:,} to {high:,}" + (f" ({note})" if note else "")
    return ruled(default, Rule(expected, lambda v: whole_number(v, low, high), (low, high)))


def real(
    default: float | None,
    low: float = 0.0,
    high: float = math.inf,
    above: float | None = None,
    note: str = "",
) -> Any:
    """A float from `low`, or greater than `above`, to `high`."""
    start = f"from {low:g}" if above is None else f"above {above:g}"
    joint = "to" if above is None else "and at most"
    expected = f"a number {start} {joint} {high:g}" + (f" ({note})" if note else "")
    strict, smallest = above is not None, low if above is None else above
    ends = (smallest or 1e-12 if strict else smallest, high)
    return ruled(default, Rule(expected, lambda v: number(v, smallest, high, strict), ends))


def optional(given: Any) -> Any:
    """The rule of a field, or null."""
    rule = given.metadata[RULE]
    read = lambda value: None if value is None else rule.read(value)  # noqa: E731
    return ruled(given.default, Rule(f"{rule.expected}, or null", read, rule.ends))


def one_of(default: Any, choices: tuple, meaning: str) -> Any:
    """One of some numbers; words have Literal."""

    def read(value: Any) -> Any:
        if isinstance(value, bool) or value not in choices:
            raise ValueError(value)
        return choices[choices.index(value)]

    return ruled(default, Rule(meaning, read))


def text(default: str, meaning: str, empty: str = "", pattern: str = "") -> Any:
    """A line of text. empty: what the empty text means; without it, empty is refused."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > MOST_TEXT or min(value, default=" ") < " ":
            raise ValueError(value)  # no line ends, no null
        if not value.strip() and not (empty and value == ""):
            raise ValueError(value)
        if value and pattern and not re.fullmatch(pattern, value):
            raise ValueError(value)
        return value

    return ruled(default, Rule(meaning + (f", or empty for {empty}" if empty else ""), read))


def pair(default: tuple, expected: str, good: Callable[[float, float], bool]) -> Any:
    """Two numbers with a property."""

    def read(value: Any) -> tuple[float, float]:
        if not isinstance(value, (list, tuple)):
            raise ValueError(value)
        first, second = (number(v, -math.inf, math.inf) for v in value)
        if not good(first, second):
            raise ValueError(value)
        return first, second

    return ruled(default, Rule(expected, read))


def shown(value: Any) -> str:
    """A value for a sentence: on one line, short."""
    line = repr(value)
    return line if len(line) <= 60 else line[:57] + "..."


def rule_of(cls: type, name: str) -> Rule | None:
    """The rule of a field; None for a section, which has its own."""
    found = next(f for f in dataclasses.fields(cls) if f.name == name)
    if RULE in found.metadata:
        return found.metadata[RULE]
    kind = typing.get_type_hints(cls)[name]
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        return Rule(f"one of {', '.join(choices)}", lambda value: choices[choices.index(value)])
    if kind is bool:
        return Rule("true or false", flag)
    if dataclasses.is_dataclass(kind):
        return None
    raise TypeError(f"{cls.__name__}.{name} has no rule, expected one of training/run/ranges.py.")


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)
    return value


def check(settings: Any, section: str = "") -> None:
    """Every field of a section by its rule, put into its own form. Raises ValueError of one
    sentence naming the first that is wrong."""
    for entry in dataclasses.fields(settings):
        value, rule = getattr(settings, entry.name), rule_of(type(settings), entry.name)
        full = f"{section}.{entry.name}" if section else entry.name
        if rule is None:
            kind = typing.get_type_hints(type(settings))[entry.name]
            if not isinstance(value, kind):
                raise ValueError(f"{full} is {shown(value)}, expected a {kind.__name__}.")
            continue
        try:
            setattr(settings, entry.name, rule.read(value))
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"{full} is {shown(value)}, expected {rule.expected}.") from None
