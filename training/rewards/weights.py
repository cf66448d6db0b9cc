"""Published weight files into maintained classes: where they come from, and what is refused.

A file whose keys are not exactly the expected ones is refused by name: the original packages load
with strict=False, and a model that is half random gives scores that look like scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..run.offline import offline

FETCH = "fetch it with `python training/prepare.py --fetch` and the settings of the run"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# own name -> the published key, and what to make of its tensor (None: take it as it is)
Source = Callable[[str], tuple[str, Callable[[Tensor], Tensor] | None]]


def frozen(module: nn.Module, device: torch.device, precision: str = "fp32") -> nn.Module:
    return module.train(False).requires_grad_(False).to(device, DTYPES[precision])


def published_file(path: str, repo: str, name: str, setting: str) -> Path:
    """The local file, else the one in the hub's cache: the network is not asked. Raises OSError
    with what is missing and where it belongs."""
    if path:
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{setting} is {path}, where there is no file; expected the path of {name} "
                f"(published as {repo} on the Hugging Face hub), or empty for the cached one."
            )
        return Path(path)
    import huggingface_hub

    try:
        with offline():
            return Path(huggingface_hub.hf_hub_download(repo, name, local_files_only=True))
    except Exception as error:  # absent, and cut off, each have an error of their own
        raise OSError(
            f"{name} of {repo} is not in the Hugging Face cache ({type(error).__name__}); {FETCH}, "
            f"or download it by hand and set {setting} to its path."
        ) from error


def from_hub(load: Callable[..., Any], where: str, what: str, setting: str, **options: Any) -> Any:
    """load(where), a folder or a hub id in the cache: the network is not asked. Raises OSError with
    what is missing and where it belongs."""
    try:
        with offline():
            return load(where, local_files_only=True, **options)
    except Exception as error:  # as above
        raise OSError(
            f"{what} could not be loaded from {where} ({first_line(error)}); {FETCH}, or set "
            f"{setting} to a local folder that holds it."
        ) from error


def first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(". ")


def check_vocabulary(tokenizer: Any, size: int, where: str, setting: str) -> None:
    """Raises ValueError where the tokenizer (with its added tokens) is not the model's.

    transformers 5 makes a tokenizer of five tokens out of a folder without a vocabulary.
    """
    if len(tokenizer) != size:
        raise ValueError(
            f"The tokenizer of {where} has {len(tokenizer)} tokens, expected the {size} of the "
            f"model; set {setting} to the folder or hub id of the right one."
        )


@dataclass
class StateFile:
    """A published state dict, and how to name it in an error."""

    path: Path
    setting: str  # the config field that takes a path
    published: str  # file and repository
    state: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, setting: str, published: str, inside: str = "") -> StateFile:
        """Reads a torch file, or its entry `inside`. Raises ValueError when it is no such file."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a text page, a cut download, a pickle of foreign objects
            raise ValueError(
                f"{path} is no weight file that torch can read ({first_line(error)}); {setting} "
                f"takes {published}."
            ) from error
        state = state.get(inside) if inside and isinstance(state, dict) else state
        if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
            entry = f" under {inside!r}" if inside else ""
            raise ValueError(
                f"{path} holds no dictionary of tensors{entry}; {setting} takes {published}."
            )
        return cls(path, setting, published, state)

    def refuse(self, found: str) -> ValueError:
        return ValueError(f"{self.path} {found}; {self.setting} takes {self.published}.")

    def shape(self, key: str) -> tuple[int, ...]:
        if key not in self.state:
            raise self.refuse(f"holds no {key}")
        return tuple(self.state[key].shape)

    def count(self, prefix: str) -> int:
        """How many numbered entries there are below a prefix: its layers."""
        numbers = [re.match(re.escape(prefix) + r"(\d+)\.", key) for key in self.state]
        return 1 + max((int(found[1]) for found in numbers if found), default=-1)

    def heads(self, width: int, head: int) -> int:
        """Heads of a published width; the size of a head is the architecture's constant."""
        if width % head:
            raise self.refuse(f"has a width of {width}, expected a multiple of {head}")
        return width // head

    def load_into(self, module: nn.Module, source: Source, dropped: tuple[str, ...] = ()) -> None:
        """Fills the module. Raises ValueError on a missing, an unknown or a misshapen key.

        dropped: published keys that the score does not use; they may be there.
        """
        own = module.state_dict()
        wanted = {name: source(name) for name in own}
        keys = {key for key, _ in wanted.values()}
        missing = [key for key, _ in wanted.values() if key not in self.state]
        unknown = [key for key in self.state if key not in keys and key not in dropped]
        for found, names in (("holds no", missing), ("holds the unknown", unknown)):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise self.refuse(f"{found} {names[0]}{more}")
        values = {}
        for name, (key, take) in wanted.items():
            values[name] = take(self.state[key]) if take else self.state[key]
            if values[name].shape != own[name].shape:
                raise self.refuse(
                    f"holds {key} with shape {tuple(self.state[key].shape)}, which does not fit "
                    "its other tensors"
                )
        module.load_state_dict(values)
