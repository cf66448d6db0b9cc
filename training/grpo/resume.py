"""Checkpoints of a run: all that the next iteration needs, and the refusal of another run's."""

from __future__ import annotations

from collections.abc import Callable

from ..data.identity import difference
from ..run import distributed
from ..run.config import Config
from ..run.folder import RunFolder, RunFolderError
from ..run.settings import binding, canonical, config_sha256, place_names, to_yaml
from ..run.settings_file import read_file, wrong_file
from .setup import Training
from .state import wrong_state


def checkpoint(training: Training, folder: RunFolder, done: int, best: dict, spent: float) -> None:
    folder.save(
        {
            "iteration": done,
            "module": training.module.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "best": best,
            "seconds": spent,
            "settings": binding(training.config),
            "config_sha256": config_sha256(training.config),
            "places": training.places,
            "prompts_sha256": training.prompts.sha256,
            "validation_sha256": training.validation.prompts.sha256,
        }
    )


def restore(
    training: Training, folder: RunFolder | None, resume: bool, log: Callable[[str, dict], None]
) -> tuple[int, dict, float]:
    """(iterations done, best, seconds spent), with the module and optimizer set on every rank.
    log is told by "said" what of the folder could not be read. Raises RunFolderError where the
    checkpoint is of other settings or prompts."""
    if not resume:
        return 0, {}, 0.0
    state = None
    if folder is not None:
        state = folder.load(lambda state: wrong_state(state, training))
        refuse_other(state, training)
        last, every = training.config.iterations, training.config.log.validate_every
        said = [folder.truncate("metrics.jsonl", state["iteration"], lambda done: done <= last)]
        # a validation comes after the checkpoint of its iteration: what that does not know of is
        # made again
        known = state["best"].get("validated", -1)
        due = {last, *range(0, last, every or last)}
        said += [folder.truncate("validation.jsonl", known, due.__contains__)]
        said.append(keep_settings(folder, training.config))
        for sentence in filter(None, said):
            log("said", {"text": sentence})
    state = distributed.share(training.world, state)
    training.module.load_state_dict(state["module"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.validation.baseline = state["best"].get("baseline", {})
    return state["iteration"], state["best"], state["seconds"]


def keep_settings(folder: RunFolder, config: Config) -> str:
    """config.yaml says what the run goes on with, which --resume alone reads: with more iterations
    it is written anew, and the old one stays beside it. Returns a sentence, or ""."""
    path, said, comments = folder.path / "config.yaml", "", []
    if path.is_file():
        if wrong_file(path):
            return ""  # the settings were given by hand
        if read_file(path).get("iterations") == config.iterations:
            return ""
        comments = [line for line in path.read_text("utf-8").splitlines() if line[:1] == "#"]
        aside = folder.set_aside("config.yaml", "before")
        said = f"{path} has {config.iterations:,} iterations now; as it was it is {aside}."
    folder.text("config.yaml", "".join(f"{line}\n" for line in comments) + to_yaml(config))
    return said


def refuse_other(state: dict, training: Training) -> None:
    """Raises RunFolderError naming the first setting, file or list of prompts that differs."""
    before, now = canonical(state["settings"]), binding(training.config)
    names = place_names(training.config)
    if "places" not in state:  # an older trainer kept the names alone
        before |= {name: state["settings"].get(name) for name in names}
        now |= names
    refuse_another_end(before, now)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise RunFolderError(
                f"{name} is {now.get(name)!r}, the run to be resumed had {before.get(name)!r}; "
                "resume it with its own settings, or start another --out."
            )
    for name, there in state.get("places", {}).items():
        if name in training.places and (differs := difference(there, training.places[name])):
            where = names[name] or training.places[name]["hub"] or "empty, the family's own"
            raise RunFolderError(
                f"{name} is {where}, {differs}: it is not what the run to be resumed began with; "
                "set it to the same files, or start another --out."
            )
    lists = {"training": training.prompts, "validation": training.validation.prompts}
    for name, prompts in lists.items():
        key = "prompts_sha256" if name == "training" else "validation_sha256"
        if state[key] != prompts.sha256:
            raise RunFolderError(
                f"The {name} prompts are not those of the run to be resumed (their hash differs); "
                "put the same files where the settings look for them, or start another --out."
            )


def refuse_another_end(before: dict, now: dict) -> None:
    """Raises RunFolderError where the rate of both falls to 0 at the last iteration (only then that
    is among the binding settings), and it is not the same one."""
    ends = [values.get("iterations") for values in (before, now)]
    if None not in ends and ends[0] != ends[1]:
        raise RunFolderError(
            f"iterations is {ends[1]!r} and the run to be resumed had {ends[0]!r}, where its rate "
            "falls to 0 (grpo.lr_schedule linear), expected the same; begin a new run from its "
            "TPM, with --init FILE and another --out."
        )
