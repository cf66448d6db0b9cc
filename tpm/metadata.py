"""What a TPM file says about itself: the metadata, parsed and checked one by one.

Every value is text in the file: lists and numbers are JSON, words stand as they are. Whatever is
wrong ends as a `TPMFileError` of one sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .network import ACTIONS, TPMConfig

FORMAT = "async-timestep-tpm"
FORMAT_VERSION = "1"
BOUNDS = (0.5, 1.0)
CURE = "choose a file that training/train_tpm.py of this node pack wrote"


class TPMFileError(ValueError):
    """A TPM file that cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class TPMMeta:
    """What a TPM file says about itself, parsed. sigmas: (K+1,) the grid it was trained on."""

    network: TPMConfig
    model_family: str  # sd35_medium, flux1_dev, tiny, ...
    steps: int
    sigmas: tuple[float, ...]
    deviation_bound: float = 0.5  # 0.5 (Eq. 7) or 1.0 (lifted, Eq. 13)
    omega_range: tuple[float, float] = (0.5, 1.5)  # Eq. 20
    base_model: str = ""
    license: str = ""
    git_commit: str = ""
    prompts_sha256: str = ""
    guidance: float = 1.0
    resolution: int = 512  # pixels a side
    rewards: tuple[str, ...] = ()
    iterations: int = 0
    config_sha256: str = ""
    grids: tuple[tuple[float, ...], ...] = ()  # all of them where it was trained on several K
    latent_format: str = ""  # ComfyUI's name of it
    frames: int = 1  # of the latents of a video; the policy reads the middle one
    weights_sha256: str = ""  # of a few weights of the model, see nodes/run/weights.py

    @property
    def latent_channels(self) -> int:
        return self.network.latent_channels

    @property
    def pooled_dim(self) -> int:
        return self.network.pooled_dim

    @property
    def actions(self) -> str:
        return self.network.actions


def to_texts(meta: TPMMeta) -> dict[str, str]:
    """Metadata as safetensors stores them."""
    values = {f.name: getattr(meta, f.name) for f in fields(meta) if f.name != "network"}
    values |= {f.name: getattr(meta.network, f.name) for f in fields(meta.network)}
    for key in NEWER:  # an older pack refuses a key that it does not know
        if getattr(meta, key) == getattr(TPMMeta, key):
            del values[key]
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **texts}


def from_texts(name: str, texts: dict[str, str] | None) -> TPMMeta:
    """Metadata of a file called `name`, checked one by one. Raises TPMFileError."""
    if not texts:
        raise TPMFileError(f"{name} has no metadata, expected those of a TPM file; {CURE}.")
    texts = dict(texts)
    if (found := texts.pop("format", None)) != FORMAT:
        raise TPMFileError(f"{name} has format {shown(found)}, expected {FORMAT!r}; {CURE}.")
    if (found := texts.pop("format_version", None)) != FORMAT_VERSION:
        raise TPMFileError(
            f"{name} has format_version {shown(found)}, expected '{FORMAT_VERSION}'; update the "
            "Async Timestep node pack, or train the file again."
        )
    if unknown := sorted(set(texts) - set(READERS)):
        raise TPMFileError(
            f"{name} has the unknown metadata key {shown(unknown[0])}, expected only those of "
            f"format_version {FORMAT_VERSION}; update the Async Timestep node pack."
        )
    if missing := [key for key in READERS if key not in texts and key not in OPTIONAL]:
        raise TPMFileError(f"{name} lacks the metadata key '{missing[0]}', expected it; {CURE}.")

    values = {key: read_with(READERS, name, key, text, CURE) for key, text in texts.items()}
    network = {key: values.pop(key) for key in NETWORK if key in values}
    try:
        meta = TPMMeta(network=TPMConfig(**network), **values)
    except ValueError as error:  # TPMConfig's own words: found, expected
        raise TPMFileError(f"{name} describes no network: {error}; {CURE}.") from None
    if len(meta.sigmas) != meta.steps + 1:
        raise TPMFileError(
            f"{name} has {len(meta.sigmas)} sigmas for {meta.steps} steps, expected steps + 1 = "
            f"{meta.steps + 1}; {CURE}."
        )
    return meta


