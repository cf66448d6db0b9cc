"""A reward of the user's own: a Python file with one function.

    def score(images, prompts):   # images (B, 3, H, W) float32 in [0, 1], on the run's device
        return ...                # (B,) numbers: a tensor, an array or a list; larger is better

It serves the one metric of rewards.weights that no other reward has. Whatever is wrong with it
stops the run in one sentence with the file, and the line where there is one.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from . import RewardError

EXPECTED = "expected a Python file with a function score(images, prompts)"
MODULE = "async_timestep_reward_plugin"


class PluginReward:
    """One metric, scored by the `score` of a file.

    Raises OSError where the file cannot be read, ValueError where it gives no `score`.
    """

    def __init__(self, path: str, name: str):
        self.path, self.names = path, (name,)
        self.score = score_of(path)

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] -> metric -> (B,) float32. Raises RewardError."""
        (name,) = self.names
        who = f"The reward {name} of {self.path}"
        given = images.detach().float().clone()  # a plugin may write into what it is given
        try:
            with torch.no_grad():
                found = self.score(given, list(prompts))
        except torch.OutOfMemoryError:  # has a cure of its own
            raise
        except (Exception, SystemExit) as error:  # whatever somebody's code raises
            where = line_of(error, self.path)
            raise RewardError(f"{who} failed{where}: {said(error)}.") from error
        try:
            scores = torch.as_tensor(found).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            kind = type(found).__name__
            raise RewardError(f"{who} gave a {kind}, expected {len(prompts)} numbers.") from None
        if scores.is_complex() or tuple(scores.shape) != (len(prompts),):
            kind = "complex numbers" if scores.is_complex() else "numbers"
            raise RewardError(
                f"{who} gave {kind} of shape {tuple(scores.shape)}, expected ({len(prompts)},): "
                "one number an image."
            )
        if not bool(scores.float().isfinite().all()):
            bad = int((~scores.float().isfinite()).nonzero()[0])
            raise RewardError(
                f"{who} gave {scores[bad].item()} for the prompt {prompts[bad]!r}, expected a "
                "finite number."
            )
        return {name: scores.float()}


def own_metric(path: str, names: list[str], known: str) -> str:
    """The metric that a plugin is for: the one name that no other reward has. known: the names of
    the others, for a sentence. Raises ValueError where there is not exactly one."""
    if not names:
        raise ValueError(
            f"rewards.plugin is {path}, but rewards.weights names nothing for it, expected one "
            "name of your own beside the built-in ones; add --rewards.weights.my_reward 1."
        )
    if len(names) > 1:
        raise ValueError(
            f"rewards.weights names {' and '.join(map(repr, names))}, expected one of them for "
            f"rewards.plugin {path} and the others some of {known}."
        )
    return names[0]


def score_of(path: str) -> Callable:
    """The `score` of a file. Raises OSError or ValueError of one sentence."""
    try:
        Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"rewards.plugin is {path}, where there is no file, {EXPECTED}."
        ) from None
    except OSError as error:
        raise OSError(
            f"rewards.plugin is {path}, which cannot be read ({error.strerror}), {EXPECTED}."
        ) from None
    score = getattr(loaded(path), "score", None)
    if not callable(score):
        found = "has no score" if score is None else f"has a score that is {score!r}"
        raise ValueError(f"rewards.plugin is {path}, which {found}, {EXPECTED}.")
    if not takes_two(score):
        raise ValueError(
            f"rewards.plugin is {path}, whose score takes {inspect.signature(score)}, expected "
            "(images, prompts)."
        )
    return score


def takes_two(function: Callable) -> bool:
    """Whether a function can be called with two arguments; True where it does not tell."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    places = [p for p in taken if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in places if p.default is p.empty]
    named = [p for p in taken if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    enough = len(places) >= 2 or any(p.kind == p.VAR_POSITIONAL for p in taken)
    return enough and len(needed) <= 2 and not named


class FreshLoader(SourceFileLoader):
    """Reads the text itself: no file of compiled code is left beside the user's, or taken for it
    where it was changed within a second."""

    def get_code(self, fullname: str):
        return self.source_to_code(self.get_data(self.path), self.path)


def loaded(path: str) -> ModuleType:
    """The file as a module. Raises ValueError where it does not run, with its line."""
    loader = FreshLoader(MODULE, path)  # whatever its suffix
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(MODULE, loader))
    sys.modules[MODULE] = module  # dataclasses look themselves up there
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[MODULE]
        raise ValueError(
            f"rewards.plugin is {path}, which cannot be loaded{line_of(error, path)}: "
            f"{said(error)}."
        ) from error
    return module


def said(error: BaseException) -> str:
    """What an error says, on one line, with its kind; without the full stop."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = " ".join(text.split()).rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def line_of(error: BaseException, path: str) -> str:
    """ " at line 12": the last line of the file that the error went through, or ""."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f" at line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    return f" at line {lines[-1]}" if lines else ""
