"""Only `prepare.py --fetch` asks the network; what loads weights and prompts reads the cache.

    with offline():
        CLIPModel.from_pretrained("openai/clip-vit-large-patch14", local_files_only=True)

`local_files_only` alone does not do: huggingface_hub may ask its server what to write into the
headers of a request that it then does not make.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Neither huggingface_hub nor datasets, where that is loaded, asks the network as long as this
    lasts: their own switch, which both read from a module."""
    import huggingface_hub.constants

    modules = [huggingface_hub.constants]
    if "datasets" in sys.modules:
        modules.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = True
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value
