"""The embedded model: the same in ComfyUI and in the trainer, and really trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from plain_loop import plain_loop

import comfy.sample
from async_timestep.training.tiny.backbone import WEIGHTS, TinyBackbone, simple_sigmas
from async_timestep.training.tiny.scenes import held_out_scenes, render
from async_timestep.training.tiny.score import score_images

CAPTIONS = [
    "two red circles above a blue star on a dark rough background",
    "a green square on a light dotted background",
]


@pytest.fixture(scope="module")
def demo(pack):
    node = pack("nodes.demo")
    return node.load_demo_model(), node.load_demo_clip(), node.load_demo_vae()


@pytest.fixture(scope="module")
def backbone(pack):
    return TinyBackbone()


def conditioning(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def test_the_files_are_the_published_ones():
    lines = [line.split() for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines()]
    assert {name for _, name in lines} == {path.name for path in WEIGHTS.glob("*.safetensors")}
    for digest, name in lines:
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest, name


def test_comfy_takes_it_for_sd3(demo):
    assert type(demo[0].model).__name__ == "SD3"
    assert demo[0].model.latent_format.latent_channels == 16
    assert demo[0].get_model_object("model_sampling").shift == 3.0


@pytest.mark.parametrize("text", [*CAPTIONS, "", "red circle, Dark  rough"])
def test_text_encoder(demo, backbone, text):
    cond, extra = conditioning(demo[1], text)[0]
    tokens, pooled = backbone.text([text])
    assert torch.equal(cond, tokens)
    assert torch.allclose(extra["pooled_output"], pooled, rtol=1e-5, atol=1e-6)


def test_prompt_weights_and_mistakes(demo):
    plain, weighted = (
        conditioning(demo[1], t)[0][0] for t in ("a red circle", "a (red:1.5) circle")
    )
    moved = (plain != weighted).any(dim=-1)[0]
    assert moved.tolist() == [True] + [False] * 11
    with pytest.raises(ValueError, match="does not know the word 'dog'; it knows: red, green"):
        demo[1].tokenize("a red dog")
    with pytest.raises(ValueError, match="13 meaningful words"):
        demo[1].tokenize("red " * 13)


def test_word_ids_tell_words_apart(demo):
    row = demo[1].tokenize("a red circle above a blue star", return_word_ids=True)["tiny"][0]
    assert [pair[2] for pair in row[:6]] == [1, 2, 3, 4, 5, 0]
    words = [word for _, word in demo[1].tokenizer.untokenize(row)]
    assert words[:5] == ["red", "circle", "above", "blue", "star"]


def test_autoencoder(demo, backbone):
    rng = torch.Generator().manual_seed(1)
    small = render(held_out_scenes(8, seed=3), rng)[0]
    large = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest").movedim(1, -1)
    latent = demo[2].encode(large)
    assert latent.shape == (8, 16, 16, 16)
    assert torch.allclose(
        demo[0].model.process_latent_in(latent), backbone.vae.encode(small), atol=1e-4
    )
    image = demo[2].decode(latent)
    assert image.shape == (8, 128, 128, 3)
    back = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 2)
    assert float((back - backbone.vae.decode(backbone.vae.encode(small))).square().mean()) < 3e-4


@pytest.mark.parametrize("deviation", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_comfy_equals_the_trainers_own_loop(pack, demo, backbone, deviation, cfg):
    """Algorithm 2 on diffusers against the hook in ComfyUI's sampler, same noise."""
    model, clip, _ = demo
    latent = torch.zeros(1, 16, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 4)
    patched, trace = pack("nodes.run.hook").attach(model, pack("tpm.policies").Constant(deviation))
    out = comfy.sample.sample(
        patched, noise, 4, cfg, "euler", "simple", conditioning(clip, CAPTIONS[0]),
        conditioning(clip, ""), latent, disable_pbar=True, seed=4,
    )  # fmt: skip
    own = plain_loop(backbone, CAPTIONS[:1], noise, simple_sigmas(4), cfg, deviation=deviation)
    theirs = model.model.process_latent_in(out)
    assert float((theirs - own).abs().max()) <= 5e-4 * float(own.abs().max())
    assert trace.runs[-1].family == "tiny"


def test_it_is_really_trained(backbone):
    """15 steps on held-out combinations; the figure for n = 512 is in training/tiny/README.md."""
    scenes = held_out_scenes(32, seed=77, compositions_only=True)
    noise = backbone.noise(list(range(32)))
    latents = plain_loop(backbone, [s.caption for s in scenes], noise, simple_sigmas(15), 3.0)
    scores = score_images(backbone.vae.decode(latents), [s.caption for s in scenes])
    assert float(scores["strict"].mean()) >= 0.75
    assert float(scores["relation"].mean()) >= 0.95
    assert Path(WEIGHTS / "log.jsonl").stat().st_size > 1000


def test_the_example_of_its_page_runs(tmp_path):
    import runpy
    import textwrap

    from async_timestep.training.tiny import backbone as page

    block = page.__doc__.split("\n\n", 1)[1]
    assert "TinyBackbone()" in block
    (tmp_path / "example.py").write_text(textwrap.dedent(block))
    images = runpy.run_path(str(tmp_path / "example.py"))["images"]
    assert images.shape == (1, 3, 64, 64) and bool(images.isfinite().all())
