"""Files of lines, a JSON record each: what a record has to be, and what is to be kept of a file.

    whole, lost = records_of(text, is_iteration)      # and how many lines are none

A line is a record where everything that is read of it later is there, and of its type.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable

Good = Callable[[dict], bool]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def are_numbers(values: object) -> bool:
    return isinstance(values, list) and len(values) > 0 and all(map(is_number, values))


def is_iteration(record: dict) -> bool:
    """A line of metrics.jsonl."""
    return is_count(record.get("iteration")) and isinstance(record.get("idle", ""), str)


def is_validation(record: dict) -> bool:
    """A line of validation.jsonl."""
    metrics = record.get("metrics")
    if not (is_count(record.get("iteration")) and isinstance(metrics, dict) and metrics):
        return False
    parts = ("mean", "difference", "error")
    return is_number(record.get("mean_deviation")) and all(
        isinstance(m, dict) and all(is_number(m.get(part)) for part in parts)
        for m in metrics.values()
    )


def is_generation(record: dict) -> bool:
    """A line of a search's generations.jsonl: C points of as many numbers, and the differences of
    each of them."""
    points, differences, scale = (record.get(n) for n in ("points", "differences", "scale"))
    if not (is_count(record.get("generation")) and isinstance(scale, dict)):
        return False
    if not (isinstance(points, list) and isinstance(differences, list) and points):
        return False
    return (
        len(points) == len(differences)
        and all(map(are_numbers, [*points, *differences, list(scale.values())]))
        and len({len(point) for point in points}) == 1
    )


KINDS: dict[str, Good] = {
    "metrics.jsonl": is_iteration,
    "validation.jsonl": is_validation,
    "generations.jsonl": is_generation,
}


def record_of(line: str, good: Good) -> dict:
    """A line's record; empty where it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(line)
        if isinstance(record, dict) and good(record):
            return record
    return {}


def records_of(text: str, good: Good) -> list[dict]:
    """A record per line, an empty one where the line is none. Half a line at the end, which a
    killed run leaves, is no line; what is none of ours there, is."""
    *whole, last = text.split("\n")
    found = [record_of(line, good) for line in whole]
    if record := record_of(last, good):
        return [*found, record]
    return found if is_half(last) else [*found, {}]


def is_half(line: str) -> bool:
    """Whether a line may be the beginning of one that json.dumps was writing."""
    begins = [f'{{"{name}": ' for name in ("iteration", "generation")]
    return any(line.startswith(begin) or begin.startswith(line) for begin in begins)
