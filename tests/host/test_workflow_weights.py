"""Which weights a run and a TPM file belong to: by their content, wherever they lie."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import pytest
import torch
from planted import planted_tpm, schedule, tpm_policy
from safetensors.torch import load_file, save_file
from sampling import sample
from workflow_files import (
    FAMILY,
    SMALL,
    RandomText,
    add_folder,
    family_loader,
    file_graph,
    scored,
    written,
)  # fmt: skip

import comfy.sd
import nodes
from async_timestep.nodes.run.hook import attach
from async_timestep.nodes.run.weights import weights_sha256
from async_timestep.tpm.checkpoint import load_tpm, save_tpm
from async_timestep.tpm.schedule import Schedule
from async_timestep.tpm.schedule_file import ScheduleMeta, load_schedule, save_schedule
from async_timestep.training.data.identity import difference, identities
from async_timestep.training.grpo.command import main
from async_timestep.training.run.settings import parse

STEPS = 3


def other_weights(file, path):
    """A copy in which every matrix is a little different."""
    state = load_file(file)
    save_file({key: v * 1.02 if v.ndim > 1 else v for key, v in state.items()}, path)
    return path


# --- a run


@pytest.fixture
def models(model_files, tmp_path, monkeypatch):
    """The folder of a workflow's model, and the nodes around it."""
    folder = tmp_path / "models"
    (folder / "moved").mkdir(parents=True)
    shutil.copy(model_files["sd35"], folder / "first.safetensors")
    add_folder(monkeypatch, "diffusion_models", folder)
    empty = (None, None, None, torch.zeros(1, 16, 8, 8))
    monkeypatch.setitem(
        nodes.NODE_CLASS_MAPPINGS, FAMILY, family_loader(empty, RandomText(64, 2048))
    )
    return folder


def command(folder, name: str, iterations: int, *more) -> int:
    workflow = written(folder, file_graph(name, steps=STEPS, cfg=1.0))
    with torch.enable_grad():
        return main(
            [
                *SMALL, *scored(folder), f"--backbone.workflow={workflow}",
                f"--iterations={iterations}", f"--out={folder / 'run'}", *more,
            ]
        )  # fmt: skip


def test_a_run_goes_on_with_moved_weights_and_not_with_others(models, tmp_path, capsys):
    assert command(tmp_path, "first.safetensors", 1) == 0, capsys.readouterr().err
    _, meta = load_tpm(tmp_path / "run" / "tpm_last.safetensors")
    assert (meta.base_model, meta.latent_format) == ("first.safetensors", "SD3")
    moved = models / "moved" / "second.safetensors"
    shutil.move(models / "first.safetensors", moved)
    name = "moved/second.safetensors"
    assert command(tmp_path, name, 2, "--resume") == 0, capsys.readouterr().err
    other_weights(moved, moved)
    capsys.readouterr()
    assert command(tmp_path, name, 3, "--resume") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "backbone.workflow is" in said and said.endswith(".")
    assert "whose unet_name of node" in said and "has another content" in said


def test_a_checkpoint_is_known_by_its_content(tmp_path):
    found = []
    for name, content in (("a.ckpt", b"1"), ("b.ckpt", b"1"), ("c.ckpt", b"2")):
        (tmp_path / name).write_bytes(content)
        given = [f"--backbone.checkpoint={tmp_path / name}", "--backbone.resolution=512"]
        config = parse([*SMALL, *given, "--steps=3", *scored(tmp_path)])[0]
        found.append(identities(config)["backbone.checkpoint"])
    assert difference(found[0], found[1]) == ""
    assert "another content" in difference(found[0], found[2])


# --- a TPM file


def test_the_hash_is_that_of_the_file_in_any_precision(model_files, families, tmp_path):
    load = comfy.sd.load_diffusion_model
    own = weights_sha256(families["sd35"][0])
    assert len(own) == 64 and own != weights_sha256(families["flux"][0])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert weights_sha256(load(str(model_files["sd35"]), {"dtype": dtype})) == own
    other = load(str(other_weights(model_files["sd35"], tmp_path / "other.safetensors")))
    assert len(weights_sha256(other)) == 64 and weights_sha256(other) != own


def told(tiny, model, folder, pack, **meta) -> list[str]:
    """The warnings of a run of a TPM whose file says this, with TPM and model as users have
    them."""
    path = planted_tpm(pack, folder, "sd35", schedule(tiny[0], STEPS))
    module, known = load_tpm(path)
    save_tpm(path, module, replace(known, **meta))
    patched, trace = attach(model, tpm_policy(pack, path))
    sample(tiny, patched, steps=STEPS)
    return trace.runs[-1].warnings


def test_other_weights_of_the_family_are_warned_of(families, tmp_path, pack, caplog):
    tiny = families["sd35"]
    own = dict(weights_sha256=weights_sha256(tiny[0]), base_model="mine.safetensors")
    assert told(tiny, tiny[0], tmp_path, pack, **own) == []
    assert told(tiny, tiny[0], tmp_path, pack) == []  # an older file tells nothing
    with caplog.at_level(logging.WARNING):
        found = told(tiny, tiny[0], tmp_path, pack, **{**own, "weights_sha256": "0" * 64})
    assert len(found) == 1 and found[0] in caplog.text
    assert "The TPM was made on mine.safetensors" in found[0] and "sd35_medium" in found[0]
    family = told(tiny, tiny[0], tmp_path, pack, model_family="sd3", weights_sha256="0" * 64)
    assert len(family) == 1 and "trained for sd3 " in family[0]


def test_a_schedule_tells_its_weights_too(families, tmp_path):
    tiny, path = families["sd35"], tmp_path / "found.safetensors"
    grid = schedule(tiny[0], STEPS).tolist()
    flat = Schedule(tuple(grid), (0.0, *[0.3] * (STEPS - 1)), (1.0,) * STEPS)
    own = weights_sha256(tiny[0])
    for weights, wanted in ((own, 0), ("", 0), ("0" * 64, 1)):
        meta = ScheduleMeta("sd35_medium", 16, base_model="mine", weights_sha256=weights)
        save_schedule(path, flat, meta)
        patched, trace = attach(tiny[0], load_schedule(path)[0])
        sample(tiny, patched, steps=STEPS)
        found = trace.runs[-1].warnings
        assert len(found) == wanted
        assert all(w.startswith("The schedule found was made on mine and") for w in found)


def test_a_lora_is_no_other_model(families, tmp_path, pack):
    tiny = families["sd35"]
    name = "joint_blocks.0.x_block.mlp.fc1.weight"
    weight = dict(tiny[0].model.diffusion_model.named_parameters())[name]
    own, before = weights_sha256(tiny[0]), weight.clone()
    lora, changes = tiny[0].clone(), {}
    for key, part in tiny[0].model.diffusion_model.named_parameters():
        if part.ndim == 2:
            changes[f"diffusion_model.{key}"] = ("diff", (torch.full(part.shape, 0.1),))
    assert len(lora.add_patches(changes, 1.0)) == len(changes) > 10
    assert told(tiny, lora, tmp_path, pack, weights_sha256=own) == []
    inside = dict(lora.model.diffusion_model.named_parameters())[name]
    assert not torch.equal(inside, before), "the LoRA was not in the network"
    assert weights_sha256(lora) == own
    sample(tiny, tiny[0], steps=STEPS)  # takes it out again
    assert torch.equal(weight, before)
