"""From the command line to a Config and back: presets, overlays, dotted overrides.

    config, rest = parse(["--preset", "tiny", "--grpo.lr", "3e-4"])

The preset is the base, every --config file is laid over it, the command line comes last.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from .config import Config

PRESETS = Path(__file__).parent / "presets"
# what may differ when a run is resumed: nothing that changes the mathematics
FREE = ("max_hours", "device", "threads", "text_encoders", "log", "rewards.batch")
FREE += ("rewards.address", "backbone.batch", "backbone.decode_batch", "backbone.compile")
FREE += ("grpo.patience",)


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Types and defaults beside every setting, the description as it is written."""


def parse(
    arguments: list[str] | None = None,
    prog: str = "train_tpm.py",
    description: str = "",
    more: Callable[[argparse.ArgumentParser], None] | None = None,
    base: Path | None = None,
) -> tuple[Config, argparse.Namespace]:
    """The resolved Config and the other options that `more` adds to the parser.

    base: a YAML file in the preset's place, when no preset is named. Exits with one sentence and
    code 2 on anything that is not understood.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    known, _ = first.parse_known_args(arguments)
    names = sorted(
        path.stem for path in PRESETS.glob("*.yaml") if "name" in backbone_of(path)
    )  # the others are overlays
    files = []
    if known.preset is not None:
        if known.preset not in names:
            stop(prog, f"--preset is {known.preset!r}, expected one of {', '.join(names)}.")
        files = [PRESETS / f"{known.preset}.yaml"]
    elif base is not None:
        files = [base]
    parser = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        default_config_files=[str(path) for path in files],
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--preset", help=f"one of {', '.join(names)}")
    parser.add_argument("--config", action="config", help="YAML file laid over the preset")
    if more:
        more(parser)
    parser.add_class_arguments(Config)
    try:
        namespace = parser.parse_args(arguments)
        check_lists(namespace)
        config = parser.instantiate(namespace)
    except Exception as error:  # argparse, jsonargparse and yaml each have their own
        stop(prog, readable(str(error)))
    rest = {k: v for k, v in vars(namespace).items() if k not in field_names(Config)}
    values = {name: getattr(config, name) for name in field_names(Config)}
    return Config(**values), argparse.Namespace(**rest)


def backbone_of(path: Path) -> dict:
    return (yaml.safe_load(path.read_text()) or {}).get("backbone") or {}


def check_lists(namespace: argparse.Namespace) -> None:
    """Raises ValueError on numbers that no run could use."""
    steps = namespace.steps if isinstance(namespace.steps, list) else [namespace.steps]
    if not steps or min(steps) < 2:
        raise ValueError(
            f"steps is {namespace.steps}, expected 2 or more: with one step there is no time to "
            "decide about"
        )
    group, part = namespace.grpo.group, namespace.grpo.minibatch
    if group < 2 or part < 1 or group % part:
        raise ValueError(
            f"grpo.group is {group} and grpo.minibatch {part}, expected a group of 2 or more that "
            "the mini-batch divides"
        )
    low, high = namespace.policy.omega_range
    if not 0 < low < high:
        raise ValueError(f"policy.omega_range is [{low}, {high}], expected two rising numbers > 0")
    if namespace.policy.deviation_bound not in (0.5, 1.0):
        raise ValueError(
            f"policy.deviation_bound is {namespace.policy.deviation_bound}, expected 0.5 (Eq. 7) "
            "or 1.0 (lifted, Eq. 13)"
        )


def readable(message: str) -> str:
    """A parser's complaint on one line, with the nearest name where a key is unknown."""
    line = " ".join(message.split())
    found = re.search(r"unrecognized arguments: --([\w.]+)", line)
    inner = re.search(r"Group '([\w.]+)' does not accept (?:option|nested key) '([\w.]+)'", line)
    name = found[1] if found else f"{inner[1]}.{inner[2]}" if inner else ""
    if not name:
        return line if line.endswith(".") else line + "."
    every = dotted(Config)
    leaf = name.split(".")[-1]
    near = difflib.get_close_matches(name, every, 1, 0.6)
    near = [n for n in every if n.split(".")[-1] == leaf] or near
    hint = f"did you mean {near[0]}?" if near else "--help lists all."
    return f"The setting {name} does not exist; {hint}"


def stop(prog: str, message: str) -> None:
    print(f"{prog}: {message}", file=sys.stderr)
    raise SystemExit(2)


def field_names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def dotted(cls: type, prefix: str = "") -> list[str]:
    """Every setting's full name: grpo.lr, steps, ..."""
    names = []
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            names += dotted(factory, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def as_dict(config: Config) -> dict:
    """Plain values: tuples become lists, as YAML has them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    return yaml.safe_dump(as_dict(config), sort_keys=False)


def flat(values: dict, prefix: str = "") -> dict[str, object]:
    """Nested settings with dotted names; rewards.weights stays one value."""
    result: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict) and prefix + name != "rewards.weights":
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value
    return result


def binding(config: Config) -> dict[str, object]:
    """The settings that a resumed run must share with the one before."""
    values = flat(as_dict(config))
    if config.grpo.lr_schedule == "constant":
        values.pop("iterations")  # a longer run begins like a shorter one
    return {
        k: v for k, v in values.items() if not any(k == f or k.startswith(f + ".") for f in FREE)
    }


def config_sha256(config: Config) -> str:
    return hashlib.sha256(json.dumps(binding(config), sort_keys=True).encode()).hexdigest()
