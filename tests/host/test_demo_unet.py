"""The second embedded model, with both of its sets of weights: the same network in ComfyUI and in
diffusers, and under every node."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

import comfy.sample
from async_timestep.harness import graphs, graphs_regions
from async_timestep.training.tiny.scenes import held_out_scenes
from async_timestep.training.tiny.score import score_images
from async_timestep.training.tiny.unet import TABLES, TinyUNet, nearest_time, simple_sigmas
from comfy.model_sampling import V_PREDICTION

GRAPHS = {
    "model patch": graphs.model_patch,
    "sampler": graphs.async_ksampler,
    "two stages": graphs.split_sigmas,
    "AsynDM, words": graphs_regions.asyndm_words,
    "AsynDM, a mask": graphs_regions.asyndm_mask,
    "deviation in a region": graphs_regions.regional_detail,
}
CAPTION = "two red circles above a blue star on a dark rough background"
NAMES = {"eps": "unet (eps)", "v": "unet (v, zero terminal SNR)"}


@pytest.fixture(scope="module", params=NAMES)
def prediction(request):
    return request.param


@pytest.fixture(scope="module")
def demo(pack, prediction):
    return pack("nodes.demo").AsyncTimestepDemoLoader.execute(NAMES[prediction]).args


@pytest.fixture(scope="module")
def own(pack, prediction):
    return TinyUNet(prediction=prediction)


def conditioning(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def sampled(demo, model, noise, steps: int, sampler: str = "euler"):
    """Latents in the network's own scale."""
    conds = (conditioning(demo[1], text) for text in (CAPTION, ""))
    out = comfy.sample.sample(
        model, noise, steps, 3.0, sampler, "simple", *conds, torch.zeros_like(noise),
        disable_pbar=True, seed=4,
    )  # fmt: skip
    return demo[0].model.process_latent_in(out)


def test_it_is_of_sd15s_type(demo, prediction):
    """It was trained on the sigmas that ComfyUI samples, up to a processor's rounding."""
    sampling = demo[0].get_model_object("model_sampling")
    assert type(demo[0].model).__name__ == "BaseModel"
    assert torch.allclose(sampling.sigmas, TABLES[prediction], rtol=1e-6)
    assert demo[0].model.concat_keys == ()  # not taken for an inpainting model
    assert isinstance(sampling, V_PREDICTION) == sampling.zsnr == (prediction == "v")


@pytest.mark.parametrize("index", [0, 250, 600, 999])
def test_denoised_is_that_of_diffusers(demo, own, index):
    sigma = own.table[index].reshape(1)
    rng = torch.Generator().manual_seed(index)
    x = torch.randn(1, 16, 16, 16, generator=rng) * (1 + sigma**2).sqrt()
    assert int(nearest_time(sigma, own.table)) == index
    context = conditioning(demo[1], CAPTION)[0][0]
    found = demo[0].model.apply_model(x, sigma, c_crossattn=context)
    expected = own.denoised(x, float(sigma), [CAPTION])
    assert float((found - expected).abs().max()) <= 2e-4 * float(expected.abs().max())


def test_a_whole_run_is_that_of_diffusers(demo, own):
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 4)
    found = sampled(demo, demo[0], noise, 6)
    expected = own.sample([CAPTION], noise, simple_sigmas(6, own.table), 3.0)
    assert float((found - expected).abs().max()) <= 2e-3 * float(expected.abs().max())


def test_ddim_is_euler(demo):
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 4)
    runs = [sampled(demo, demo[0], noise, 4, sampler) for sampler in ("ddim", "euler", "dpmpp_2m")]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[1], runs[2])


def test_deviation_zero_is_the_stock_sampler_and_another_is_not(pack, demo, prediction):
    attach, constant = pack("nodes.run.hook").attach, pack("tpm.policies").Constant
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 4)
    stock = sampled(demo, demo[0], noise, 6)
    same, trace = attach(demo[0], constant(0.0))
    assert torch.equal(sampled(demo, same, noise, 6), stock)
    moved, trace = attach(demo[0], constant(0.25))
    assert not torch.equal(sampled(demo, moved, noise, 6), stock)
    assert trace.runs[-1].family == {"eps": "tiny_unet", "v": "tiny_unet_v"}[prediction]


@pytest.mark.parametrize("start", [0.0, 0.05])
def test_omega_at_pure_noise_is_warned_of(pack, demo, prediction, start):
    """A tenth of sigma 4519 that is left there ends in no picture, and the run says so; with the
    window of its sentence it is one, and so it is on the model that begins at 14.6."""
    attach, scale = pack("nodes.run.hook").attach, pack("tpm.policies").VelocityScale
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 4)
    stock = sampled(demo, demo[0], noise, 6)
    model, trace = attach(demo[0], scale(None, 0.9, "constant", start, 1.0))
    moved = float((sampled(demo, model, noise, 6) - stock).std())
    said = "omega 0.9 at sigma 4519" in " ".join(trace.runs[-1].warnings)
    assert said == (prediction == "v" and start == 0) == (moved > 5 * float(stock.std()))


def test_it_is_really_trained(own):
    scenes = held_out_scenes(32, seed=77, compositions_only=True)
    noise = torch.stack(
        [torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(32)]
    )
    captions = [scene.caption for scene in scenes]
    latents = own.sample(captions, noise, simple_sigmas(15, own.table), 3.0)
    scores = score_images(own.vae.decode(latents), captions)
    assert float(scores["strict"].mean()) >= 0.9
    assert float(scores["relation"].mean()) >= 0.95


def picture(server, graph: dict) -> np.ndarray:
    """The first picture of the graph's preview."""
    shown = server.run(graph)["preview"]["images"][0]
    return np.asarray(Image.open(io.BytesIO(server.fetch(shown))).convert("RGB")).astype(float)


@pytest.fixture(scope="module")
def stock(server, prediction):
    graph = graphs.stock(batch=1, steps=10)
    return picture(server, with_unet(graph, prediction))


def with_unet(graph: dict, prediction: str) -> dict:
    graph["loader"]["inputs"]["model"] = NAMES[prediction]
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 10
    return graph


@pytest.mark.parametrize("name", GRAPHS)
def test_every_node_runs_on_it(server, stock, prediction, name):
    """The picture stays the scene, and is not the stock one."""
    found = picture(server, with_unet(GRAPHS[name](batch=1), prediction))
    assert found.shape == (128, 128, 3) == stock.shape
    assert 0 < np.abs(found - stock).mean() < 40
