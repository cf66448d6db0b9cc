"""Refuses in one sentence to start where Python is too old or a package is missing.

    require("train_tpm.py")               # before anything else is imported
    require_for("train_tpm.py", config)   # what the model and the rewards need beyond that

Imports nothing but Python's own, and is written so that an old Python can read it too.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .stopping import stop

if TYPE_CHECKING:
    from .config import Config

PYTHON = (3, 10)
# what every command imports, and what some models and rewards import: module -> package
AT_ONCE = {
    "torch": "torch",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "jsonargparse": "jsonargparse",
    "rich": "rich",
}
MODELS = {
    "torchvision": "torchvision",
    "transformers": "transformers",
    "diffusers": "diffusers",
    "huggingface_hub": "huggingface_hub",
}
INSTALL = "pip install -e '.[train]'"
ROOT = Path(__file__).resolve().parents[2]


def require(command: str, version: tuple | None = None) -> None:
    """Exits with code 2 and one sentence where the command cannot run in this Python."""
    version = tuple(version or sys.version_info[:3])
    if version < PYTHON:
        found, wanted = (".".join(map(str, v)) for v in (version, PYTHON))
        stop(command, f"this Python is {found}, expected {wanted} or newer; run a newer one.")
    if missing(AT_ONCE):
        stop(command, sentence(missing({**AT_ONCE, **MODELS})))


def require_for(command: str, config: Config) -> None:
    """The same for what a Config names."""
    lacking = missing(modules_of(config))
    if lacking:
        stop(command, sentence(lacking))


def missing(modules: dict[str, str]) -> list[str]:
    """The packages that this Python lacks, of a table module -> package."""
    return [package for module, package in modules.items() if find_spec(module) is None]


def sentence(packages: list[str]) -> str:
    """What to do about packages that are missing."""
    names = " and ".join(filter(None, (", ".join(packages[:-1]), packages[-1])))
    verb = "is" if len(packages) == 1 else "are"
    return (
        f"{names} {verb} missing in {sys.executable}; run `{INSTALL}` in {ROOT}, best in an "
        "environment of its own."
    )


def modules_of(config: Config) -> dict[str, str]:
    """What the model and the rewards of a Config import beyond AT_ONCE: module -> package."""
    names = [] if config.backbone.name in ("tiny", "workflow") else ["diffusers", "transformers"]
    own = {"image_reward", "hps"} if config.rewards.backend == "own" else set()
    if (own | {"clip", "pick"}) & set(config.rewards.weights):
        names += ["transformers", "torchvision", "huggingface_hub"]
    return {name: MODELS[name] for name in dict.fromkeys(names)}
