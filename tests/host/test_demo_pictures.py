"""The embedded pictures in ComfyUI: the same words, latents and samples as in the trainer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from plain_loop import plain_loop

import comfy.sample
from async_timestep.training.pictures.backbone import Pictures, noises
from async_timestep.training.pictures.scenes import held_out_scenes, render
from async_timestep.training.pictures.score import score_images
from async_timestep.training.tiny.backbone import simple_sigmas

CAPTION = "two cats left of an apple on grass"


@pytest.fixture(scope="module")
def demo(pack):
    node = pack("nodes.demo")
    name = node.PAINTER
    return node.load_demo_model(name), node.load_demo_clip(name), node.load_demo_vae(name)


@pytest.fixture(scope="module")
def folder(pack) -> Path:
    return pack("nodes.demo").PICTURES


@pytest.fixture(scope="module")
def painter(folder):
    return Pictures.load(folder)


def conditioning(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_the_files_are_the_published_ones(folder):
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in folder.glob("*.safetensors")}
    for digest, name in lines:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("text", [CAPTION, "an owl on sand", "", "Owl,  sand"])
def test_text_encoder(demo, painter, text):
    cond, extra = conditioning(demo[1], text)[0]
    tokens, pooled = painter.text([text])
    assert torch.equal(cond, tokens)
    assert torch.allclose(extra["pooled_output"], pooled, rtol=1e-5, atol=1e-6)


def test_mistakes(demo):
    with pytest.raises(ValueError, match="does not know the word 'dog'; it knows: apple, lemon"):
        demo[1].tokenize("a dog on grass")
    with pytest.raises(ValueError, match="7 meaningful words, the embedded demo model reads at m"):
        demo[1].tokenize("owl " * 7)
    with pytest.raises(ValueError, match=r"expected \(batch, 16, height, width\)"):
        demo[2].decode(torch.zeros(1, 4, 16, 16))


def test_autoencoder(demo, painter):
    rng = torch.Generator().manual_seed(1)
    images = render(held_out_scenes(4, seed=3), rng)[0]
    latent = demo[2].encode(images.movedim(1, -1))
    assert latent.shape == (4, 16, 16, 16)
    theirs = painter.vae.encode(images)
    assert torch.allclose(demo[0].model.process_latent_in(latent), theirs, atol=2e-4)
    back = demo[2].decode(latent)
    assert back.shape == (4, 128, 128, 3)
    assert torch.allclose(back.movedim(-1, 1), painter.vae.decode(theirs), atol=2e-4)


@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_comfy_equals_the_trainers_own_loop(pack, demo, painter, deviation):
    """Algorithm 2 on diffusers against the hook in ComfyUI's sampler, same noise."""
    model, clip, _ = demo
    latent = torch.zeros(1, 16, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 4)
    patched, trace = pack("nodes.run.hook").attach(model, pack("tpm.policies").Constant(deviation))
    out = comfy.sample.sample(
        patched, noise, 4, 3.0, "euler", "simple", conditioning(clip, CAPTION),
        conditioning(clip, ""), latent, disable_pbar=True, seed=4,
    )  # fmt: skip
    own = plain_loop(painter, [CAPTION], noise, simple_sigmas(4), 3.0, deviation=deviation)
    theirs = model.model.process_latent_in(out)
    assert float((theirs - own).abs().max()) <= 5e-4 * float(own.abs().max())
    assert trace.runs[-1].family == "tiny_pictures"


def test_it_is_really_trained(painter):
    """10 steps on held-out combinations; the figures are in training/pictures/README.md."""
    captions = [s.caption for s in held_out_scenes(16, seed=77, compositions_only=True)]
    scores = score_images(painter.sample(captions, noises(list(range(16)))), captions)
    assert float(scores["relation"].mean()) >= 0.9
    assert float(scores["reward"].mean()) >= 2.0
