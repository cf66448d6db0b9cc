"""The real ComfyUI in this process (for bit-exact checks), and a real server (for graphs over
HTTP).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from async_timestep.harness.comfy_server import ComfyServer
from async_timestep.harness.in_process import import_comfy
from async_timestep.harness.in_process import pack as module_of

import_comfy()  # before the test modules here are collected: they import comfy at their top


@pytest.fixture(scope="session")
def pack():
    """`pack("nodes.run.hook")` gives a module of the pack."""
    torch.set_num_threads(1)  # the models are tiny: more threads only wait for each other
    torch.set_grad_enabled(False)
    yield module_of
    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory, pack) -> dict[str, Path]:
    """Tiny model files, one per family, that ComfyUI's own loader accepts."""
    from async_timestep.harness.tiny_models import write_models

    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def families(model_files):
    """family -> (ModelPatcher, positive, negative, latent (1, C, 8, 8))."""
    from async_timestep.harness.tiny_models import load_families

    return load_families(model_files)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real ComfyUI server with the pack; the tests of a session share it."""
    base = Path(os.environ.get("ASYNC_TIMESTEP_TEST_BASE") or tmp_path_factory.mktemp("server"))
    with ComfyServer(base) as running:
        yield running


@pytest.fixture
def eye(pack, tmp_path, monkeypatch):
    """The node file, with a user folder and a models/tpm of its own."""
    import folder_paths

    pack("nodes").register_tpm_folder()
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    own = ([str(tmp_path / "tpm"), *folder_paths.get_folder_paths("tpm")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "tpm", own)
    pack("nodes.eye_store").generations.clear()
    return pack("nodes.eye")


@pytest.fixture
def store(pack, eye):
    return pack("nodes.eye_store")


@pytest.fixture
def routes(pack, eye):
    return pack("nodes.eye_routes")
