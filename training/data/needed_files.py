"""Which files a run opens that are not in this repository, and whether they are on this disk.

    for need in needs(config, read_table()):
        print(need.source, need.name, is_here(need))

The facts (size, licence, where published) are in data/files.yaml; a folder that a setting names is
looked into instead of the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from ...tpm.families import family_of
from ..run.config import Config

TABLE = Path(__file__).with_name("files.yaml")
HPS_FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
TOKENIZER = (
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
WHOLE = "*"  # all files of a repository that the table does not know


@dataclass(frozen=True)
class Need:
    """One file. `at` is where it lies or belongs on this disk, or None for the hub's cache."""

    what: str
    source: str  # hub id, page or folder
    name: str
    size: str = "unknown"
    licence: str = "unknown"
    gated: bool = False
    at: Path | None = None
    also: tuple[Path, ...] = ()  # other places where training looks
    url: str = ""  # of the file, or of the archive that holds it
    inside: str = ""  # its name in the archive
    sha256: str = ""
    setting: str = ""  # that names a local place
    note: str = ""  # about its source


def read_table() -> dict:
    return yaml.safe_load(TABLE.read_text("utf-8"))


def needs(config: Config, table: dict) -> list[Need]:
    """Every file that a run with these settings opens, once; nothing for the embedded model."""
    found: list[Need] = []
    b, r = config.backbone, config.rewards
    if published := family_of(b.name).hub_id:
        source = b.path or published
        found += repository(table, source, f"backbone {b.name}", "backbone.path", like=published)
    own = list(r.weights)  # the worker of the packages reads the same files
    if "image_reward" in own:
        found += one_file(
            table,
            r.image_reward_path,
            "THUDM/ImageReward",
            "ImageReward.pt",
            "reward image_reward",
            "rewards.image_reward_path",
        )
        found += repository(
            table,
            r.image_reward_tokenizer,
            "vocabulary of image_reward",
            "rewards.image_reward_tokenizer",
        )
    if "hps" in own:
        found += one_file(
            table,
            r.hps_path,
            "xswu/HPSv2",
            HPS_FILES[r.hps_version],
            "reward hps",
            "rewards.hps_path",
        )
        if r.backend == "own":  # the package has its own
            found += repository(
                table, r.hps_tokenizer, "tokenizer of hps", "rewards.hps_tokenizer", only=TOKENIZER
            )
    if "clip" in own:
        found += repository(
            table,
            r.clip_model,
            "reward clip",
            "rewards.clip_model",
            like="openai/clip-vit-large-patch14",
        )
    if "pick" in own:
        found += repository(
            table,
            r.pick_path,
            "reward pick",
            "rewards.pick_path",
            like="yuvalkirstain/PickScore_v1",
        )
        found += repository(
            table,
            r.pick_processor,
            "processor of pick",
            "rewards.pick_processor",
            like="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        )
    if r.plugin:
        at, setting = Path(r.plugin), "rewards.plugin"
        found.append(Need("reward plugin", str(at.parent), at.name, at=at, setting=setting))
    found += prompt_needs(config, table)
    once: dict[tuple[str, str], Need] = {}
    for need in found:
        once.setdefault((need.source, need.name), need)
    return list(once.values())


def repository(
    table: dict, where: str, what: str, setting: str, like: str = "", only: tuple[str, ...] = ()
) -> list[Need]:
    """The files of a hub id, or of a folder in the layout of `like`."""
    folder = Path(where) if Path(where).is_dir() else None
    known = table["repositories"].get(where, {})
    layout = known or (table["repositories"].get(like, {}) if folder else {})
    names = [n for n in layout.get("files", {}) if not only or n in only] or [WHOLE]
    return [
        Need(
            what,
            where,
            name,
            layout.get("files", {}).get(name, "unknown") if known else "unknown",
            known.get("licence", "unknown"),
            known.get("gated", False),
            at=folder and (folder if name == WHOLE else folder / name),
            setting=setting,
            note=known.get("note", ""),
        )
        for name in names
    ]


def one_file(table: dict, path: str, repo: str, name: str, what: str, setting: str) -> list[Need]:
    """A single file of a repository, or the local one that a setting names."""
    if path:
        return [Need(what, str(Path(path).parent), Path(path).name, at=Path(path), setting=setting)]
    known = table["repositories"][repo]
    return [
        Need(
            what,
            repo,
            name,
            known["files"][name],
            known["licence"],
            known["gated"],
            setting=setting,
        )
    ]


def prompt_needs(config: Config, table: dict) -> list[Need]:
    """The files of data.set."""
    d = config.data
    if d.set == "file":
        named = (("data.train", d.train), ("data.validation", d.validation))
        return [
            Need("prompts", path, WHOLE, setting=setting)
            if path.startswith("hub:")
            else Need(
                "prompts", str(Path(path).parent), Path(path).name, at=Path(path), setting=setting
            )
            for setting, path in named
            if path
        ]
    if d.set not in table["prompts"]:
        return []
    known = table["prompts"][d.set]
    folder, inside = Path(d.folder), known.get("inside", "")
    return [
        Need(
            f"prompts {d.set}",
            known["page"],
            name,
            facts["size"],
            known["licence"],
            at=folder / name,
            also=(folder / (inside or "examples/dataset") / name,),
            url=known.get("archive") or known["raw"] + name,
            inside=inside + name if inside else "",
            sha256=facts.get("sha256", ""),
            setting="data.folder",
            note=known.get("note", ""),
        )
        for name, facts in known["files"].items()
    ]


def is_here(need: Need, cache: Path | None = None) -> bool:
    """Whether the file lies on this disk: at its place, or in the hub's cache (default: the
    user's). A whole repository that the table does not know is never known to be complete."""
    if need.at is not None:
        places = (need.at, *need.also)
        return any(p.is_dir() or (p.is_file() and p.stat().st_size > 0) for p in places)
    if need.name == WHOLE:
        return False
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(need.source, need.name, cache_dir=cache), str)
