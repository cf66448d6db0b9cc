"""The training of the pictures for a few steps: its autoencoder, its model, an interrupted run that
ends with the same bits, and two processes that share a batch.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from async_timestep.training.pictures import measure, train_autoencoder, train_backbone
from async_timestep.training.pictures.autoencoder import Autoencoder
from async_timestep.training.pictures.backbone import FILES, Pictures, noises
from async_timestep.training.pictures.scenes import SIZE, render, sample_scene
from async_timestep.training.tiny import loop

STEPS = 4


def plan(**fields) -> loop.Plan:
    known = {"minutes": 0, "steps": STEPS, "batch": 4, "bf16": False, "log_steps": 1, "ns_steps": 1}
    return loop.Plan(**{**known, **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With an autoencoder of four steps, which is little more than its linear part."""
    out = tmp_path_factory.mktemp("pictures")
    train_autoencoder.train(out, plan(lr=1e-3))
    return out


def test_the_autoencoder_starts_from_a_pca_and_gives_normal_latents(folder):
    vae, rng = Autoencoder(folder / "vae.safetensors"), torch.Generator().manual_seed(1)
    images = render([sample_scene(rng) for _ in range(32)], rng)[0]
    latents = vae.encode(images)
    assert latents.shape == (32, 16, 16, 16)
    assert abs(float(latents.mean())) < 0.2 and 0.8 < float(latents.std()) < 1.2
    error = (vae.decode(latents) - images).square().mean()
    assert -10 * error.log10() > 22  # dB; a mean colour a patch has 17


def test_another_file_is_not_an_autoencoder(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="has the format None, expected 'async-timestep-pictures"):
        Autoencoder(tmp_path / "vae.safetensors")


def test_an_interrupted_training_ends_with_the_same_bits(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_backbone, "WATCHED", 2)
    monkeypatch.setattr(train_backbone, "WATCH_STEPS", 2)
    monkeypatch.setattr(train_backbone.watch, "__defaults__", (2,))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out in (whole, parts):
        out.mkdir()
        (out / "vae.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    seen = []
    usual = train_backbone.flow_loss

    def stops(*given):
        seen.append(given)
        if len(seen) == STEPS + 3:  # the third step of the second run
            raise KeyboardInterrupt
        return usual(*given)

    monkeypatch.setattr(train_backbone, "flow_loss", stops)
    torch.manual_seed(7)
    train_backbone.train(whole, plan())
    for interrupted in (True, False):
        torch.manual_seed(7)
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                train_backbone.train(parts, plan(save_seconds=-1))
            assert (parts / "checkpoint.pt").exists()
        else:
            train_backbone.train(parts, plan(save_seconds=-1))
    files = [load_file(out / "transformer.safetensors") for out in (whole, parts)]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert not (parts / "checkpoint.pt").exists()
    log = [json.loads(line) for line in (parts / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4]
    watched = [line for line in log if "strict" in line]
    assert [line["step"] for line in watched] == [2, 4, 4]
    assert (parts / "steps_000004.png").exists()

    images = Pictures.load(parts).sample(["a cat on sand"] * 2, noises([0, 1]), steps=2)
    assert images.shape == (2, 3, SIZE, SIZE) and images.isfinite().all()
    assert not torch.equal(images[0], images[1])


def test_without_an_autoencoder_it_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_backbone.train(tmp_path, plan())
    assert "has no vae.safetensors; train the autoencoder into it" in capsys.readouterr().err


def test_another_training_begins_with_the_weights_of_the_first(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_backbone.watch, "__defaults__", (2,))
    first, more = tmp_path / "first", tmp_path / "more"
    for out in (first, more):
        out.mkdir()
    (first / "vae.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    train_backbone.train(first, plan(layers=2))
    train_backbone.train(more, plan(init=first, lr=0.0, seed=8))  # nothing is learnt
    weights = [load_file(out / "transformer.safetensors") for out in (first, more)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name in ("text.safetensors", "vae.safetensors"):
        assert (more / name).read_bytes() == (first / name).read_bytes()
    train_backbone.train(more, plan(init=first, lr=1e-2))
    learnt = load_file(more / "transformer.safetensors")
    assert not all(torch.equal(learnt[name], weights[0][name]) for name in learnt)


def test_the_model_alone_is_measured(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_backbone.watch, "__defaults__", (2,))
    out = tmp_path / "model"
    out.mkdir()
    argv = ["measure", "--weights", str(out), "--n", "2", "--steps", "1", "--only_model"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        measure.main()
    assert "has no transformer.safetensors; leave --only_model out" in capsys.readouterr().err
    (out / "vae.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    train_backbone.train(out, plan(steps=1))
    capsys.readouterr()
    measure.main()
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0] == "model" and not {"rendered", "shuffled", "noise", "autoencoder"} & set(rows)


def test_what_cannot_begin_says_why(folder, tmp_path, capsys):
    empty, other = tmp_path / "empty", tmp_path / "other"
    for out in (empty, other):
        out.mkdir()
    for out, init, sentence in (
        (other, empty, "has no transformer.safetensors; give the folder of a trained model"),
        (empty, empty, "are both"),
    ):
        with pytest.raises(SystemExit):
            train_backbone.train(out, plan(init=init))
        assert sentence in capsys.readouterr().err
    for name in FILES:
        (empty / name).write_bytes(b"a model's")
    (other / "vae.safetensors").write_bytes(b"another's")
    with pytest.raises(SystemExit):
        train_backbone.train(other, plan(init=empty))
    assert "is another than in" in capsys.readouterr().err
    assert (other / "vae.safetensors").read_bytes() == b"another's"


def small_training(out, plan):
    """A linear network on random numbers; keeps what every process ends with."""
    rng = torch.Generator().manual_seed(plan.seed)
    network = torch.nn.Linear(3, 1)
    seen = []

    def loss_of(forward, progress, rng):
        x = torch.randn(plan.share, 3, generator=rng)
        seen.append(x)
        return (forward(x) - x.sum(1, keepdim=True)).square().mean()

    optimizers = [torch.optim.SGD(network.parameters(), 0.1)]
    path, files = out / "network.safetensors", ("log.jsonl", "checkpoint.pt")
    loss = loop.run(network, optimizers, loss_of, plan, rng, path, {}, *files)
    torch.save((network.state_dict(), torch.cat(seen)), out / f"rank_{loop.rank()}.pt")
    return loss


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked here")
def test_two_processes_share_a_batch_and_stay_one_model(tmp_path):
    rest = (str(tmp_path / "store"), small_training, tmp_path, plan(processes=2, batch=8), 1)
    torch.multiprocessing.start_processes(loop._member, rest, 2, start_method="fork")
    kept = [torch.load(tmp_path / f"rank_{k}.pt", weights_only=True) for k in range(2)]
    (first, mine), (second, others) = kept
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert mine.shape == others.shape == (STEPS * 4, 3) and not torch.equal(mine, others)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in log] == [8, 16, 24, 32]  # one process tells
    torch.manual_seed(7)
    alone = torch.nn.Linear(3, 1)  # the same by one, on both shares
    optimizer = torch.optim.SGD(alone.parameters())
    for step, x in enumerate(zip(mine.split(4), others.split(4), strict=True)):
        x = torch.cat(x)
        optimizer.param_groups[0]["lr"] = 0.1 * loop.learning_rate(step / STEPS, step, 200)
        (alone(x) - x.sum(1, keepdim=True)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.allclose(alone.weight, first["weight"], atol=1e-6)
