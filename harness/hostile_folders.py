"""Run folders as accidents, editors, other versions and enemies leave them, and files of settings.

    for case in cases(): ...                        # every one, by name
    damage(run, case, random.Random(seed))          # does it to a finished run
    fault_of(run, command)                          # "" where the command's answer is of use

Whatever a case does, a command that is pointed at the folder goes on or ends in one sentence, and
no line that it could read is lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

Change = Callable[[bytes, random.Random], bytes]

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
DEEP = "[" * 20_000


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    """A block of zeros, as a file system leaves it after a crash."""
    place, length = draw.randrange(len(data)), draw.randrange(1, 4096)
    return data[:place] + bytes(min(length, len(data) - place)) + data[place + length :]


# of any file
BYTES: dict[str, Change] = {
    "empty": lambda data, draw: b"",
    "cut": lambda data, draw: data[: draw.randrange(1, max(len(data), 2))],
    "one bit": flipped,
    "zeros inside": overwritten,
    "random bytes": lambda data, draw: draw.randbytes(len(data) % 4096 + 1),
    "not UTF-8": lambda data, draw: b"\xff\xfe" + data,
    "twice": lambda data, draw: data + data,
    "a web page": lambda data, draw: b"<!DOCTYPE html><html><body>404</body></html>\n",
    "a pickle": lambda data, draw: pickle.dumps(Foreign()),
}


class Foreign:
    """Unpickled, it would make a folder with a name to be looked for."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


# a line in a .jsonl file that is no record of ours
LINES = (
    "", " ", "{", "null", "1", "[]", '"text"', "NaN", "{}", '{"kl": 1}', '{"iteration": "2"}',
    '{"iteration": true}', '{"iteration": null}', '{"iteration": -1}', '{"iteration": 1e400}',
    '{"iteration": ' + "9" * 5000 + "}", '{"iteration": 2}', '{"iteration": 2, "idle": 5}',
    '{"iteration": 2, "idle": ["x"], "metrics": 3}', '{"iteration": 2, "metrics": {"a": null}}',
    '{"iteration": 2, "metrics": {}, "mean_deviation": "x"}', DEEP, "\ufffd", "\x00" * 50,
    '{"iteration": 2, "iteration": 3}',
)  # fmt: skip

# files of settings: none of them is one
SETTINGS = {
    "a section without a value": "grpo:\n",
    "a section that is a list": "grpo: [1, 2]\n",
    "a bomb": BOMB,
    "a bomb in a setting": BOMB + "rewards: {weights: *a11}\n",
    "nested deeply": "grpo: " + DEEP + "\n",
    "an object": "grpo: !!python/object/apply:os.mkdir [unpickled]\n",
    "an unknown tag": "grpo: !mine {lr: 1.0e-5}\n",
    "a list": "- grpo\n- lr\n",
    "a number": "3\n",
    "nothing": "# nothing\n",
    "two documents": "grpo: {lr: 1.0e-5}\n---\ngrpo: {lr: 1.0e-4}\n",
    "a key twice": "grpo: {lr: 1.0e-5}\ngrpo: {lr: 1.0e-4}\n",
    "a key that is a list": "? [grpo, lr]\n: 1.0e-5\n",
    "a key that is a number": "3: 4\n",
    "a key that is null": "~: 4\n",
    "an alias of itself": "grpo: &a {lr: *a}\n",
    "a merge": "a: &a {lr: 1.0e-5}\ngrpo: {<<: *a}\n",
    "an infinite rate": "grpo: {lr: .inf}\n",
    "a rate that is a date": "grpo: {lr: 2020-01-01}\n",
    "a weight that is no number": "rewards: {weights: {scene: .nan}}\n",
    "a weight that is a list": "rewards: {weights: {scene: [1]}}\n",
    "weights that are a text": "rewards: {weights: scene}\n",
    "a hundred million steps": "steps: 100000000\n",
    "a list of a hundred thousand steps": f"steps: [{', '.join(['4'] * 100_000)}]\n",
    "an endless number": f"iterations: {'9' * 5000}\n",
    "base 60": "iterations: 1:00:00\n",
    "a setting that is not": "grpo: {lrr: 1.0e-5}\n",
    "a section that is not": "greppo: {lr: 1.0e-5}\n",
    "a tab": "grpo:\n\tlr: 1.0e-5\n",
    "a null in a name": "backbone: {path: \"a\\0b\"}\n",
    "half a surrogate": "backbone: {path: \"\\ud800\"}\n",
}  # fmt: skip


