"""The fields of a session's file, checked one by one.

    values = checked("mine.json", json.loads(text))

Whatever is wrong ends as a `SessionError` of one sentence: what was found, what was expected, what
to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..tpm.metadata import in_range, name_of, shown
from ..tpm.policies import MODES
from . import shapes

FORMAT, VERSION = "async-timestep-eye", 1
KINDS = ("choose", "compare")
COLUMNS_MOST, ROWS_MOST, ROUNDS_MOST = 4, 8, 10_000
STEPS_MOST = 10_000
SEED_MOST = 2**48  # whole in JavaScript too
PROMPT_MOST = 20_000  # characters
CURE = "move it away to begin again, or give another session name"


class SessionError(ValueError):
    """A session that cannot be used so; the message is one sentence for the user."""


Check = tuple[Callable[[Any], Any], str]  # raises ValueError or TypeError; what it expects


def name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    return name_of(value)


def prompt(value: Any) -> str:
    if not isinstance(value, str) or len(value) > PROMPT_MOST:
        raise ValueError(value)
    return value


def one_of(*values: Any) -> Check:
    def check(value: Any) -> Any:
        if value not in values:
            raise ValueError(value)
        return value

    return check, " or ".join(map(str, values))


def whole(low: int, high: int) -> Check:
    return lambda value: in_range(value, low, high, whole=True), (
        f"a whole number from {low} to {high:,}"
    )


def some(check: Callable[[Any], Any], low: int, high: int) -> Callable[[Any], tuple]:
    """A list of low to high values."""

    def checked_all(values: Any) -> tuple:
        if not isinstance(values, list) or not low <= len(values) <= high:
            raise ValueError(values)
        return tuple(check(value) for value in values)

    return checked_all


def numbers(values: Any) -> tuple[float, ...]:
    own = some(lambda value: in_range(value, -10.0, 10.0), 1, len(shapes.NAMES))(values)
    low, high = shapes.LOWEST - 1e-6, shapes.HIGHEST + 1e-6
    if not all(low <= knot <= high for knot in shapes.knots(own)):
        raise ValueError(values)
    return own


def order(values: Any) -> tuple[int, ...]:
    own = some(whole(0, COLUMNS_MOST - 1)[0], 2, COLUMNS_MOST)(values)
    if sorted(own) != list(range(len(own))):
        raise ValueError(values)
    return own


def times(values: Any) -> tuple[float, ...]:
    own = some(lambda value: in_range(value, 0.0, 1.0), 0, STEPS_MOST + 1)(values)
    if any(a <= b for a, b in zip(own, own[1:], strict=False)):
        raise ValueError(values)
    return own


STEPS, SEED = whole(shapes.LEAST_STEPS, STEPS_MOST), whole(0, SEED_MOST)
SESSION: dict[str, Check] = {
    "name": (name, "a name of at most 200 characters that can be printed"),
    "model_family": (name, "a name, or nothing"),
    "weights_sha256": (name, "a hash, or nothing"),
    "steps": STEPS,
    "mode": one_of(*MODES),
    "seed": SEED,
    "times": (times, "falling numbers from 1 to 0"),
    "made": (dict, "a list of settings"),
    "rounds": (some(lambda value: value, 0, ROUNDS_MOST), "a list"),
}
MADE: dict[str, Check] = {
    "sampler": (name, "a name, or nothing"),
    "scheduler": (name, "a name, or nothing"),
    "guidance": (lambda value: in_range(value, 0.0, 1000.0), "a number from 0 to 1,000"),
    "resolution": whole(0, 100_000),
    "base_model": (name, "a name, or nothing"),
    "latent_channels": whole(0, 100_000),
}
ROUND: dict[str, Check] = {
    "kind": one_of(*KINDS),
    "shown": (
        some(numbers, 2, COLUMNS_MOST),
        f"2 to {COLUMNS_MOST} schedules of 1 to 3 numbers, with D from {shapes.LOWEST:g} to "
        f"{shapes.HIGHEST:g}",
    ),
    "steps": (some(STEPS[0], 2, COLUMNS_MOST), f"a list of {STEPS[1]}"),
    "order": (order, "every column once"),
    "seeds": (some(SEED[0], 1, ROWS_MOST), f"1 to {ROWS_MOST} whole numbers"),
    "prompts": (some(prompt, 1, ROWS_MOST), f"1 to {ROWS_MOST} texts"),
    "answer": whole(0, 6),
}


def checked(where: str, data: Any) -> dict[str, Any]:
    """The fields of a session, its rounds as dictionaries. Raises SessionError."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else data
        raise SessionError(f"{where} has format {shown(found)}, expected {FORMAT!r}; {CURE}.")
    if data.get("version") != VERSION:
        raise SessionError(
            f"{where} has version {shown(data.get('version'))}, expected {VERSION}; update the "
            "Async Timestep node pack, or give another session name."
        )
    own = {key: value for key, value in data.items() if key not in ("format", "version")}
    values = each(where, SESSION, own, "")
    values["made"] = each(where, MADE, values["made"], " of made")
    steps = len(values["times"]) - 1
    fitting = steps >= shapes.LEAST_STEPS and shapes.count(steps) == shapes.count(values["steps"])
    if values["times"] and not fitting:
        raise SessionError(
            f"{where} has {steps + 1} times, expected {values['steps'] + 1} for its steps; {CURE}."
        )
    values["rounds"] = tuple(
        one_round(where, value, number, values) for number, value in enumerate(values["rounds"], 1)
    )
    return values


def one_round(where: str, data: Any, number: int, session: dict[str, Any]) -> dict[str, Any]:
    """The fields of a round, and how they hang together. Raises SessionError."""
    place = f" of round {number}"
    if not isinstance(data, dict):
        raise SessionError(
            f"{where} has {shown(data)} as round {number}, expected its fields; {CURE}."
        )
    values = each(where, ROUND, data, place)
    columns, m = len(values["shown"]), shapes.count(session["steps"])
    wrong = [
        (len(values["order"]) != columns, "order", f"{columns} columns"),
        (len(values["steps"]) != columns, "steps", f"{columns} of them"),
        (any(len(own) != m for own in values["shown"]), "shown", f"schedules of {m} numbers"),
        (len(values["prompts"]) != len(values["seeds"]), "prompts", "as many as seeds"),
        (columns < values["answer"] < 5, "answer", f"0 to {columns}, 5 or 6"),
        (values["answer"] == 0 and number < len(session["rounds"]), "answer", "one: a later round "
         "is there"),
    ]  # fmt: skip
    for bad, key, expected in wrong:
        if bad:
            raise SessionError(
                f"{where} has {key} {shown(data[key])}{place}, expected {expected}; {CURE}."
            )
    return values


def each(where: str, checks: dict[str, Check], data: dict, place: str) -> dict[str, Any]:
    """Every value by its check. Raises SessionError."""
    if wrong := sorted(map(str, data.keys() ^ checks.keys())):
        what = "the unknown" if wrong[0] in data else "no"
        raise SessionError(f"{where} has {what} field {shown(wrong[0])}{place}; {CURE}.")
    values = {}
    for key, (check, expected) in checks.items():
        try:
            values[key] = check(data[key])
        except (ValueError, TypeError, OverflowError):
            raise SessionError(
                f"{where} has {key} {shown(data[key])}{place}, expected {expected}; {CURE}."
            ) from None
    return values
