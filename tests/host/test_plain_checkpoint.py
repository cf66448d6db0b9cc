"""A checkpoint without a workflow: the plain graph around it goes the way of an exported one."""

from __future__ import annotations

import pytest
import torch
from workflow_files import SMALL, add_folder, generators, scored, written

import nodes
from async_timestep.harness.tiny_models import write_checkpoint
from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones import load_backbone
from async_timestep.training.backbones.comfy.plain import checkpoint_name, plain_graph
from async_timestep.training.grpo.command import main
from async_timestep.training.run.config import BackboneConfig
from async_timestep.training.run.settings import parse

CPU = torch.device("cpu")
SAMPLED = dict(sampler="euler_ancestral", scheduler="karras", guidance=2.0, resolution=128)
GIVEN = [f"--backbone.{name}={value}" for name, value in SAMPLED.items()]


@pytest.fixture(scope="module")
def checkpoint(model_files, tmp_path_factory):
    """A file in a folder of a folder of checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "mine").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        add_folder(patch, "checkpoints", folder)
        yield write_checkpoint(folder / "mine", model_files["sd15"])


@pytest.fixture(scope="module")
def backbone(checkpoint):
    return load_backbone(
        BackboneConfig(name="workflow", checkpoint=str(checkpoint), **SAMPLED), CPU
    )


def test_what_it_is(backbone, checkpoint):
    assert (backbone.family, backbone.base_model) == ("sd15", checkpoint.name)
    assert (backbone.guidance, backbone.resolution) == (2.0, 128)
    assert (backbone.latent_channels, backbone.latent_size) == (4, (16, 16))
    assert backbone.pooled_dim == 768  # SD1.5's text encoder gives one too, in ComfyUI


def test_its_latents_are_those_of_the_stock_nodes_to_the_bit(backbone, checkpoint):
    mapping = nodes.NODE_CLASS_MAPPINGS
    name = f"{checkpoint.parent.name}/{checkpoint.name}"
    model, clip, _ = mapping["CheckpointLoaderSimple"]().load_checkpoint(name)
    texts = [mapping["CLIPTextEncode"]().encode(clip, text)[0] for text in ("a dog", "")]
    latent = mapping["EmptyLatentImage"]().generate(128, 128, 1)[0]
    noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(5))
    seed = int(noise.flatten()[0].view(torch.int32)) & 0x7FFFFFFF  # the ancestral sampler's
    stock = mapping["KSamplerAdvanced"]()
    found = backbone.sample(backbone.encode(["a dog"]), noise, backbone.sigmas(3), Constant(0.0))
    with pytest.MonkeyPatch.context() as patch:  # the initial noise of another seed than the rest
        patch.setattr("comfy.sample.prepare_noise", lambda *_: noise)
        wanted = stock.sample(
            model, "enable", seed, 3, 2.0, "euler_ancestral", "karras", *texts, latent, 0, 10000,
            "disable",
        )[0]["samples"]  # fmt: skip
    assert torch.equal(found, wanted) and bool(found.isfinite().all())
    other = backbone.sample(backbone.encode(["a cat"]), noise, backbone.sigmas(3))
    assert not torch.equal(found, other)
    assert backbone.decode(found).shape == (1, 3, 128, 128)


def test_the_exported_plain_workflow_is_the_same_model(backbone, checkpoint, tmp_path):
    """One way behind both: no number depends on who wrote the graph."""
    config = BackboneConfig(name="workflow", checkpoint=str(checkpoint), **SAMPLED)
    graph = plain_graph(config, checkpoint_name(str(checkpoint)))
    graph["sampler"]["inputs"]["steps"] = 3  # an export has it
    path = written(tmp_path, graph)
    exported = load_backbone(BackboneConfig(name="workflow", workflow=path), CPU)
    found = []
    for one in (backbone, exported):
        noise, prompts = one.noise(generators(2)), one.encode(["a dog", "a mouse"])
        found.append(one.sample(prompts, noise, one.sigmas(3), Constant(0.5)))
    assert torch.equal(*found) and torch.equal(backbone.sigmas(3), exported.sigmas(3))


def test_a_checkpoint_of_the_same_name_elsewhere_is_not_taken(monkeypatch, tmp_path):
    for folder in ("theirs", "mine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").touch()
    add_folder(monkeypatch, "checkpoints", tmp_path / "theirs")
    assert checkpoint_name(str(tmp_path / "theirs" / "model.safetensors")) == "model.safetensors"
    assert checkpoint_name(str(tmp_path / "mine" / "model.safetensors")) == "model.safetensors"
    import folder_paths

    found = folder_paths.get_full_path("checkpoints", "model.safetensors")
    assert found == str(tmp_path / "mine" / "model.safetensors")


def test_it_trains(checkpoint, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [
        *SMALL, f"--backbone.checkpoint={checkpoint}", *GIVEN, "--steps=3", *scored(tmp_path),
        "--iterations=1", f"--out={out}",
    ]  # fmt: skip
    with torch.enable_grad():
        assert main(arguments) == 0, capsys.readouterr().err
    assert (out / "tpm_last.safetensors").exists()


BAD = {
    "both": (["--backbone.workflow=w.json", "--steps=3"], ["backbone.workflow", "leave one out"]),
    "steps": ([], ["steps is 0", "--steps K"]),
    "no file": (["--steps=3", "--backbone.checkpoint=lost.ckpt"], ["lost.ckpt", "no file"]),
    "node": (["--steps=3", "--backbone.node=4"], ["backbone.node", "leave this setting out"]),
    "precision": (["--steps=3", "--backbone.precision=fp16"], ["backbone.precision is 'fp16'"]),
    "size": (["--steps=3", "--backbone.resolution=64"], ["resolution is 64", "128 or more"]),
    "sampler": (["--steps=3", "--backbone.sampler=eule"], ["sampler_name", "'eule'", "euler_anc"]),
    "a name": (["--steps=3", "--backbone.scheduler=a b"], ["backbone.scheduler is", "simple"]),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence(case, checkpoint, tmp_path, capsys):
    more, words = BAD[case]
    arguments = [
        *SMALL, f"--backbone.checkpoint={checkpoint}", *GIVEN, *scored(tmp_path),
        f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    try:
        code = main([*arguments, *more])
    except SystemExit as stopped:
        code = stopped.code
    *progress, said = capsys.readouterr().err.splitlines()
    assert code in (1, 2) and all("so far" in line for line in progress), progress
    assert said.startswith("train_tpm.py: ") and said.endswith("."), said
    for word in words:
        assert word in said


@pytest.mark.parametrize("given", ["--backbone.checkpoint=m.ckpt", "--backbone.sampler=euler"])
def test_another_model_reads_none_of_it(given, capsys):
    with pytest.raises(SystemExit):
        parse(["--preset=tiny", given])
    assert "set backbone.name to workflow" in capsys.readouterr().err
