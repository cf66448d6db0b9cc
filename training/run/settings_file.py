"""Files of settings, in YAML: the one place that opens them, and what is wrong with one before any
setting is looked at.

    wrong_file(path)        # a sentence, or ""
    read_file(path)         # the settings, sections inside each other

A file is small, every key is a name, and what its aliases stand for is counted: ten lines of YAML
can stand for a billion values, and one for itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import yaml

from .config import Config
from .ranges import shown
from .renamed import current

LARGEST = 65_536  # bytes; all settings written out are 2,000
VALUES = 20_000  # of a file, aliases written out
DEPTH = 8  # sections and lists inside each other
DIGITS = 100
TOO_MUCH = (
    f"stands for more than {VALUES:,} values, or for lists within lists, expected settings like "
    "`grpo: {lr: 1.0e-5}`; write aliases out."
)
TAG = "tag:yaml.org,2002:"
KINDS = {f"{TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
KINDS |= {f"{TAG}timestamp"}  # refused by the setting's own rule
SECTIONS = {
    field.name
    for field in dataclasses.fields(Config)
    if dataclasses.is_dataclass(field.default_factory)
}


class SettingsFileError(yaml.YAMLError, ValueError):
    """What is wrong with a file, without its name: " line 3 ..."."""


def read_file(path: Path) -> dict:
    """The settings of a file, {} where it holds none by name. Raises ValueError of one sentence."""
    if wrong := unreadable(path):
        raise ValueError(wrong)
    found = yaml.safe_load(path.read_text("utf-8"))
    return found if isinstance(found, dict) else {}


def unreadable(path: Path) -> str:
    """Why a file cannot be read, or ""."""
    if not path.is_file():
        return f"{path} is no file, expected settings in YAML; check the path of --config."
    if (size := path.stat().st_size) > LARGEST:
        return f"{path} has {size:,} bytes, expected settings in YAML, at most {LARGEST:,}."
    try:
        checked(path.read_text("utf-8"))
    except SettingsFileError as error:
        return f"{path}{error}"
    except (OSError, UnicodeDecodeError, RecursionError, ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        kind = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "not YAML"
        return f"{path}{line} is {kind}, expected settings like `grpo: {{lr: 1.0e-5}}`."
    return ""


def checked(text: str) -> yaml.Node | None:
    """The nodes of a text. Raises SettingsFileError on what no setting needs."""
    if len(text) > LARGEST:
        raise SettingsFileError(f" has {len(text):,} characters, expected at most {LARGEST:,}.")
    check_depth(text)
    root, count = yaml.compose(text, yaml.SafeLoader), 0
    for node, depth in walk(root):
        count += 1
        line = f" line {node.start_mark.line + 1}"
        if count > VALUES or depth > DEPTH:
            raise SettingsFileError(f"{line} {TOO_MUCH}")
        if node.tag not in KINDS:
            raise SettingsFileError(
                f"{line} has a value of the kind {shown(node.tag.removeprefix(TAG))}, expected "
                "numbers, words, and lists of them."
            )
        if isinstance(node, yaml.ScalarNode):
            check_scalar(node, line)
    return root


def check_depth(text: str) -> None:
    """Raises SettingsFileError on lists within lists before they are composed, which would take a
    second for a thousand."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise SettingsFileError(f" line {event.start_mark.line + 1} {TOO_MUCH}")


def check_scalar(node: yaml.ScalarNode, line: str) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError:
        raise SettingsFileError(f"{line} holds half of a surrogate pair; mend it.") from None
    if node.tag == f"{TAG}int" and len(node.value) > DIGITS:
        raise SettingsFileError(f"{line} has a number of {len(node.value):,} digits, expected one.")
    try:
        yaml.SafeLoader("").construct_object(node)
    except (ValueError, OverflowError):  # the 99th of a month
        raise SettingsFileError(f"{line} is {shown(node.value)}, expected a value.") from None


def walk(root: yaml.Node | None) -> Iterator[tuple[yaml.Node, int]]:
    """(value, depth) of every value, as often as it is named. Raises SettingsFileError on a key
    that is no name."""
    left = [(root, 0)] if root is not None else []
    while left:
        node, depth = left.pop()
        yield node, depth
        if isinstance(node, yaml.SequenceNode):
            left += [(value, depth + 1) for value in reversed(node.value)]
        if isinstance(node, yaml.MappingNode):
            for key, _ in node.value:
                if key.tag != f"{TAG}str":
                    given = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list"
                    raise SettingsFileError(
                        f" line {key.start_mark.line + 1} has the key {given}, expected the "
                        "name of a setting."
                    )
            left += [(value, depth + 1) for _, value in reversed(node.value)]


def wrong_file(path: Path) -> str:
    """What is wrong with a file of settings before any of them is looked at, or "". A key that is
    named twice would lose its first half without a word."""
    if wrong := unreadable(path):
        return wrong
    root = yaml.compose(path.read_text("utf-8"), yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return f"{path} holds no settings by name, expected lines like `iterations: 100`."
    nodes = [("", root)]
    for prefix, node in nodes:
        seen = set()
        for key, value in node.value:
            name, line = current(f"{prefix}{key.value}"), key.start_mark.line + 1
            if name in seen:
                return f"{path} line {line} names {name} a second time, expected it once."
            if name in SECTIONS and not isinstance(value, yaml.MappingNode):
                given = shown(value.value) if isinstance(value, yaml.ScalarNode) else "a list"
                given = "empty" if given == "''" else given
                return (
                    f"{path} line {line}: {name} is {given}, expected "
                    f"its settings by name, like `{name}: {{NAME: VALUE}}`."
                )
            seen.add(name)
            nodes += [(f"{name}.", value)] if isinstance(value, yaml.MappingNode) else []
    return ""
