"""Settings that had another name: the old ones are read for good, on the command line, in files of
settings and in checkpoints."""

from __future__ import annotations

import re

RENAMED = {
    "grpo.group": "grpo.num_generations",
    "grpo.minibatch": "grpo.minibatch_size",
    "grpo.prompts": "grpo.prompts_per_iteration",
    "grpo.clip": "grpo.epsilon",
    "grpo.grad_clip": "grpo.max_grad_norm",
    "grpo.ratio": "grpo.importance_sampling_level",
    "grpo.scale": "grpo.scale_rewards",
    "grpo.noise": "grpo.group_noise",
}
VALUES = {"grpo.scale_rewards": {"iteration": "batch"}}  # and what they were set to


def current(name: str) -> str:
    """The name of today."""
    return RENAMED.get(name, name)


def current_value(name: str, value: object) -> object:
    """The value of today, of a setting by its name of today."""
    return VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value


def current_flat(values: dict[str, object]) -> dict[str, object]:
    """Settings by dotted names, as a checkpoint keeps them."""
    return {current(name): current_value(current(name), v) for name, v in values.items()}


def current_nested(values: object, prefix: str = "") -> object:
    """Settings as a file has them, sections inside each other."""
    if not isinstance(values, dict):
        return values
    found = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        new = current(name)
        value = current_nested(value, f"{name}.")
        found[new.removeprefix(prefix)] = current_value(new, value)
    return found


def current_arguments(arguments: list[str]) -> list[str]:
    """A command line, `--name=value` or `--name value`."""
    found: list[str] = []
    for word in arguments:
        match = re.fullmatch(r"--([\w.]+)(?:=(.*))?", word, re.DOTALL)
        if match is None:
            before = re.fullmatch(r"--([\w.]+)", found[-1]) if found else None
            found.append(str(current_value(before[1], word)) if before else word)
            continue
        name, value = current(match[1]), match[2]
        found.append(f"--{name}" if value is None else f"--{name}={current_value(name, value)}")
    return found


def old_names(names: list[str]) -> list[str]:
    """Those of the names that are old."""
    return [name for name in names if name in RENAMED]


def sentence(old: list[str]) -> str:
    """What a user is told, once per command."""
    pairs = ", ".join(f"{name} is now {RENAMED[name]}" for name in dict.fromkeys(old))
    return f"{pairs}; the old name is read as before."
