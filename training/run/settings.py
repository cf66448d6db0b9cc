"""From the command line to a Config and back: presets, overlays, dotted overrides.

    config, rest = parse(["--preset", "tiny", "--grpo.lr", "3e-4"])

The preset is the base, every --config file is laid over it, the command line comes last.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import glob
import hashlib
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader

from .config import Config
from .ranges import rule_of
from .renamed import current, current_arguments, current_flat, current_nested, old_names, sentence
from .settings_file import checked, read_file, wrong_file
from .stopping import stop

PRESETS = Path(__file__).parents[1] / "presets"
# what may differ when a run is resumed: nothing that changes the mathematics
FREE = ("max_hours", "device", "threads", "text_encoders", "log", "rewards.batch")
FREE += ("rewards.address", "backbone.batch", "backbone.decode_batch", "backbone.compile")
FREE += ("grpo.patience", "backbone.comfyui")
# where something lies: what it is counts, not where
PLACES = ("data.folder", "data.train", "data.validation", "backbone.path", "rewards.clip_model")
PLACES += ("backbone.workflow", "backbone.checkpoint")
PLACES += ("rewards.image_reward_path", "rewards.image_reward_tokenizer", "rewards.hps_path")
PLACES += ("rewards.hps_tokenizer", "rewards.pick_path", "rewards.pick_processor")
PLACES += ("rewards.plugin",)
# not on record where they are empty: an older trainer knew none of them
NEWER = ("backbone.workflow", "backbone.node", "backbone.checkpoint", "backbone.sampler")
NEWER += ("backbone.scheduler", "rewards.plugin")


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
    first.add_argument("--config", action="append", default=[])
    known, _ = first.parse_known_args(arguments)
    files = []
    if known.preset is not None:
        if known.preset not in preset_names():
            names = ", ".join(preset_names())
            stop(prog, f"--preset is {known.preset!r}, expected one of {names}.")
        files = [PRESETS / f"{known.preset}.yaml"]
    elif base is not None:
        files = [base]
    for path in [*files, *map(Path, known.config)]:
        if wrong := wrong_file(path):
            stop(prog, wrong)
    old = old_names([word[2:].partition("=")[0] for word in arguments if word[:2] == "--"])
    old += [
        name for path in [*files, *map(Path, known.config)] for name in old_names(names_in(path))
    ]
    if old:
        print(f"{prog}: {sentence(old)}", file=sys.stderr)
    arguments = current_arguments(arguments)
    parser = parser_of(prog, description, more)
    # jsonargparse takes these for patterns, and a pattern without a file for nothing
    parser.default_config_files = [glob.escape(str(path.absolute())) for path in files]
    try:
        namespace = parser.parse_args(arguments)
        made = parser.instantiate(namespace)
        config = Config(**{name: getattr(made, name) for name in field_names(Config)})
    except Exception as error:  # argparse, jsonargparse and yaml each have their own
        said = readable(str(error))
        own = base if known.preset is None else None
        stop(prog, next((f"{p}: {said}" for p in blamed(said, arguments, own, known.config)), said))
    rest = {k: v for k, v in vars(namespace).items() if k not in field_names(Config)}
    return config, argparse.Namespace(**rest)


@cache
def parser_of(prog: str, description: str, more: Callable | None) -> ArgumentParser:
    """The parser of a command: all settings, and the options that `more` adds."""
    set_loader("settings", read_yaml, (yaml.YAMLError,))
    parser = ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        parser_mode="settings",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--preset", help=f"one of {', '.join(preset_names())}")
    parser.add_argument("--config", action="config", help="YAML file laid over the preset")
    if more:
        more(parser)
    parser.add_class_arguments(Config)
    return parser


def blamed(
    said: str, arguments: list[str], base: Path | None, configs: list[str]
) -> Iterator[Path]:
    """The file that a sentence about a setting is about, where the command line does not name it;
    of several the last, which has the last word."""
    found = re.match(r"(?:The setting )?(\S+) ", said)
    if not found or any(word.startswith(f"--{found[1]}") for word in arguments):
        return
    for path in reversed([*([base] if base else []), *map(Path, configs)]):
        names = [current(name) for name in names_in(path)]
        if any(f"{found[1]}.".startswith(f"{name}.") for name in names):
            yield path


def read_yaml(text: str) -> object:
    """jsonargparse's own reading of a file or a value, with the settings' names of today."""
    checked(text)
    return current_nested(get_loader("yaml")(text))


def names_in(path: Path) -> list[str]:
    """The dotted names of the settings in a file."""
    return list(flat(read_file(path)))


@cache
def preset_names() -> list[str]:
    """The files of training/presets that name a backbone; the others are overlays."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml") if "name" in backbone_of(path))


