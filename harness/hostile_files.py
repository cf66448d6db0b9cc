"""TPM and schedule files as a stranger may send them.

    for case in cases(module, meta, schedule, meta): ...
    path = written(folder, case)
    fault_of(path, load)

Whatever a file holds, its loader refuses it in one sentence that names it, or what it loads answers
with finite numbers, or ends with a sentence that names the file.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..tpm.checkpoint import TPMFileError, load_tpm, save_tpm
from ..tpm.content import KEY, content_sha256
from ..tpm.learned import TPMPolicy
from ..tpm.metadata import TPMMeta
from ..tpm.network import TimestepPredictionModule, TPMConfig
from ..tpm.policies import Evaluation, Policy, State
from ..tpm.schedule import Schedule, ScheduleMeta
from ..tpm.schedule_file import is_schedule, load_schedule, save_schedule
from .hostile_folders import BYTES

TEXTS = (
    "", " ", "null", "NaN", "Infinity", "-1", "0", "1", "7", "1e308", "-1e308", "1e-308", "1e400",
    "9" * 5000, "[" * 100_000, "[]", "{}", '"x"', "true", "x" * 10_000, "a\nb", "\x1b[31m",
    "\u202e", "../../x", "[1e308, 1, 0]", "[1, 1, 0]", "[2, 1, 0]", "[1e-300, 1e300]", "[0.1, 9]",
    "[" + ", ".join(["1"] * 65_536) + "]", "[[2, 1, 0]]", '["a"]', '[{"a": 1}]', "deviation",
    "both", "follow_time", "conditioning", "search", "4096", "64", "100000",
)  # fmt: skip
TENSORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "NaN": lambda t: torch.full_like(t, math.nan),
    "one NaN": lambda t: t.index_fill(0, torch.tensor([0]), math.nan),
    "infinity": lambda t: torch.full_like(t, math.inf),
    "huge": lambda t: torch.full_like(t, 3e38),
    "huge, both signs": lambda t: torch.where(t > 0, 3e38, -3e38).to(t.dtype),
    "large": lambda t: t * 1e12,
    "tiny": lambda t: t * 1e-38,
    "0": torch.zeros_like,
    "a number": lambda t: torch.zeros(()),
    "empty": lambda t: t[:0],
    "longer": lambda t: torch.cat([t, t]),
    "an axis more": lambda t: t[None],
    "float64": lambda t: t.double(),
    "float16": lambda t: t.half(),
    "bfloat16": lambda t: t.bfloat16(),
    "int64": lambda t: t.long(),
    "bool": lambda t: t.bool(),
}  # fmt: skip
NETWORK = TPMConfig(
    latent_channels=4, pooled_dim=12, pooled_split=(4, 8), width=16, layers=2, heads=2, registers=2,
    raw_cap=5.0, actions="both",
)  # fmt: skip


class Case(NamedTuple):
    """kind: tpm or schedule. what: bytes, text or tensor. name: of the key or tensor; change: what
    is done to it. hashed: whether the file's own hash is made anew."""

    kind: str
    what: str
    name: str
    change: str
    hashed: bool


def good_file(folder: Path, kind: str) -> Path:
    """A small whole file."""
    path = folder / f"{kind}.safetensors"
    if kind == "schedule":
        times = (1.0, 0.75, 0.5, 0.25, 0.0)
        schedule = Schedule(times, (0.0, 0.6, 0.8, 0.0), (1.0, 1.2, 0.9, 1.0))
        save_schedule(path, schedule, ScheduleMeta("tiny", 4))
        return path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = TimestepPredictionModule(NETWORK)
        torch.nn.init.normal_(module.raw.weight)
    sigmas = (1.0, 0.9, 0.75, 0.5, 0.0)
    save_tpm(path, module, TPMMeta(NETWORK, model_family="tiny", steps=4, sigmas=sigmas))
    return path


def content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118


def cases(folder: Path) -> list[Case]:
    """Every one, of files that `good_file` writes."""
    found = []
    for kind in ("tpm", "schedule"):
        tensors, texts = content(good_file(folder, kind))
        found += [Case(kind, "bytes", "", change, False) for change in BYTES]
        for hashed in (True, False):
            for key in (*texts, "one more"):
                changes = ["gone", *map(str, range(len(TEXTS)))]
                found += [Case(kind, "text", key, change, hashed) for change in changes]
            for name in (*tensors, "one more"):
                changes = ["gone", *TENSORS]
                found += [Case(kind, "tensor", name, change, hashed) for change in changes]
    return found


def written(folder: Path, case: Case, draw: random.Random) -> Path:
    """The file of a case."""
    path = good_file(folder, case.kind)
    if case.what == "bytes":
        path.write_bytes(BYTES[case.change](path.read_bytes(), draw))
        return path
    tensors, texts = content(path)
    if case.what == "text":
        texts.pop(case.name, None)
        if case.change != "gone":
            texts[case.name] = TEXTS[int(case.change)]
    else:
        old = tensors.pop(case.name, torch.ones(3))
        if case.change != "gone":
            tensors[case.name] = TENSORS[case.change](old).contiguous()
    if case.hashed and case.name != KEY:
        texts[KEY] = content_sha256(tensors, texts)
    save_file(tensors, path, metadata=texts)
    return path


def state() -> State:
    """What a policy is asked about, on the latents of the good TPM."""
    draw = torch.Generator().manual_seed(1)
    x, v = (torch.randn(2, 4, 6, 6, generator=draw) for _ in range(2))
    times = torch.full((2,), 0.75)
    pooled = torch.randn(2, 12, generator=draw)
    seen = Evaluation(x, v, x - 0.75 * v, times, times, pooled)
    return State(
        k=2, steps=4, sigma=0.5, last=False, batch=2, device=torch.device("cpu"), family="tiny",
        percent_to_sigma=lambda percent: 1 - percent, evaluation=seen, previous=0.75,
    )  # fmt: skip


def loaded(path: Path) -> Policy:
    """As the TPM Loader does it."""
    if is_schedule(path):
        return load_schedule(path)[0]
    module, meta = load_tpm(path)
    return TPMPolicy(module, meta, name=path.name)


def fault_of(path: Path) -> str:
    """What a user could not use of a file's answer, or ""."""
    try:
        policy = loaded(path)
    except TPMFileError as error:
        return "" if names(str(error), path.name) else f"no sentence: {str(error)[:300]}"
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return f"{type(error).__name__}: {str(error)[:200]}"
    try:
        decision = policy.decide(state())
    except ValueError as error:
        return "" if names(str(error), path.name) else f"no sentence: {str(error)[:300]}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error)[:200]}"
    answers = (decision.deviation, decision.omega, decision.cut)
    good = all(bool(part.isfinite().all()) and float(part.abs().max()) <= 10 for part in answers)
    return "" if good else f"answers {json.dumps([part.tolist() for part in answers])[:200]}"


def names(sentence: str, file: str) -> bool:
    """One sentence of at most 300 characters that names the file."""
    one = "\n" not in sentence and sentence.endswith(".") and len(sentence) <= 300
    return one and file in sentence