def read_with(readers: dict, name: str, key: str, text: str, cure: str) -> Any:
    """One metadata value, parsed and checked. Raises TPMFileError."""
    read, expected = readers[key]
    try:
        return read(text)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise TPMFileError(
            f"{name} has {key} {shown(text)}, expected {expected}; {cure}."
        ) from None


def shown(value: object) -> str:
    """A found value for a message: quoted, on one line, short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(text: str, low: float = -math.inf, whole: bool = False) -> Any:
    """A finite JSON number of at least `low`. Raises ValueError."""
    value = json.loads(text)
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < low:
        raise ValueError(text)
    return value if whole else float(value)


def numbers(text: str, good: Callable[[list[float]], bool]) -> tuple[float, ...]:
    """A JSON list of finite numbers with a property. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError(text)
    values = [number(json.dumps(value)) for value in values]
    if not good(values):
        raise ValueError(text)
    return tuple(values)


def words(text: str) -> tuple[str, ...]:
    """A JSON list of strings. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(text)
    return tuple(values)


def one_of(values: tuple[Any, ...], parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A reader that takes only `values`."""

    def read(text: str) -> Any:
        value = parse(text)
        if value not in values:
            raise ValueError(text)
        return value

    return read


def falling(values: list[float]) -> bool:
    """True for sigmas that fall to >= 0, at least three: one step leaves nothing to decide."""
    pairs = zip(values, values[1:], strict=False)
    return len(values) >= 3 and values[-1] >= 0 and all(a > b for a, b in pairs)


def widths(text: str) -> tuple[int, ...]:
    """A JSON list of whole numbers. Raises ValueError."""
    numbers(text, bool)
    return tuple(number(json.dumps(value), whole=True) for value in json.loads(text))


def grids(text: str) -> tuple[tuple[float, ...], ...]:
    """A JSON list of grids. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError(text)
    return tuple(numbers(json.dumps(value), falling) for value in values)


def count(text: str) -> int:
    return number(text, low=1, whole=True)


COUNT = (count, "a whole number from 1")
WORD = (str, "text")
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("latent_channels", "pooled_dim", "width", "layers", "heads", "patch"), COUNT),
    "registers": COUNT,
    "pooled_split": (widths, "a JSON list of whole numbers"),
    "raw_cap": (lambda s: None if s == "null" else number(s), "a number or null"),
    "global_conditioning": (lambda s: one_of(("true", "false"), str)(s) == "true", "true or false"),
    "actions": (one_of(tuple(ACTIONS), str), "deviation, omega, both or follow_time"),
    "steps": COUNT,
    "sigmas": (lambda s: numbers(s, falling), "a JSON list of three or more falling numbers"),
    "deviation_bound": (one_of(BOUNDS, number), "0.5 or 1.0"),
    "omega_range": (
        lambda s: numbers(s, lambda v: len(v) == 2 and 0 < v[0] < v[1]),
        "a JSON pair of rising positive numbers",
    ),
    **dict.fromkeys(("model_family", "base_model", "license", "git_commit"), WORD),
    **dict.fromkeys(("prompts_sha256", "config_sha256", "latent_format", "weights_sha256"), WORD),
    "frames": COUNT,
    "guidance": (lambda s: number(s, low=0), "a number from 0"),
    "resolution": COUNT,
    "rewards": (words, "a JSON list of names"),
    "grids": (grids, "a JSON list of lists of three or more falling numbers"),
    "iterations": (lambda s: number(s, low=0, whole=True), "a whole number from 0"),
}
NETWORK = tuple(field.name for field in fields(TPMConfig))
NEWER = ("grids", "latent_format", "frames", "weights_sha256")
OPTIONAL = ("pooled_split", "registers", "raw_cap", "global_conditioning", *NEWER)
