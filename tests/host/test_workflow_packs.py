"""Nodes of a user's packs in a workflow: one that works trains, one that does not load is named."""

from __future__ import annotations

import asyncio

import pytest
import torch
from workflow_files import SCENES, SMALL, add_folder, generators, loaded, written

import folder_paths
import nodes
from async_timestep.harness import graphs
from async_timestep.training.backbones.comfy import packs
from async_timestep.training.backbones.comfy.host import ROOT
from async_timestep.training.grpo.command import main

GOOD = '''
class TestPackHalf:
    """The network's answer at half strength."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "test"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def patch(self, model):
        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(lambda args: 0.5 * args["denoised"])
        return (patched,)


NODE_CLASS_MAPPINGS = {"TestPackHalf": TestPackHalf}
'''
BROKEN = """
import a_module_that_nobody_has


class TestPackBroken:
    pass


NODE_CLASS_MAPPINGS = {"TestPackBroken": TestPackBroken}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory, pack):
    """A pack that works, in a folder, and one that does not, in a file of its own."""
    folder = tmp_path_factory.mktemp("custom_nodes")
    (folder / "good_pack").mkdir()
    (folder / "good_pack" / "__init__.py").write_text(GOOD)
    (folder / "broken_pack.py").write_text(BROKEN)
    (folder / "off.py.disabled").write_text(BROKEN)
    with pytest.MonkeyPatch.context() as patch:
        add_folder(patch, "custom_nodes", folder)
        paths, _ = folder_paths.folder_names_and_paths["custom_nodes"]
        paths[:] = [str(folder)]  # the machine's own are no part of this
        patch.setattr(nodes, "NODE_CLASS_MAPPINGS", dict(nodes.NODE_CLASS_MAPPINGS))
        patch.setattr(packs, "FAILED", [])
        asyncio.run(packs.load_packs(ROOT))
        yield


def with_node(class_type: str) -> dict:
    """The embedded model through a node on its way to the sampler."""
    graph = graphs.stock()
    graph["pack"] = graphs.node(class_type, model=["loader", 0])
    graph["sampler"]["inputs"]["model"] = ["pack", 0]
    return graph


def command(folder, class_type: str) -> int:
    workflow = written(folder, with_node(class_type))
    with torch.enable_grad():
        return main(
            [
                *SMALL, *SCENES, f"--backbone.workflow={workflow}", "--iterations=1",
                f"--out={folder / 'run'}",
            ]
        )  # fmt: skip


def test_a_workflow_with_a_node_of_a_pack_trains(installed, tmp_path, capsys):
    assert command(tmp_path, "TestPackHalf") == 0, capsys.readouterr().err
    assert (tmp_path / "run" / "tpm_last.safetensors").exists()
    one, plain = loaded(tmp_path, with_node("TestPackHalf")), loaded(tmp_path, graphs.stock())
    found = [
        each.sample(each.encode([graphs.PROMPT]), each.noise(generators(1)), each.sigmas(4))
        for each in (one, plain)
    ]
    assert not torch.allclose(*found, atol=0.1), "the pack's node had no effect"


def test_a_pack_that_does_not_load_is_named(installed, tmp_path, capsys):
    assert [path.name for path in packs.FAILED] == ["broken_pack.py"]
    capsys.readouterr()
    assert command(tmp_path, "TestPackBroken") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "(TestPackBroken)" in said and "of the pack broken_pack.py, which could not" in said
    assert said.endswith(".") and not (tmp_path / "run").exists()


def test_a_node_of_no_pack_is_not_blamed_on_one(installed, tmp_path, capsys):
    assert command(tmp_path, "TestPackUnknown") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "install the pack" in said and "broken_pack" not in said
