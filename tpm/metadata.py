"""What a TPM file says about itself: the metadata, parsed and checked one by one.

Every value is text in the file: lists and numbers are JSON, words stand as they are. Whatever is
wrong ends as a `TPMFileError` of one sentence: what was found, what was expected, what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from .network import ACTIONS, RAW_CAPS, TPMConfig

FORMAT = "async-timestep-tpm"
FORMAT_VERSION = "1"
BOUNDS = (0.5, 1.0)
# no file that a trainer wrote comes near these
TEXT_MOST = 16_000_000  # characters of one value: the grids of every K from 2 to 1,000
LINE_MOST = 4096  # of a line of text, the longest path that Linux has
NAME_MOST = 200  # of a name
STEPS_MOST = 10_000  # a KSampler's
SIGMA_MOST = 1e6  # of models with zero terminal SNR it is 4,518
OMEGA_ENDS = (1e-9, 10.0)  # beyond it no picture is left
COUNT_MOST = 10**9
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
        if len(text) > TEXT_MOST:
            raise ValueError(len(text))
        return read(text)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise TPMFileError(
            f"{name} has {key} {shown(text)}, expected {expected}; {cure}."
        ) from None


def shown(value: object) -> str:
    """A found value for a message: quoted, on one line, short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def number(
    text: str, low: float = -COUNT_MOST, high: float = COUNT_MOST, whole: bool = False
) -> Any:
    """A JSON number from `low` to `high`. Raises ValueError."""
    return in_range(json.loads(text), low, high, whole)


def in_range(value: object, low: float, high: float, whole: bool = False) -> Any:
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # NaN is in no range
        raise ValueError(value)
    return value if whole else float(value)


def numbers(text: str, good: Callable[[list[float]], bool]) -> tuple[float, ...]:
    """A JSON list of numbers with a property. Raises ValueError."""
    return listed(json.loads(text), good)


def listed(values: object, good: Callable[[list[float]], bool]) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) > STEPS_MOST + 1:
        raise ValueError(values)
    values = [in_range(value, -SIGMA_MOST, SIGMA_MOST) for value in values]
    if not good(values):
        raise ValueError(values)
    return tuple(values)


def line(text: str, most: int = LINE_MOST) -> str:
    """One line of text. Raises ValueError."""
    if len(text) > most or any(character < " " or character == "\x7f" for character in text):
        raise ValueError(text)
    return text


def name_of(text: str) -> str:
    """A name: it is shown in plots and logs. Raises ValueError."""
    if not text.isprintable():
        raise ValueError(text)
    return line(text, NAME_MOST)


def words(text: str) -> tuple[str, ...]:
    """A JSON list of names. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(text)
    return tuple(name_of(value) for value in values)


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


def rising_pair(values: list[float]) -> bool:
    low, high = OMEGA_ENDS
    return len(values) == 2 and low <= values[0] < values[1] <= high


def widths(text: str) -> tuple[int, ...]:
    """A JSON list of whole numbers. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError(text)
    return tuple(in_range(value, 1, COUNT_MOST, whole=True) for value in values)


def grids(text: str) -> tuple[tuple[float, ...], ...]:
    """A JSON list of grids. Raises ValueError."""
    values = json.loads(text)
    if not isinstance(values, list):
        raise ValueError(text)
    return tuple(listed(value, falling) for value in values)


def whole_to(most: int, low: int = 1) -> tuple[Callable[[str], Any], str]:
    """A reader of whole numbers, and what it expects."""
    return lambda text: number(
        text, low, most, whole=True
    ), f"a whole number from {low} to {most:,}"


COUNT = whole_to(COUNT_MOST)  # of the network TPMConfig has more to say
FROM_0 = whole_to(COUNT_MOST, low=0)
STEPS = whole_to(STEPS_MOST)
WORD = (line, f"one line of at most {LINE_MOST:,} characters")
NAME = (name_of, f"a name of at most {NAME_MOST} characters that can be printed")
GUIDANCE = (lambda s: number(s, 0, 1000), "a number from 0 to 1,000")
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    **dict.fromkeys(("latent_channels", "pooled_dim", "width", "layers", "heads", "patch"), COUNT),
    "registers": COUNT,
    "pooled_split": (widths, "a JSON list of whole numbers"),
    "raw_cap": (
        lambda s: None if s == "null" else number(s, *RAW_CAPS),
        "a number from {:g} to {:g} or null".format(*RAW_CAPS),
    ),
    "global_conditioning": (lambda s: one_of(("true", "false"), str)(s) == "true", "true or false"),
    "actions": (one_of(tuple(ACTIONS), str), "deviation, omega, both or follow_time"),
    "steps": STEPS,
    "sigmas": (
        lambda s: numbers(s, falling),
        f"a JSON list of three or more falling numbers, at most {SIGMA_MOST:g}",
    ),
    "deviation_bound": (one_of(BOUNDS, number), "0.5 or 1.0"),
    "omega_range": (
        lambda s: numbers(s, rising_pair),
        "a JSON pair of rising numbers from {:g} to {:g}".format(*OMEGA_ENDS),
    ),
    "model_family": NAME,
    **dict.fromkeys(("base_model", "license", "git_commit"), WORD),
    **dict.fromkeys(("prompts_sha256", "config_sha256", "weights_sha256"), WORD),
    "latent_format": NAME,
    "frames": whole_to(100_000),
    "guidance": GUIDANCE,
    "resolution": whole_to(100_000),
    "rewards": (words, "a JSON list of names"),
    "grids": (grids, "a JSON list of lists of three or more falling numbers"),
    "iterations": FROM_0,
}
NETWORK = tuple(field.name for field in fields(TPMConfig))
NEWER = ("grids", "latent_format", "frames", "weights_sha256")
OPTIONAL = ("pooled_split", "registers", "raw_cap", "global_conditioning", *NEWER)
