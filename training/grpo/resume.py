"""Checkpoints of a run: all that the next iteration needs, and the refusal of another run's."""

from __future__ import annotations

from collections.abc import Callable

from ..data.identity import difference
from ..run import distributed
from ..run.folder import RunFolder, RunFolderError
from ..run.settings import binding, canonical, config_sha256, place_names
from .setup import Parts


def checkpoint(parts: Parts, folder: RunFolder, done: int, best: dict, spent: float) -> None:
    folder.save(
        {
            "iteration": done,
            "module": parts.module.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "best": best,
            "seconds": spent,
            "settings": binding(parts.config),
            "config_sha256": config_sha256(parts.config),
            "places": parts.places,
            "prompts_sha256": parts.prompts.sha256,
            "validation_sha256": parts.validation.prompts.sha256,
        }
    )


def restore(
    parts: Parts, folder: RunFolder | None, resume: bool, log: Callable[[str, dict], None]
) -> tuple[int, dict, float]:
    """(iterations done, best, seconds spent), with the module and optimizer set on every rank.
    log is told by "said" what of the folder could not be read. Raises RunFolderError where the
    checkpoint is of other settings or prompts."""
    if not resume:
        return 0, {}, 0.0
    state = folder.load() if folder is not None else None
    if folder is not None:
        refuse_other(state, parts)
        said = [folder.truncate("metrics.jsonl", state["iteration"])]
        # a validation comes after the checkpoint of its iteration: what that does not know of is
        # made again
        said += [folder.truncate("validation.jsonl", state["best"].get("validated", -1))]
        for sentence in filter(None, said):
            log("said", {"text": sentence})
    state = distributed.share(parts.world, state)
    parts.module.load_state_dict(state["module"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.validation.baseline = state["best"].get("baseline", {})
    return state["iteration"], state["best"], state["seconds"]


def refuse_other(state: dict, parts: Parts) -> None:
    """Raises RunFolderError naming the first setting, file or list of prompts that differs."""
    before, now = canonical(state["settings"]), binding(parts.config)
    names = place_names(parts.config)
    if "places" not in state:  # an older trainer kept the names alone
        before |= {name: state["settings"].get(name) for name in names}
        now |= names
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise RunFolderError(
                f"{name} is {now.get(name)!r}, the run to be resumed had {before.get(name)!r}; "
                "resume it with its own settings, or start another --out."
            )
    for name, there in state.get("places", {}).items():
        if name in parts.places and (differs := difference(there, parts.places[name])):
            where = names[name] or parts.places[name]["hub"] or "empty, the family's own"
            raise RunFolderError(
                f"{name} is {where}, {differs}: it is not what the run to be resumed began with; "
                "set it to the same files, or start another --out."
            )
    lists = {"training": parts.prompts, "validation": parts.validation.prompts}
    for name, prompts in lists.items():
        key = "prompts_sha256" if name == "training" else "validation_sha256"
        if state[key] != prompts.sha256:
            raise RunFolderError(
                f"The {name} prompts are not those of the run to be resumed (their hash differs); "
                "put the same files where the settings look for them, or start another --out."
            )
