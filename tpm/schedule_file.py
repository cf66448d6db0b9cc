"""A schedule as a file: one small .safetensors in models/tpm, read by the same node as a TPM.

    save_schedule("mine.safetensors", schedule, ScheduleMeta("tiny", 4, source="search", gain=.02))
    schedule, meta = load_schedule("mine.safetensors")

Tensors: deviation (K-1), omega (K), sigmas (K+1), as flow times. Whatever is wrong with a file ends
as a `TPMFileError` of one sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .content import KEY, content_sha256, save_whole
from .metadata import (
    COUNT,
    FROM_0,
    GUIDANCE,
    NAME,
    OMEGA_ENDS,
    SIGMA_MOST,
    STEPS,
    WORD,
    TPMFileError,
    number,
    one_of,
    read_with,
    shown,
    whole_to,
)
from .policies import MODES
from .schedule import Schedule, ScheduleMeta

FORMAT = "async-timestep-schedule"
FORMAT_VERSION = "1"
DEVIATION_MOST = 4.0  # a search stays below 1.25, a TPM within 1
NUMBERS = ("deviation", "omega", "sigmas")
SOURCES = ("search", "eye", "mean of a TPM")
CURE = "choose a file that training/search_schedule.py or export_schedule.py of this pack wrote"


Reader = tuple[Callable[[str], Any], str]
READERS: dict[str, Reader] = {
    **{field.name: WORD for field in fields(ScheduleMeta)},
    "mode": (one_of(MODES, str), " or ".join(MODES)),
    "source": (one_of(SOURCES, str), " or ".join(SOURCES)),
    "model_family": NAME,
    "latent_channels": COUNT,
    "resolution": whole_to(100_000),
    "steps": STEPS,
    "guidance": GUIDANCE,
    "gain": (number, "a number"),
    "gain_se": (lambda s: number(s, low=0), "a number from 0"),
    "gain_n": FROM_0,
    "images": FROM_0,
}


def save_schedule(path: str | Path, schedule: Schedule, meta: ScheduleMeta) -> None:
    """Writes the file in one move. Raises TPMFileError where `load_schedule` would refuse it."""
    path = Path(path)
    values = {field.name: getattr(meta, field.name) for field in fields(meta)}
    values |= {"mode": schedule.mode, "steps": schedule.steps}
    if not meta.weights_sha256:  # an older pack refuses a key that it does not know
        del values["weights_sha256"]
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    tensors = {
        "deviation": torch.tensor(schedule.deviation[1:], dtype=torch.float64),
        "omega": torch.tensor(schedule.omega, dtype=torch.float64),
        "sigmas": torch.tensor(schedule.times, dtype=torch.float64),
    }
    read(path.name, texts, tensors)
    save_whole(path, tensors, {"format": FORMAT, "format_version": FORMAT_VERSION, **texts})


def is_schedule(path: str | Path) -> bool:
    """Whether the file says that it is a schedule; of any other its own loader has more to say."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError, RuntimeError):
        return False


def load_schedule(path: str | Path) -> tuple[Schedule, ScheduleMeta]:
    """The schedule, called by its file, and its metadata. Raises TPMFileError."""
    path = Path(path)
    name = path.name
    if not path.is_file():
        raise TPMFileError(f"{name} was not found, expected a schedule file there; {CURE}.")
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
            shapes = shapes_in(file)
            check_format(name, texts)
            check_shapes(name, shapes, texts.get("steps", ""))
            tensors = {key: file.get_tensor(key) for key in NUMBERS}
    except (SafetensorError, OSError):
        raise TPMFileError(
            f"{name} is no complete safetensors file (of another kind, or cut off), expected a "
            "schedule file; copy or download it again."
        ) from None
    except (RuntimeError, MemoryError):  # torch cannot map so much
        raise TPMFileError(
            f"{name} has {path.stat().st_size:,} bytes, expected a schedule file of a few "
            f"thousand; {CURE}."
        ) from None
    if texts.get(KEY) != content_sha256(tensors, texts):
        raise TPMFileError(
            f"{name} has other content than its {KEY} tells, expected what was written: it was "
            "damaged or changed since; copy or download it again."
        )
    own = {k: v for k, v in texts.items() if k not in ("format", "format_version", KEY)}
    return read(name, own, tensors)


def check_format(name: str, texts: dict[str, str]) -> None:
    """Raises TPMFileError on a file of another kind or version."""
    if (found := texts.get("format")) != FORMAT:
        raise TPMFileError(f"{name} has format {shown(found)}, expected {FORMAT!r}; {CURE}.")
    if (found := texts.get("format_version")) != FORMAT_VERSION:
        raise TPMFileError(
            f"{name} has format_version {shown(found)}, expected '{FORMAT_VERSION}'; update the "
            "Async Timestep node pack, or make the file again."
        )


def shapes_in(file) -> dict[str, list[int]]:
    """Of every tensor, from the header alone."""
    return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def check_shapes(name: str, found: dict[str, list[int]], steps: str) -> None:
    """Raises TPMFileError where the tensors are not those of so many steps, before one is read."""
    count = read_with(READERS, name, "steps", steps, CURE)
    lengths = dict(zip(NUMBERS, (count - 1, count, count + 1), strict=True))
    if found != {key: [length] for key, length in lengths.items()}:
        raise TPMFileError(
            f"{name} has tensors of the shapes {shown(found)}, expected {lengths} for its {count} "
            f"steps; {CURE}."
        )


def read(
    name: str, texts: dict[str, str], tensors: dict[str, torch.Tensor]
) -> tuple[Schedule, ScheduleMeta]:
    """Metadata and tensors, checked one by one. Raises TPMFileError."""
    if wrong := sorted((texts.keys() ^ READERS.keys()) - {"weights_sha256"}):
        what = "the unknown" if wrong[0] in texts else "no"
        raise TPMFileError(f"{name} has {what} metadata key {shown(wrong[0])}; {CURE}.")
    values = {key: read_with(READERS, name, key, text, CURE) for key, text in texts.items()}
    steps, mode = values.pop("steps"), values.pop("mode")
    check_shapes(name, {key: list(part.shape) for key, part in tensors.items()}, str(steps))
    numbers = {key: tensor.double() for key, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in numbers.values()):
        raise TPMFileError(f"{name} has NaN or infinity, expected finite numbers; {CURE}.")
    deviation, omega, times = (tuple(numbers[key].tolist()) for key in NUMBERS)
    if times[-1] < 0 or any(a <= b for a, b in zip(times, times[1:], strict=False)):
        raise TPMFileError(f"{name} has sigmas {shown(times)}, expected falling ones; {CURE}.")
    ends = {
        "deviation": (-DEVIATION_MOST, DEVIATION_MOST),
        "omega": OMEGA_ENDS,
        "sigmas": (0.0, SIGMA_MOST),
    }
    for key, (low, high) in ends.items():
        for value in numbers[key].tolist():
            if not low <= value <= high:
                raise TPMFileError(
                    f"{name} has {value:g} in {key}, expected numbers from {low:g} to {high:g}; "
                    f"{CURE}."
                )
    meta = ScheduleMeta(**values)
    return Schedule(times, (0.0, *deviation), omega, mode, Path(name).stem, meta), meta
