"""The real ComfyUI in this process (for bit-exact checks), and a real server (for graphs over
HTTP).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(Path(__file__).parent))
from comfy_server import ComfyServer  # noqa: E402
from host import ensure_tree  # noqa: E402

PACK = "async_timestep_pack"


def import_comfy() -> None:
    """ComfyUI on the CPU, and our pack as a package beside it, as the host would load it."""
    if PACK in sys.modules:
        return
    tree = str(ensure_tree())
    sys.path.insert(0, tree)
    argv, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import nodes  # noqa: F401  ComfyUI's, before anything else can take the name

    sys.argv = argv
    assert Path(nodes.__file__).parent == Path(tree), nodes.__file__
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules[PACK] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


import_comfy()  # before the test modules here are collected: they import comfy at their top


@pytest.fixture(scope="session")
def pack():
    """The pack as ComfyUI imports it: `pack("nodes.hook")` gives a module."""
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    torch.set_grad_enabled(False)
    yield lambda name: importlib.import_module(f"{PACK}.{name}")
    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory, pack) -> dict[str, Path]:
    """Tiny model files, one a family, that ComfyUI's own loader accepts."""
    from tiny_models import write_models

    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def families(model_files):
    """family -> (ModelPatcher, positive, negative, latent (1, C, 8, 8))."""
    from tiny_models import load_families

    return load_families(model_files)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI server with the pack; the tests of a session share it."""
    base = Path(os.environ.get("ASYNC_TIMESTEP_TEST_BASE") or tmp_path_factory.mktemp("server"))
    with ComfyServer(base) as running:
        yield running
