"""Which preset a command takes where its arguments name no model: tiny, and it says so.

    arguments = with_preset(arguments, print_lines)

Whatever names a model, an option or a file of settings, is left as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from .settings import PRESETS, backbone_of
from .settings_file import wrong_file

TINY = "tiny"
TAKEN = "No --preset was given: taking tiny, the embedded model; --preset NAME takes another one."


def preset_list() -> str:
    """Every preset with the line that its file begins with."""
    names = sorted(path for path in PRESETS.glob("*.yaml") if "name" in backbone_of(path))
    width = max(len(path.stem) for path in names)
    return "\n".join(f"  {path.stem:{width}}  {first_comment(path)}" for path in names)


def first_comment(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def with_preset(arguments: list[str], say: Callable[[str], None]) -> list[str]:
    """The arguments, with tiny where they name no model. Says which presets there are then."""
    if names_a_model(arguments) or {"-h", "--help"} & set(arguments):
        return arguments
    say(f"Presets:\n{preset_list()}\n{TAKEN}")
    return ["--preset", TINY, *arguments]


def names_a_model(arguments: list[str]) -> bool:
    """Whether a preset, a setting or a --config file says which model is meant."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--preset", "--backbone", "--backbone.name"):
        parser.add_argument(option, nargs="?", const="", dest="model", action="append")
    parser.add_argument("--config", nargs="?", const="", action="append", default=[])
    known = parser.parse_known_args(arguments)[0]
    return bool(known.model) or any(names_one(Path(path)) for path in known.config)


def names_one(path: Path) -> bool:
    """What cannot be read names a model too: it is refused where the settings are read."""
    return bool(wrong_file(path)) or "name" in backbone_of(path)
