"""What lies at the places that the settings name: a run may go on where its files have moved.

    identities(config, {})  # {"backbone.path": {"hub": "", "files": {"vae.safetensors": "3f0c.."}}}

Only what a run reads is looked at, and only files that its loaders take: safetensors before other
weights, no fp16 variants, of JSON the content without the version that wrote it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ...tpm.families import family_of
from ..run.config import Config
from ..run.phase import phase
from ..run.workflow import read_workflow, told
from ..tiny.backbone import FILES
from ..tiny.backbone import WEIGHTS as EMBEDDED
from .needed_files import HPS_FILES, TOKENIZER

WHOLE_FILE = 2**26  # bytes: smaller files are hashed to the last one
BLOCK, BLOCKS = 2**20, 64
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
OTHER = (".json", ".txt", ".model", ".jinja")
STAMPS = ("_name_or_path", "_diffusers_version", "transformers_version")
TEXT = (*TOKENIZER, "preprocessor_config.json")


def identities(
    config: Config, weights: Mapping[tuple[str, str], list[Path]] | None = None
) -> dict[str, dict]:
    """Setting -> its hub id, or "" for a local place, and its files, as far as they are on this
    disk: name -> fingerprint. Call it after loading, when what the hub gives is in its cache.
    weights: node and input of a workflow -> the files that it names."""
    b, r = config.backbone, config.rewards
    backbone = b.path or family_of(b.name).hub_id or str(EMBEDDED)
    known = {}
    if b.checkpoint:
        known["backbone.checkpoint"] = place(b.checkpoint, ("checkpoint",))
    elif b.name == "workflow":
        known["backbone.workflow"] = place_of_workflow(b.workflow, weights or {})
    else:
        known["backbone.path"] = place(backbone, FILES if b.name == "tiny" else ())
    if "image_reward" in r.weights:
        path = r.image_reward_path or "THUDM/ImageReward"
        known["rewards.image_reward_path"] = place(path, ("ImageReward.pt",))
        known["rewards.image_reward_tokenizer"] = place(r.image_reward_tokenizer, TEXT)
    if "hps" in r.weights:
        known["rewards.hps_path"] = place(r.hps_path or "xswu/HPSv2", (HPS_FILES[r.hps_version],))
        known["rewards.hps_tokenizer"] = place(r.hps_tokenizer, TEXT)
    if "clip" in r.weights:
        known["rewards.clip_model"] = place(r.clip_model)
    if "pick" in r.weights:
        known["rewards.pick_path"] = place(r.pick_path)
        known["rewards.pick_processor"] = place(r.pick_processor, TEXT)
    if r.plugin:
        known["rewards.plugin"] = place(r.plugin, ("code",))
    return known


def place(where: str, names: tuple[str, ...] = ()) -> dict:
    """One place. names: the only files that are read there; a single file has the first's."""
    path = Path(where)
    phase(f"comparing the files of {where}")
    if path.is_file():
        return {"hub": "", "files": {names[0]: fingerprint(path)}}
    folder = path if path.is_dir() else cached(where, names)
    files = {} if folder is None else files_of(folder, names)
    prints = {name: fingerprint(file) for name, file in sorted(files.items())}
    return {"hub": "" if path.is_dir() else where, "files": prints}


def place_of_workflow(where: str, weights: Mapping[tuple[str, str], list[Path]]) -> dict:
    """A workflow with the weights that it names, by their content: a file of weights may have
    moved to another name."""
    graph, prints = read_workflow(where), {}
    for (name, slot), files in weights.items():
        graph[name]["inputs"][slot] = ""
        for number, file in enumerate(files, start=1):
            phase(f"comparing the files of {file}")
            label = f"{slot} of {told(graph, name)}" + (f", {number}" if len(files) > 1 else "")
            prints[label] = fingerprint(file)
    workflow = hashlib.sha256(plain_json(json.dumps(graph).encode())).hexdigest()
    return {"hub": "", "files": {"workflow.json": workflow, **prints}}


def cached(repository: str, names: tuple[str, ...]) -> Path | None:
    """The folder of a hub id in the hub's cache, found by a file that it must have."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for name in names or ("model_index.json", "config.json"):
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found).parent
    return None


def files_of(folder: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Name -> file of what a loader takes from a folder: of a pipeline its parts, else the folder
    itself."""
    index = folder / "model_index.json"
    parts = [folder]
    if index.is_file() and not names:
        listed = json.loads(index.read_text("utf-8"))
        parts += [folder / name for name, made in listed.items() if isinstance(made, list)]
    found = {}
    for part in parts:
        inside = [path for path in part.glob("*") if path.is_file() and ".fp16." not in path.name]
        if names:
            inside = [path for path in inside if path.name in names]
        elif len(parts) > 1 and part == folder:
            inside = [index]  # the rest of a pipeline's top folder is for other programs
        kinds = OTHER + (WEIGHTS[:1] if any(p.suffix == WEIGHTS[0] for p in inside) else WEIGHTS)
        for path in inside:
            if path.suffix in kinds:
                found[path.relative_to(folder).as_posix()] = path
    return found


def fingerprint(path: Path) -> str:
    """Hex digest of a file's content.

    Up to 64 MiB it is the sha256 of all bytes. Of a larger file it covers the size, the first and
    the last MiB (the header of a safetensors file, with every name, type and shape, is in the
    first) and 62 blocks of a MiB spread evenly between them: a second for 20 GB instead of a
    minute or more. Another training or another precision changes weights everywhere and is seen; a
    few bytes that somebody edits between two blocks are not.
    """
    size = path.stat().st_size
    if path.suffix == ".json":
        return hashlib.sha256(plain_json(path.read_bytes())).hexdigest()
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE_FILE:
            while block := file.read(BLOCK):
                found.update(block)
        else:
            for i in range(BLOCKS):
                file.seek((size - BLOCK) * i // (BLOCKS - 1))
                found.update(file.read(BLOCK))
    return found.hexdigest()


def plain_json(data: bytes) -> bytes:
    """The values alone: no order, no white space, not the program that saved them."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key not in STAMPS}
    return json.dumps(value, sort_keys=True).encode()


def difference(before: dict, now: dict) -> str:
    """What is not the same at a place, for a sentence ("its vae.safetensors has ..."), or ""."""
    if before["hub"] and before["hub"] == now["hub"]:
        return ""
    old, new = before["files"], now["files"]
    if not old or not new:
        was = before["hub"] or "a local folder"
        return f"which cannot be compared with {was}, where that run had it from"
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            return f"which lacks {name}"
        if name not in old:
            return f"which has a {name} that was not there"
        if old[name] != new[name]:
            return f"whose {name} has another content"
    return ""
