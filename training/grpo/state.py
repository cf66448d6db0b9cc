"""What a checkpoint has to hold so that a run can go on from it: its parts, their shapes and types.

An older trainer kept no hash of it, and another program writes what it likes; whatever is read of a
checkpoint later is looked at here first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..run.content import CONTENT
from ..run.records import are_numbers, is_count, is_number
from .setup import Training

PARTS = {
    "module": dict, "optimizer": dict, "best": dict, "settings": dict, "prompts_sha256": str,
    "validation_sha256": str,
}  # fmt: skip


def wrong_state(state: dict, training: Training) -> str:
    """What is wrong with a checkpoint, in words that follow its name, or ""."""
    for name, kind in PARTS.items():
        if name not in state:
            return f"lacks {name}"
        if not isinstance(state[name], kind):
            return f"has {name} of the type {type(state[name]).__name__}"
    if not (is_number(state.get("seconds")) and state["seconds"] >= 0):
        return f"has seconds {state.get('seconds')!r}"
    return (
        wrong_settings(state["settings"])
        or wrong_places(state)
        or wrong_module(state, training)
        or wrong_best(state, training)
    )


def wrong_settings(settings: dict) -> str:
    """Those that `canonical` reads; which ones differ is said by their names."""
    weights = settings.get("rewards.weights")
    good = isinstance(weights, dict) and all(map(is_number, weights.values()))
    good = good and "steps" in settings and all(isinstance(name, str) for name in settings)
    return "" if good else "has settings that are none"


def wrong_places(state: dict) -> str:
    """An older trainer kept none."""
    places = state.get("places", {})
    good = isinstance(places, dict) and all(
        isinstance(place, dict)
        and isinstance(place.get("hub"), str)
        and isinstance(place.get("files"), dict)
        for place in places.values()
    )
    return "" if good else "has places that are none"


def wrong_module(state: dict, training: Training) -> str:
    """Weights and optimizer of another network than the settings make."""
    wanted = training.module.state_dict()
    if wrong := wrong_tensors(state["module"], wanted):
        return f"has a module whose {wrong}"
    groups = state["optimizer"].get("param_groups")
    known = training.optimizer.state_dict()["param_groups"]
    same = isinstance(groups, list) and list(map(params_of, groups)) == list(map(params_of, known))
    moments = state["optimizer"].get("state")
    if not (same and isinstance(moments, dict)):
        return "has an optimizer of another kind"
    if not moments:  # every mini-batch was left out: our own hash says so, or a head that is 0
        head = [v for name, v in state["module"].items() if name.startswith("raw.")]
        known = CONTENT in state or untrained_head(head)
        return "" if known else "has an optimizer without its state"
    sizes = [value.shape for value in training.module.parameters()]
    for index, moment in moments.items():
        good = is_count(index) and index < len(sizes) and isinstance(moment, dict)
        for name in ("exp_avg", "exp_avg_sq"):
            value = moment.get(name) if good else None
            good = isinstance(value, Tensor) and value.shape == sizes[index]
            good = good and bool(value.isfinite().all())
        if not good or not isinstance(moment.get("step"), Tensor):
            return "has an optimizer of another kind"
    return ""


def params_of(group: object) -> object:
    return group.get("params") if isinstance(group, dict) else None


def untrained_head(parts: list[Tensor]) -> bool:
    """Whether the head is still 0 (result.untrained asks it of a module)."""
    return all(float(part.abs().max()) == 0 for part in parts)


def wrong_tensors(found: dict, wanted: dict[str, Tensor]) -> str:
    """The first name, shape, type or value that is not a module's, or ""."""
    if names := sorted(map(str, found.keys() ^ wanted.keys())):
        return f"{names[0]} is {'missing' if names[0] in wanted else 'unknown'}"
    for name, own in wanted.items():
        value = found[name]
        if not isinstance(value, Tensor) or value.shape != own.shape:
            there = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            return f"{name} has the shape {there}, not {list(own.shape)}"
        if value.dtype != torch.float32 or not bool(value.isfinite().all()):
            return f"{name} is not finite, or not float32"
    return ""


def wrong_best(state: dict, training: Training) -> str:
    """The best validation so far; {} before the first."""
    best, count = state["best"], len(training.validation.texts)
    baseline = best.get("baseline", {})
    good = is_count(best.get("validated", 0)) and is_count(best.get("iteration", 0))
    good = good and is_number(best.get("score", 0.0)) and isinstance(baseline, dict)
    good = good and ("score" in best) == ("weights" in best) == ("iteration" in best)
    good = good and all(are_numbers(v) and len(v) == count for v in baseline.values())
    if not good:
        return "has a best validation that is none"
    if training.config.log.validate_every and state["iteration"] and "validated" not in best:
        return "has no validation, of which there is one before the first iteration"
    if "weights" not in best:
        return ""
    if not isinstance(best["weights"], dict):
        return "has best weights that are none"
    wrong = wrong_tensors(best["weights"], training.module.state_dict())
    return f"has best weights whose {wrong}" if wrong else ""