def without(*names: str) -> Callable[[dict], object]:
    return lambda state: {k: v for k, v in state.items() if k not in names}


def altered(**new) -> Callable[[dict], object]:
    return lambda state: {**state, **new}


def first_tensor(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], object]:
    def of(state: dict) -> dict:
        module = dict(state["module"])
        name = next(iter(module))
        return {**state, "module": {**module, name: change(module[name])}}

    return of


# checkpoints of another version or by another hand: whole files that torch reads
STATES: dict[str, Callable[[dict], object]] = {
    **{f"no {name}": without(name) for name in (
        "module", "optimizer", "best", "seconds", "settings", "config_sha256", "places",
        "prompts_sha256", "validation_sha256",
    )},
    "an older one": without("content", "places", "config_sha256", "seconds"),
    "a module alone": lambda state: state["module"],
    "a list": lambda state: [state],
    "a tensor": lambda state: torch.zeros(3),
    **{f"iteration {value!r}": altered(iteration=value) for value in (
        -1, 0, True, 10**12, "3", 3.0, None,
    )},
    **{f"{name} {value!r}": altered(**{name: value})
       for name in ("module", "optimizer", "best", "settings", "places", "seconds")
       for value in (None, 3, "x", [], {})},
    "best of another shape": altered(best={"validated": 3, "score": 1.0, "iteration": 3,
                                           "baseline": {}, "weights": {"a": torch.zeros(2)}}),
    "best with words": altered(best={"validated": "x", "score": "y", "baseline": 3}),
    "seconds that are no number": altered(seconds=float("nan")),
    "another shape": first_tensor(lambda t: torch.zeros(2, 2)),
    "another type": first_tensor(lambda t: t.to(torch.int64)),
    "not finite": first_tensor(lambda t: t * float("nan")),
    "one tensor less": lambda state: {**state, "module": dict(list(state["module"].items())[1:])},
    "an optimizer of another kind": altered(optimizer={"state": {}, "param_groups": [{"lr": 1}]}),
    "an optimizer that has not begun": lambda state: {
        **state, "optimizer": {**state["optimizer"], "state": {}}
    },
    "settings without weights": altered(settings={"steps": 2}),
    "settings of another run": lambda state: {
        **state, "settings": {**state["settings"], "grpo.lr": 0.5}
    },
    "places that are words": altered(places={"backbone.path": "x"}),
}  # fmt: skip

# the run that is damaged: three iterations of the embedded model, two checkpoints
RUN = [
    "--preset=tiny", "--backbone.precision=fp32", "--grpo.lr=1e-3", "--grpo.num_generations=2",
    "--grpo.minibatch_size=1", "--grpo.prompts_per_iteration=1", "--grpo.lr_schedule=constant",
    "--steps=2", "--data.validation_prompts=2", "--log.samples_every=1", "--log.samples=1",
    "--log.best=false", "--log.checkpoint_every=1", "--threads=1", "--iterations=3",
]  # fmt: skip
GO_ON = ["--resume", "--iterations=4"]
KEPT = ("config.yaml", "metrics.jsonl", "validation.jsonl")
TEXTS = ("config.yaml", "metrics.jsonl", "validation.jsonl", "checkpoints/latest")
NEWEST = "checkpoints/000003.pt"


def cases() -> list[str]:
    """Every damage by name, "place: what"."""
    found = [f"{name}: {what}" for name in (*TEXTS, NEWEST) for what in BYTES]
    found += [f"{name}: {what}" for name in (*TEXTS, NEWEST) for what in ("gone", "a folder")]
    found += [f"{name}: dangling" for name in (*TEXTS, NEWEST)]
    found += [f"{name}: line {i}" for name in TEXTS[1:3] for i in range(len(LINES))]
    found += [f"config.yaml: {what}" for what in SETTINGS]
    found += [f"{NEWEST}: {what}" for what in STATES]
    found += [f"{NEWEST}: {what}, without a hash" for what in STATES]
    found += [f"checkpoints/latest: says {text!r}" for text in LATEST]
    return [*found, *FOLDERS]


