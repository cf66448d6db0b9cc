"""What prepare.py does: lists every file that a preset needs, fetches what may be fetched."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..run.atomic import whole_file
from ..run.choice import names_a_model, preset_list
from ..run.console import Report
from ..run.settings import parse
from ..run.stopping import stop
from .needed_files import WHOLE, Need, is_here, needs, read_table
from .prompt_files import first_line, hub_table

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def octets(size: str) -> float | None:
    """Bytes of "1.79 GB"; None for unknown."""
    number, _, unit = size.partition(" ")
    return float(number) * UNITS[unit] if unit in UNITS else None


def listing(found: list[Need], here: Callable[[Need], bool]) -> str:
    """One block per source, one line per file, [x] where it is here."""
    lines, missing = [], []
    for source in dict.fromkeys(need.source for need in found):
        group = [need for need in found if need.source == source]
        gate = ", gated: accept it on its page" if group[0].gated else ""
        what = ", ".join(dict.fromkeys(need.what for need in group))
        lines.append(f"{page(group[0])}\n  {what}; licence {group[0].licence}{gate}")
        lines += [f"  {group[0].note}"] if group[0].note else []
        for need in group:
            there = here(need)
            missing += [] if there else [need]
            name = "(all of it)" if need.name == WHOLE else need.name
            lines.append(f"  [{'x' if there else ' '}] {name:62} {need.size:>12}")
    sizes = [octets(need.size) for need in missing]
    known = sum(size for size in sizes if size is not None)
    lines.append(
        f"{len(found) - len(missing)} of {len(found)} files are here"
        + (
            f"; missing {known / 1e9:.2f} GB and {sizes.count(None)} files of unknown size."
            if missing
            else "."
        )
    )
    return "\n".join(lines)


def page(need: Need) -> str:
    """Where a file is published, or the folder it is looked for in."""
    if need.at is not None or need.source.startswith("hub:"):
        return need.source
    return f"https://huggingface.co/{need.source}"


def fetch(
    found: Iterable[Need], cache: Path | None = None, report: Report | None = None
) -> tuple[list[Need], list[str]]:
    """Fetches what is missing; returns what came, and one sentence for each that could not be had.

    After a refusal the other files of a source are not tried, and no other of the hub's once the
    hub itself cannot be reached; a single file that a source lacks stops nothing.
    """
    got, failed, refused = [], [], set()
    found, report = list(found), report or Report(shown=False)
    report.begin("fetching", len(found))
    for i, need in enumerate(found):
        report.update(i, f"{need.source} {need.name} ({need.size})")
        home = "web" if need.at is not None else "hub"
        if is_here(need, cache) or {need.source, home} & refused:
            continue
        try:
            if need.at is None:
                from_hub(need, cache)
            elif need.url:
                from_web(need)
            else:
                raise FileNotFoundError("it is your own file")
            got.append(need)
        except Exception as error:  # network, disk and hub each have their own
            kind = type(error).__name__
            if kind in ("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError"):
                refused.add(home)
            elif "EntryNotFound" not in kind:
                refused.add(need.source)
            failed.append(advice(need, error))
    return got, failed


def from_hub(need: Need, cache: Path | None) -> None:
    """Into the cache, whole files only (huggingface_hub sees to that)."""
    import huggingface_hub

    if need.source.startswith("hub:"):
        hub_table(need.source, cached=False)
    elif need.name == WHOLE:
        huggingface_hub.snapshot_download(need.source, cache_dir=cache)
    else:
        huggingface_hub.hf_hub_download(need.source, need.name, cache_dir=cache)


def from_web(need: Need) -> None:
    """A prompt file to its place: downloaded beside it, checked, moved. Raises ValueError on
    another content than the table's."""
    import torch

    made = [p for p in (need.at.parent, *need.at.parent.parents) if not p.exists()]
    need.at.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(need.at) as temporary:
            if need.inside:
                # the archive stays until its last file is out, so that it is fetched once
                archive = need.at.parent / need.url.rsplit("/", 1)[-1]
                if not (archive.is_file() and zipfile.is_zipfile(archive)):
                    torch.hub.download_url_to_file(need.url, str(archive), progress=False)
                with zipfile.ZipFile(archive) as packed:
                    temporary.write_bytes(packed.read(need.inside))
            else:
                torch.hub.download_url_to_file(need.url, str(temporary), progress=False)
            found = hashlib.sha256(temporary.read_bytes()).hexdigest()
            if need.sha256 and found != need.sha256:
                raise ValueError(f"its sha256 is {found[:12]}..., expected {need.sha256[:12]}...")
    finally:
        with contextlib.suppress(OSError):  # nothing came: no empty folders
            for folder in made:
                folder.rmdir()


def advice(need: Need, error: Exception) -> str:
    """What failed and how to get it by hand."""
    name = "its files" if need.name == WHOLE else need.name
    what = f"{name} of {need.source} could not be fetched ({first_line(error)})"
    if need.gated:
        return (
            f"{what}: accept its licence at {page(need)}, log in with `hf auth login`, and run "
            f"this again, or set {need.setting} to a folder that holds it."
        )
    if need.url:
        return f"{what}: download {need.url} by hand and put {need.name} into {need.at.parent}."
    if need.at is not None:
        return f"{what}: put it there, or set {need.setting} to where it is."
    return f"{what}: get it from {page(need)} by hand and set {need.setting} to where it lies."


def options(parser) -> None:
    parser.add_argument("--fetch", action="store_true", help="fetch what is missing")
    parser.add_argument("--folder", type=str, default="", help="short for --data.folder")


def main(arguments: list[str] | None = None, about: str = "") -> int:
    """The exit code; about: the text above --help."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not names_a_model(arguments) and not {"-h", "--help"} & set(arguments):
        print(f"Presets:\n{preset_list()}")
        stop("prepare.py", "--preset is missing, expected for example --preset sd35_medium.")
    config, rest = parse(arguments, "prepare.py", about, options)
    if rest.folder:
        config = replace(config, data=replace(config.data, folder=rest.folder))
    found = needs(config, read_table())
    got, failed = [], []
    if rest.fetch:
        with Report() as report:
            got, failed = fetch(found, report=report)
    here = {need for need in found if need in got or is_here(need)}
    if found:
        print(listing(found, here.__contains__))
    else:
        print("Nothing to fetch: the model, its judge and its prompts come with the repository.")
    for sentence in failed:
        print(sentence, file=sys.stderr)
    return 0 if len(here) == len(found) else 1
