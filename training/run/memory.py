"""What to say when memory runs out: which settings to lower, with their present values."""

from __future__ import annotations

import re

import torch

from .config import Config

# torch has a class for a full card alone; a full CPU is known by its allocator's words
WORDS = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return type(error) is RuntimeError and any(word in str(error) for word in WORDS)


def advice(error: BaseException, config: Config) -> str:
    """One sentence for an error that is out_of_memory."""
    wanted = re.search(r"allocate ([\d.]+ \w+)", str(error)) or re.search(
        r"allocate (\d+ bytes)", str(error)
    )
    asked = f" ({wanted[1]} more were asked for)" if wanted else ""
    none = "what ComfyUI expects to fit" if config.backbone.name == "workflow" else "no limit"
    values = (
        f"backbone.batch (now {config.backbone.batch or f'0, {none}'})",
        f"backbone.decode_batch ({config.backbone.decode_batch or '0, no limit'})",
        f"rewards.batch ({config.rewards.batch})",
        f"grpo.num_generations ({config.grpo.num_generations})",
    )
    return (
        f"Memory ran out{asked}; lower {', '.join(values[:-1])} or {values[-1]}, or set "
        "text_encoders to offload: all but the group may change when a run goes on by --resume."
    )
