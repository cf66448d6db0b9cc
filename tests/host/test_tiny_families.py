"""The tiny families load whole, as the class they are meant to be, and hear time and text."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import comfy.sample
import comfy.supported_models
from async_timestep.harness.tiny_families import BUILDERS, FAMILIES, load_family


@pytest.fixture(scope="module", params=list(BUILDERS))
def loaded(request, tmp_path_factory, pack):
    folder = tmp_path_factory.getbasetemp()
    return request.param, folder, load_family(request.param, folder)


def predicted(family, positive=None, shift=0.0):
    """The network's output in one step with CFG off; `shift` moves only the time it is told."""
    stock, cond, _, latent = family
    model, seen = stock.model, []
    sigma, told = model.model_sampling.percent_to_sigma(0.4), model.process_timestep
    model.process_timestep = lambda t, **kwargs: told(t * (1 - shift), **kwargs)
    handle = model.diffusion_model.register_forward_hook(lambda *args: seen.append(args[-1]))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    try:
        comfy.sample.sample_custom(
            stock.clone(), noise, 1.0, comfy.samplers.sampler_object("euler"),
            torch.tensor([sigma, sigma * 0.5]), positive or cond, cond, latent, disable_pbar=True,
        )  # fmt: skip
    finally:
        handle.remove()
        del model.process_timestep
    return seen[0]


def test_loads_whole(loaded):
    name, folder, (patcher, *_) = loaded
    family, network = FAMILIES[name], patcher.model.diffusion_model
    assert type(patcher.model.model_config) is getattr(comfy.supported_models, family.supported)
    assert type(network).__name__ == family.network
    stored, state = load_file(folder / f"tiny_{name}.safetensors"), network.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(state[key].half(), stored[key]) for key in stored)
    assert all(tensor.count_nonzero() for tensor in stored.values())


def test_hears_time_and_text(loaded):
    name, _, family = loaded
    out = predicted(family)
    assert torch.isfinite(out).all() and out.shape == family[3].shape
    assert torch.equal(out, predicted(family))
    later, other = predicted(family, shift=0.3), predicted(family, positive=family[2])
    time, text = ((changed - out).std() / out.std() for changed in (later, other))
    print(f"{name}: std {out.std():.3f}, moved by time {time:.1%}, by text {text:.1%}")
    assert time > 0.02 and text > 0.02


def test_samples(loaded):
    _, _, (patcher, positive, negative, latent) = loaded
    latent = latent.repeat(2, *[1] * (latent.ndim - 1))
    noise = comfy.sample.prepare_noise(latent, 5)
    out = comfy.sample.sample(
        patcher, noise, 3, 3.0, "euler", "simple", positive, negative, latent,
        seed=5, disable_pbar=True,
    )  # fmt: skip
    assert out.shape == latent.shape and torch.isfinite(out).all()
    assert not torch.equal(out[0], out[1])