def backbone_of(path: Path) -> dict:
    """Raises ValueError where the file cannot be read."""
    found = read_file(path).get("backbone")
    return found if isinstance(found, dict) else {}


def readable(message: str) -> str:
    """A parser's complaint in one sentence: what a setting may be by its own rule, the nearest name
    where there is no such setting."""
    line = " ".join(message.split())
    value = r"(?:Got value:|Given value:|Unable to load) ?(.*)"
    wrong = re.match(rf'Parser key "([\w.]+)"[^:]*: .*{value}', line)
    if wrong and (expected := expected_of(wrong[1])):
        value = re.sub(r"^config \"(.*)\"$", r"\1", wrong[2].rstrip("."))
        return f"{wrong[1]} is {value or 'empty'}, expected {expected}."
    kind = re.search(r"Expected an? <class '(\w+)'>", line)
    if wrong and kind:  # an option beside the settings
        expected = {"float": "a number", "int": "a whole number"}.get(kind[1], f"a {kind[1]}")
        value = wrong[2].rstrip(".")
        return f"--{wrong[1]} is {value or 'empty'}, expected {expected}."
    found = re.search(r"unrecognized arguments: --([\w.]+)", line)
    found = found or re.search(r"Option '([^']+)' is not accepted", line)
    inner = re.search(r"Group '([\w.]+)' does not accept (?:option|nested key) '([^']+)'", line)
    name = found[1] if found else f"{inner[1]}.{inner[2]}" if inner else ""
    if not name:
        return line if line.endswith(".") else line + "."
    every = dotted(Config)
    leaf = name.split(".")[-1]
    near = difflib.get_close_matches(name, every, 1, 0.6)
    near = [n for n in every if n.split(".")[-1] == leaf] or near
    hint = f"did you mean {near[0]}?" if near else "--help lists all."
    return f"The setting {name} does not exist; {hint}"


def expected_of(name: str) -> str:
    """What a setting may be, for a sentence; "" for one that is not of Config."""
    cls: type = Config
    *sections, leaf = name.split(".")
    if sections[:2] == ["rewards", "weights"]:
        return f"a number for the weight of {leaf}"
    for section in sections:
        kinds = typing.get_type_hints(cls)
        if not dataclasses.is_dataclass(cls := kinds.get(section, str)):
            return ""
    if leaf not in field_names(cls):
        return ""
    rule = rule_of(cls, leaf)
    return rule.expected if rule else f"its settings, each by a name of its own like {name}.NAME"


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


def canonical(values: dict[str, object]) -> dict[str, object]:
    """Dotted settings as far as they change the mathematics, each in one form: a checkpoint of an
    older trainer has what was written, a new one what config.py makes of it."""
    values = current_flat(values)
    free = FREE + PLACES
    out = {k for k in values if any(k == f or k.startswith(f + ".") for f in free)}
    own = {k: v for k, v in values.items() if k not in out and (v or k not in NEWER)}
    weights = own["rewards.weights"]
    # a noise of weight 0 is on record in every run, named or not
    own["rewards.weights"] = {k: float(v) for k, v in weights.items() if v or k != "noise"}
    if isinstance(own["steps"], list) and len(own["steps"]) == 1:
        own["steps"] = own["steps"][0]
    return own


def binding(config: Config) -> dict[str, object]:
    """The settings that a resumed run must share with the one before; what lies at the places that
    they name is compared by identity.py and by the prompts' own hash."""
    values = canonical(flat(as_dict(config)))
    if config.grpo.lr_schedule == "constant":
        values.pop("iterations")  # a longer run begins like a shorter one
    return values


def place_names(config: Config) -> dict[str, object]:
    """Where the weights lie, and what of `NEWER` is a place where it is given."""
    values = flat(as_dict(config))
    names = [name for name in PLACES if not name.startswith("data.")]
    return {name: values[name] for name in names if values[name] or name not in NEWER}


def config_sha256(config: Config) -> str:
    """Of the binding settings and the hub ids; a local place is left out, it says nothing."""
    hub = {name: "" if Path(str(w)).exists() else w for name, w in place_names(config).items()}
    text = json.dumps({**binding(config), **hub}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
