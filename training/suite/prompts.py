"""The prompts of the suite, each with the words that AsynDM delays and a strength.

read_set("animal", checkout)     # config/prompt of hu-zijing/AsynDM
read_set("my_prompts.txt")       # a prompt a line: a *cat* beside a *dog*
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

PAPER = ("animal", "drawbench", "geneval", "mscoco")
SCENES = Path(__file__).with_name("scenes.txt")  # what the embedded model knows
STRENGTH = 0.5  # the sampler node's own
MARKED = re.compile(r"\*([^*]+)\*")


@dataclass(frozen=True)
class Prompt:
    """One prompt, the words of its region, and the strength that its set lists (item_k)."""

    text: str
    words: tuple[str, ...]
    strength: float


def set_names(wanted: list[str], checkout: str, embedded: bool) -> list[str]:
    """The sets that are asked for, or those that there are: of the paper with a checkout of it, the
    embedded model's own. Raises ValueError where there is none."""
    if not wanted and not checkout and not embedded:
        raise ValueError(
            "--asyndm and --sets are empty, expected a checkout of hu-zijing/AsynDM, whose prompt "
            "sets are taken, or a file of prompts; give --asyndm FOLDER or --sets FILE.txt."
        )
    return list(dict.fromkeys(wanted)) or (list(PAPER) if checkout else [str(SCENES)])


def read_set(name: str, checkout: str = "") -> list[Prompt]:
    """A file of prompts, or a set of the official repository by its name. Raises ValueError."""
    if name.endswith(".txt"):
        return read_lines(Path(name))
    if not checkout:
        raise ValueError(
            f"--sets names {name} and --asyndm is empty, expected the checkout of hu-zijing/AsynDM "
            "that has this set; give --asyndm FOLDER, or a file --sets FILE.txt."
        )
    return read_official(Path(checkout), name)


def read_lines(path: Path) -> list[Prompt]:
    """A prompt a line, its words between asterisks. Raises ValueError where there is none."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        lines = []
    if not lines:
        raise ValueError(
            f"--sets names {path}, where no prompts can be read, expected a text file with one in "
            "each line, its words between asterisks: a *cat* beside a *dog*."
        )
    for line in lines:
        if not MARKED.search(line):
            raise ValueError(
                f"{path} has no words between asterisks in {line!r}, expected those that AsynDM "
                "delays, as in: a *cat* beside a *dog*."
            )
    return [
        Prompt(line.replace("*", ""), tuple(dict.fromkeys(MARKED.findall(line))), STRENGTH)
        for line in lines
    ]


def read_official(checkout: Path, name: str) -> list[Prompt]:
    """config/prompt/NAME.json and NAME_item.json of the official repository. Raises ValueError
    where a file or an entry is missing."""
    folder = checkout / "config" / "prompt"
    texts, items = (read_json(folder / f"{name}{end}.json") for end in ("", "_item"))
    prompts = []
    for text in texts:
        try:
            places, strengths = items["item_idx"][text], items["item_k"][text]
            words = split_words(text)
            nouns = tuple(dict.fromkeys(words[place] for place in places))
            prompts.append(Prompt(text, nouns, float(max(strengths))))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / name}_item.json has no usable item_idx and item_k for {text!r} "
                f"({error!r}), expected those of an unchanged checkout of hu-zijing/AsynDM; give "
                "one by --asyndm."
            ) from error
    return prompts


def split_words(text: str) -> list[str]:
    """What item_idx counts: words without punctuation, the parts of a hyphenated one each."""
    return re.findall(r"\w+(?:'\w+)*", text)


def read_json(path: Path) -> list | dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); --asyndm takes a checkout of hu-zijing/AsynDM, "
            "whose prompt sets lie in config/prompt."
        ) from error
