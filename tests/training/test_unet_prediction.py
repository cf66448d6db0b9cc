"""What the embedded UNet is trained on, in numpy from the papers: its two tables and losses. And
where a training for v begins."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from async_timestep.training.tiny import loop, train_unet
from async_timestep.training.tiny.backbone import WEIGHTS
from async_timestep.training.tiny.unet import FILES, TABLES, TinyUNet, nearest_time, new_unet

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2


def rescaled(betas: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Lin et al. 2024, line by line."""
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * first / (first - last)
    kept = root**2
    alphas = np.concatenate([kept[:1], kept[1:] / kept[:-1]])
    return 1 - alphas


def kept_of(prediction: str) -> np.ndarray:
    """alpha bar (1000,) of the paper's own schedules."""
    return np.cumprod(1 - (BETAS if prediction == "eps" else rescaled(BETAS)))


@pytest.mark.parametrize("prediction", FILES)
def test_the_tables_are_the_papers(prediction):
    kept, table = kept_of(prediction), TABLES[prediction].double().numpy()
    found = 1 / (1 + table**2)
    assert np.allclose(found[:-1], kept[:-1], rtol=1e-5)
    assert 0 <= kept[-1] <= found[-1] < 0.005
    if prediction == "v":
        assert kept[-1] < 1e-15 and found[-1] == pytest.approx(4.8973451890853435e-08, rel=1e-6)


@pytest.mark.parametrize("prediction", FILES)
def test_the_loss_is_the_velocity_loss_of_the_first_model(prediction):
    """The network's answer says an image; of that the flow model's velocity, (x - x0) / t at flow
    time t = sigma / (1 + sigma) of x = (1 - t) x0 + t noise, has the plain squared error."""
    table, rng = TABLES[prediction].double().numpy(), np.random.default_rng(3)
    latents = torch.tensor(rng.standard_normal((6, 16, 4, 4)), dtype=torch.float32)
    t, seen = torch.tensor([0.03, 0.2, 0.5, 0.8, 0.93, 1.0]), []

    def network(x, index, encoder_hidden_states, return_dict):
        seen.append((x.double().numpy(), index.numpy()))
        return (0.3 * x + 0.1,)

    found = float(
        train_unet.loss_at(
            network, latents, None, t, torch.Generator().manual_seed(5), prediction, False
        )
    )
    ((x, index),) = seen
    levels = table[-1] / (1 + table[-1]) * t.double().numpy()
    wanted = np.log(levels / (1 - levels))
    assert (index == np.abs(np.log(table)[:, None] - wanted).argmin(0)).all() and index[-1] == 999
    sigma = table[index][:, None, None, None]
    clean, said = latents.double().numpy(), 0.3 * x + 0.1
    kept = 1 / (1 + sigma**2)
    noise = (x - np.sqrt(kept) * clean) / np.sqrt(1 - kept)
    if prediction == "v":
        image = np.sqrt(kept) * x - np.sqrt(1 - kept) * said
    else:
        image = (x - np.sqrt(1 - kept) * said) / np.sqrt(kept)
    time = sigma / (1 + sigma)
    mixed = (1 - time) * clean + time * noise
    velocity, own = noise - clean, (mixed - image) / time
    assert found == pytest.approx(float(np.square(own - velocity).mean()), rel=1e-3)


def test_v_is_that_of_the_paper():
    rng, latents = torch.Generator().manual_seed(1), torch.randn(4, 16, 4, 4)
    t = torch.tensor([0.1, 0.5, 0.9, 1.0])
    x, index, wanted, weight = train_unet.noised(latents, t, rng, "v")
    kept = torch.tensor(kept_of("v"))[index][:, None, None, None]
    noise = (x - kept.sqrt() * latents) / (1 - kept).sqrt()
    assert torch.allclose(wanted.double(), kept.sqrt() * noise - (1 - kept).sqrt() * latents,
                          atol=1e-3)  # fmt: skip
    assert torch.allclose(wanted[-1], -latents[-1], atol=1e-3), "of pure noise it is the image"
    assert float(weight.min()) >= 1 and float(weight.max()) <= 2


def test_a_training_for_v_begins_where_no_last_layer_is_better():
    """The gradient of the solved layer is 0, and the loss lower than with the eps weights."""
    text = train_unet.TextTable(WEIGHTS / "text.safetensors")
    vae = train_unet.LinearVAE(WEIGHTS / "vae.safetensors")
    rng, network = torch.Generator().manual_seed(2), new_unet()
    network.load_state_dict(TinyUNet().network.state_dict())
    latents, tokens, _ = loop.batch_of(8, rng, text, vae)
    x, index, wanted, weight = train_unet.noised(latents, torch.linspace(0.1, 1, 8), rng, "v")

    def loss():
        said = network(x, index, encoder_hidden_states=tokens, return_dict=False)[0]
        return (weight * (said - wanted).square()).mean()

    before = loss()
    before.backward()
    slope = float(network.conv_out.weight.grad.norm())
    train_unet.solve_last_layer(network, [(tokens, x, index, wanted, weight)])
    network.zero_grad()
    after = loss()
    after.backward()
    assert after.item() < 0.6 * before.item()
    assert float(network.conv_out.weight.grad.norm()) < 1e-3 * slope


def plan(**fields) -> loop.Plan:
    known = {"minutes": 0, "steps": 2, "batch": 4, "bf16": False, "log_steps": 1, "ns_steps": 1}
    return loop.Plan(**{**known, **fields})


def test_a_smoke_training_for_v_from_the_eps_weights(tmp_path):
    torch.manual_seed(0)
    train_unet.train(tmp_path, plan(prediction="v", init=WEIGHTS))
    with safe_open(tmp_path / "unet_v.safetensors", "pt") as file:
        about = file.metadata()
    assert about["prediction_type"] == "v_prediction" and "zero terminal SNR" in about["schedule"]
    lines = (tmp_path / "unet_v_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert "unet_v.safetensors" in (tmp_path / "SHA256SUMS").read_text()
    model = TinyUNet(tmp_path, "v")
    x = model.table[-1] * torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    found = model.denoised(x, float(model.table[-1]), ["a red circle on a dark plain background"])
    assert torch.isfinite(found).all() and float(found.std()) < 3
    assert int(nearest_time(model.table[-1:], model.table)) == 999


@pytest.mark.parametrize("same", [False, True])
def test_a_folder_that_it_cannot_begin_with(tmp_path, capsys, same):
    folder = WEIGHTS if same else tmp_path / "none"
    wanted = "give an --out of its own" if same else "no unet.safetensors; give a trained"
    with pytest.raises(SystemExit):
        train_unet.train(WEIGHTS if same else tmp_path, plan(init=folder))
    assert wanted in capsys.readouterr().err
