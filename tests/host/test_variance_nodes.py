"""Time shift by variance in ComfyUI: the time that each network is told, against the paper's search
over the model's own times in numpy, and the node through a server."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sampling import sample

import comfy.samplers
from async_timestep.harness import graphs

FAMILIES = ("sd35", "flux", "sd15", "vpred")


def run(pack, tiny, window: float = 0.5, scale: float = 1.0, **more):
    """(latents, times told at each call (calls, chunks * B), x at each step (steps, B, ...))."""
    policy, seen = pack("tpm.variance").VarianceMatch(window), []
    patched, trace = pack("nodes.run.hook").attach(tiny[0], policy, scale)

    def callback(step, denoised, x, total):
        seen.append(x.clone())

    latents, told = sample(tiny, patched, callback=callback, **more)
    return latents, told, seen, trace


def nearest_sigma(x: np.ndarray, sigma: float, before: float, sampling, mixes: bool) -> float:
    """argmin over the noise levels within half an interval of |var(x) - sigma^2_tau|, data of
    variance 1, above a share of noise of 1/2."""
    if (sigma if mixes else sigma / (1 + sigma)) <= 0.5:
        return sigma
    if mixes:
        reach = 0.5 * (before - sigma)
        levels = np.linspace(max(sigma - reach, 0.5), sigma + reach, 200_001)
        marginal = (1 - levels) ** 2 + levels**2
    else:  # of a table, half an interval of its indices
        table = sampling.sigmas.double().numpy()
        here, there = (int(sampling.timestep(torch.tensor(s))) for s in (sigma, before))
        ends = here - 0.5 * (there - here), here + 0.5 * (there - here)
        index = np.linspace(*ends, 200_001).clip(0, len(table) - 1)
        levels = np.exp(np.interp(index, np.arange(len(table)), np.log(table)))
        marginal = 1 + levels**2
    return float(levels[np.abs(x.var(ddof=1) - marginal).argmin()])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_network_is_told_the_time_of_the_variance(pack, families, family):
    tiny, mixes = families[family], family in ("sd35", "flux")
    _, told, seen, trace = run(pack, tiny, steps=6)
    sampling = tiny[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 6).tolist()
    shifted = 0
    for k in range(6):
        wanted = [sigmas[k]] * 2
        if k:
            wanted = [
                nearest_sigma(x.double().numpy(), sigmas[k], sigmas[k - 1], sampling, mixes)
                for x in seen[k]
            ]
        u = [float(sampling.timestep(torch.tensor(sigma))) for sigma in wanted]
        slack = 1e-3 if mixes else 1.01  # a table's times are whole numbers
        slack *= float(sampling.timestep(torch.tensor(1.0))) if mixes else 1
        assert told[k].view(-1, 2)[0].tolist() == pytest.approx(u, abs=slack), k
        shifted += any(abs(w - sigmas[k]) > 0.01 * sigmas[k] for w in wanted)
    assert shifted >= 2
    deviations = [step["deviation"] for step in trace.runs[-1].steps]
    assert max(abs(d) for own in deviations for d in own) <= 0.5
    assert trace.runs[-1].label == "variance match, |D| <= 0.5"


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m"])
@pytest.mark.parametrize("family", ("sd35", "sd15"))
def test_no_window_or_no_scale_is_stock_bit_for_bit(pack, families, family, sampler):
    tiny = families[family]
    stock, _ = sample(tiny, sampler=sampler, steps=4)
    assert torch.equal(run(pack, tiny, window=0.0, sampler=sampler, steps=4)[0], stock)
    assert torch.equal(run(pack, tiny, scale=0.0, sampler=sampler, steps=4)[0], stock)
    assert not torch.equal(run(pack, tiny, sampler=sampler, steps=4)[0], stock)


@pytest.mark.parametrize("family", ("sd35", "sd15"))
def test_a_sampling_that_it_cannot_shift_says_so(pack, families, family):
    """A late stage: no noise that it acts on. A whole sampling, and a window of 0, say nothing."""
    tiny = families[family]
    sampling = tiny[0].get_model_object("model_sampling")
    late = [s for s in comfy.samplers.calculate_sigmas(sampling, "simple", 20).tolist() if s < 0.5]
    more = {"steps": len(late) - 1, "sigmas": torch.tensor(late)}
    _, _, _, trace = run(pack, tiny, **more)
    (said,) = trace.runs[-1].warnings
    assert said.startswith("variance match shifts nothing here") and "50% noise" in said
    assert not any(any(step["deviation"]) for step in trace.runs[-1].steps)
    assert run(pack, tiny, window=0.0, **more)[3].runs[-1].warnings == []
    assert run(pack, tiny, steps=6)[3].runs[-1].warnings == []


def test_the_nodes_through_a_server(server):
    """As the preset of the Deviation node, and of the patch itself: the same times."""
    by_node = graphs.async_ksampler(batch=2)
    by_node["deviation"]["inputs"]["preset"] = "variance match"
    by_patch = graphs.model_patch(batch=2)
    by_patch["patch"]["inputs"]["preset"] = "variance match"
    found = []
    for graph in (by_node, by_patch):
        graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 1]}}
        outputs = server.run(graph)
        found.append(json.loads(outputs["show"]["text"][0])["runs"][0])
        assert "variance match" in outputs["plot"]["text"][0]
    assert found[0] == found[1]
    for image in range(2):
        own = [step["deviation"][image] for step in found[0]]
        assert own[0] == 0 and all(abs(d) <= 0.5 for d in own) and any(own)
