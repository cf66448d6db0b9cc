"""Encoded prompts as ComfyUI's guiders hold them, and which of them one batch can hold.

A guider has lists of entries by name (positive, negative ...): {"positive": [{"cross_attn": (1, L,
W), "pooled_output": (1, P), ...}], ...}. An entry may carry anything: areas, ControlNets, hooks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

Conds = dict[str, list[dict]]
BY_ROW = ("cross_attn", "pooled_output")  # a batch may have a row of each image's own
NAMELESS = ("uuid", "model_conds")  # differ between two encodings of the same text, or are empty


@dataclass(frozen=True)
class Prompts:
    """The `Conditioning` of a workflow: one row per prompt. conds: of each row; pooled: (B, P), one
    zero each where the model has no pooled text."""

    prompts: tuple[str, ...]
    conds: tuple[Conds, ...]
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def rows(self, index: list[int]) -> Prompts:
        """The given rows, in the given order; a row may be taken more than once."""
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in index),
            conds=tuple(self.conds[i] for i in index),
            pooled=self.pooled[torch.tensor(index, device=self.pooled.device)],
        )


def alike(conds: Conds) -> object:
    """What two rows must have in common to be in one batch: the shapes of their texts and all else
    in their entries. Attention masks keep a row apart, since models count a batch's text by them,
    and so does what a pack has made ready for a model."""
    key = []
    for name, entries in conds.items():
        for entry in entries:
            if "attention_mask" in entry or entry.get("model_conds"):
                return id(conds)
            for slot, value in sorted(entry.items()):
                if slot in BY_ROW and isinstance(value, Tensor):
                    key.append((name, slot, tuple(value.shape)))
                elif slot not in NAMELESS:
                    plain = isinstance(value, (str, int, float, bool, type(None)))
                    key.append((name, slot, value if plain else id(value)))
            key.append((name, "end"))
    return tuple(key)


def batches(rows: tuple[Conds, ...], most: int) -> list[list[int]]:
    """The rows in batches of at most `most`, each of rows that can be together."""
    together: dict[object, list[int]] = {}
    for i, conds in enumerate(rows):
        together.setdefault(alike(conds), []).append(i)
    return [part[i : i + most] for part in together.values() for i in range(0, len(part), most)]


def joined(rows: tuple[Conds, ...]) -> Conds:
    """The entries of one batch of rows that are `alike`. Of one prompt they stay as they are, one
    row that ComfyUI repeats itself."""
    if all(conds is rows[0] for conds in rows):
        return rows[0]
    out: Conds = {}
    for name, entries in rows[0].items():
        out[name] = []
        for i, entry in enumerate(entries):
            texts = {
                slot: torch.cat([conds[name][i][slot] for conds in rows])
                for slot in BY_ROW
                if isinstance(entry.get(slot), Tensor)
            }
            out[name].append({**entry, **texts})
    return out


def pooled_of(conds: Conds, device: torch.device) -> Tensor:
    """(1, P): the positive prompt's pooled text, as the nodes read it; one 0 where there is
    none."""
    for entry in conds.get("positive", []):
        if entry.get("pooled_output") is not None:
            return entry["pooled_output"][:1].detach().clone().float().to(device)
    return torch.zeros(1, 1, device=device)
