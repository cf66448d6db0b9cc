"""Readers of prompt files: COCO captions, T2I-CompBench, .txt, .jsonl, .csv, folders and the hub.

    prompts = read_prompts("prompts.jsonl", column="prompt")

Every text is one line: white space at the ends goes, white space inside (line ends too, of which
COCO has some) becomes one space, and what is empty then is left out. Files are UTF-8, with or
without a byte order mark; a file that is not as expected is named with its line.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..run.offline import offline

T2I_CATEGORIES = (
    "color",
    "shape",
    "texture",
    "spatial",
    "3d_spatial",
    "numeracy",
    "non_spatial",
    "complex",
)
COCO_FILES = {"train": "captions_train2014.json", "val": "captions_val2014.json"}
FORMS = ".txt, .jsonl, .csv, COCO .json, a folder of .txt, or hub:<id>:<split>:<column>"


class PromptError(ValueError):
    """Prompts that cannot be had; the message is one sentence: found, expected, what to do."""


@dataclass(frozen=True)
class Prompt:
    """One prompt. category: of T2I-CompBench, or the file's name in a folder."""

    text: str
    category: str = ""


def clean(text: object, where: str) -> str:
    """One line of text. Raises PromptError on anything but text that UTF-8 can hold."""
    if not isinstance(text, str):
        raise PromptError(f"{where} is {str(text)[:40]!r}, expected text; mend or drop it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PromptError(f"{where} holds half of a surrogate pair; mend or drop it.") from None
    return " ".join(text.split())


def kept(items: Iterable[tuple[object, str]], category: str = "") -> list[Prompt]:
    """Prompts of (text, where it was found), without the empty ones."""
    texts = (clean(text, where) for text, where in items)
    return [Prompt(text, category) for text in texts if text]


def text_of(path: Path) -> str:
    """The whole file, line ends as \\n. Raises PromptError naming the line that is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PromptError(
            f"{path} cannot be read ({error.strerror or error}), expected a file of prompts."
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PromptError(
            f"{path} line {line} is not UTF-8, expected a file in UTF-8; save it as that."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_txt(path: Path, category: str = "") -> list[Prompt]:
    """One prompt a line; \\r\\n and a last line without an end are both fine."""
    lines = text_of(path).split("\n")
    return kept(((line, f"{path} line {i}") for i, line in enumerate(lines, 1)), category)


def read_jsonl(path: Path, column: str) -> list[Prompt]:
    """One JSON object a line, its `column` the prompt; a line that is a JSON string is one too."""
    items = []
    for i, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {i}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise PromptError(
                f"{where} is not JSON, expected an object like {{{json.dumps(column)}: ...}}."
            ) from None
        if isinstance(value, dict):
            if column not in value:
                raise PromptError(
                    f"{where} has the keys {', '.join(value) or 'of nothing'}, expected "
                    f"{column!r}; set data.column to the key of the prompt."
                )
            value = value[column]
        items.append((value, where))
    return kept(items)


def read_csv(path: Path, column: str) -> list[Prompt]:
    """The named column; the first row names the columns."""
    text = text_of(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    items = []
    try:
        names = reader.fieldnames or []
        if column not in names:
            raise PromptError(
                f"{path} line 1 names the columns {', '.join(names) or 'of nothing'}, expected "
                f"{column!r} among them; set data.column to the column of the prompt."
            )
        for row in reader:
            where = f"{path} line {reader.line_num}"
            if row[column] is None:
                raise PromptError(f"{where} has no column {column!r}, expected as many as line 1.")
            items.append((row[column], where))
    except csv.Error as error:
        line = min(reader.line_num + 1, text.count("\n") + 1)  # it counts what it has finished
        raise PromptError(
            f"{path} line {line} is not CSV ({error}), expected RFC 4180: quotes "
            "around a text with commas, doubled inside it."
        ) from None
    return kept(items)


def read_coco(path: Path) -> list[tuple[int, str]]:
    """(annotation id, caption) by rising id, from a captions_*.json of COCO."""
    try:
        data = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise PromptError(
            f"{path} line {line} is not JSON, expected COCO captions; it may be a part of a "
            "download, fetch it again."
        ) from None
    rows = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise PromptError(
            f"{path} has no list 'annotations', expected COCO captions "
            "(annotations: id, image_id, caption); take captions_train2014.json."
        )
    captions: dict[int, str] = {}
    for i, row in enumerate(rows):
        number = row.get("id") if isinstance(row, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or "caption" not in row:
            raise PromptError(
                f"{path} annotation {i} has no whole 'id' or no 'caption', expected COCO captions; "
                "an instances_*.json is not one of them."
            )
        if number in captions:
            raise PromptError(f"{path} has two annotations with id {number}, expected one.")
        captions[number] = clean(row["caption"], f"{path} annotation {number}")
    return sorted((number, text) for number, text in captions.items() if text)


def read_folder(path: Path) -> list[Prompt]:
    """All .txt of a folder by name, the file's stem as category."""
    files = sorted(path.glob("*.txt"))
    if not files:
        raise PromptError(f"{path} is a folder without .txt files, expected {FORMS}.")
    return [prompt for file in files for prompt in read_txt(file, file.stem)]


def hub_address(where: str) -> tuple[str, str, str]:
    """(id, split, column) of hub:<id>:<split>:<column>."""
    parts = where.split(":")
    if len(parts) < 4 or not all(parts[i] for i in (1, 2, -1)):
        raise PromptError(
            f"{where!r} is no address on the hub, expected hub:<id>:<split>:<column>, for example "
            "hub:someone/captions:train:text."
        )
    return parts[1], ":".join(parts[2:-1]), parts[-1]


def hub_table(where: str, cached: bool = True):
    """The table of an address on the hub, out of the cache of datasets, or fetched."""
    name, split, _ = hub_address(where)
    try:
        import datasets
    except ImportError:
        raise PromptError(
            f"{where} needs the package datasets, which is not installed; install it, or download "
            f"the prompts and name the file ({FORMS})."
        ) from None
    with offline() if cached else contextlib.nullcontext():
        return datasets.load_dataset(name, split=split)


def read_hub(where: str) -> list[Prompt]:
    """hub:<id>:<split>:<column> out of the cache of the package datasets: the network is not asked.
    The split may be a slice."""
    column = hub_address(where)[2]
    try:
        table = hub_table(where)
    except PromptError:
        raise
    except Exception as error:  # absent, and unknown names, each have their own
        raise PromptError(
            f"{where} is not in the cache of datasets ({first_line(error)}); check the id and "
            "split and fetch it with `python training/prepare.py --fetch` and the settings of the "
            "run, or download the prompts and name the file."
        ) from error
    if column not in table.column_names:
        raise PromptError(
            f"{where} has the columns {', '.join(table.column_names)}, expected {column!r} among "
            "them; name the prompt's column last."
        )
    return kept((text, f"{where} row {i}") for i, text in enumerate(table[column]))


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def read_prompts(where: str, column: str = "prompt") -> list[Prompt]:
    """Prompts of a file, folder or hub address, in its order. Raises PromptError, also on none."""
    path = Path(where)
    if where.startswith("hub:"):
        prompts = read_hub(where)
    elif path.is_dir():
        prompts = read_folder(path)
    elif not path.exists():
        raise PromptError(f"{where} does not exist, expected {FORMS}; check the path.")
    elif path.suffix.lower() == ".txt":
        prompts = read_txt(path)
    elif path.suffix.lower() == ".jsonl":
        prompts = read_jsonl(path, column)
    elif path.suffix.lower() == ".csv":
        prompts = read_csv(path, column)
    elif path.suffix.lower() == ".json":
        prompts = [Prompt(text) for _, text in read_coco(path)]
    else:
        raise PromptError(f"{where} ends in {path.suffix or 'nothing'}, expected {FORMS}.")
    if not prompts:
        raise PromptError(f"{where} holds no prompt, expected at least one.")
    return prompts