LATEST = ("../config.yaml", "000009.pt", "000002.pt", "", "a\0b", "x" * 5000, "/etc/hostname", "..")


def no_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")


def checkpoints_a_file(run: Path) -> None:
    no_checkpoints(run)
    (run / "checkpoints").write_text("x")


def samples_a_file(run: Path) -> None:
    shutil.rmtree(run / "samples")
    (run / "samples").write_text("x")


FOLDERS: dict[str, Callable[[Path], object]] = {
    "the folder: no checkpoints": no_checkpoints,
    "the folder: checkpoints is a file": checkpoints_a_file,
    "the folder: samples is a file": samples_a_file,
    "the folder: the lock is a folder": lambda run: (run / ".lock").mkdir(),
    "the folder: a checkpoint's name is no number": lambda run: (
        run / "checkpoints" / "0x3.pt"
    ).write_bytes(b"x"),
    "the folder: a newer checkpoint is empty": lambda run: (
        run / "checkpoints" / "000004.pt"
    ).write_bytes(b""),
}


def damage(run: Path, case: str, draw: random.Random) -> None:
    """Does to a finished run what one of `cases()` says."""
    if case in FOLDERS:
        FOLDERS[case](run)
        return
    place, _, what = case.partition(": ")
    path = run / place
    if what in BYTES:
        path.write_bytes(BYTES[what](path.read_bytes(), draw))
    elif what in ("gone", "a folder", "dangling"):
        path.unlink()
        if what == "a folder":
            path.mkdir()
        elif what == "dangling":
            path.symlink_to("nowhere")
    elif what.startswith("line "):
        lines = path.read_text().splitlines()
        lines.insert(draw.randrange(len(lines) + 1), LINES[int(what.removeprefix("line "))])
        path.write_text("\n".join(lines) + "\n")
    elif what.startswith("says "):
        path.write_text(LATEST[[f"says {text!r}" for text in LATEST].index(what)])
    elif what in SETTINGS:
        path.write_text(SETTINGS[what])
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        changed = STATES[what.removesuffix(", without a hash")](state)
        if what.endswith(", without a hash") and isinstance(changed, dict):
            changed.pop("content", None)  # as an older trainer, which had none, would have left it
        torch.save(changed, path)


def written_settings(folder: Path, name: str) -> Path:
    """One of `SETTINGS` as a file for --config."""
    path = folder / "settings.yaml"
    path.write_text(SETTINGS[name])
    return path


def fault_of(run: Path, command: Callable[[], int]) -> str:
    """What a user could not use of a command's answer, or "". command: gives its exit code."""
    before = {name: (run / name).read_bytes() for name in KEPT if (run / name).is_file()}
    said, code = io.StringIO(), 0
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = command()
    except SystemExit as stopped:
        code = stopped.code
    except Exception as error:  # noqa: BLE001 (that is what is looked for)
        return f"{type(error).__name__}: {str(error)[:200]}"
    sentence = (said.getvalue().strip().splitlines() or [""])[-1]
    if Path("unpickled").exists():
        return "a file ran code"
    if code and not (sentence.endswith((".", "?")) and ".py: " in sentence and len(sentence) < 700):
        return f"code {code} and no sentence: {sentence[:200]}"
    return lost(run, before)


def lost(run: Path, before: dict[str, bytes]) -> str:
    """A file of which a line that was there is nowhere any more, or ""."""
    kept = {path.read_bytes() for path in run.iterdir() if path.is_file()}
    for name, data in before.items():
        if data in kept:
            continue
        now = (run / name).read_bytes() if (run / name).is_file() else b""
        whole = data[: data.rfind(b"\n") + 1]  # what a kill cut off is made again
        if not now.startswith(whole) and not is_repeated(whole, now):
            return f"{name} lost lines"
    return ""


def is_repeated(data: bytes, now: bytes) -> bool:
    """Whether what is gone are records of iterations that were made again, or written anew in
    another order of their keys."""
    there = {record["iteration"] for line in now.splitlines() if (record := json.loads(line))}
    try:
        return all(json.loads(line)["iteration"] in there for line in data.splitlines())
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
