"""The trace of real runs: what their JSON says of a batch, of a map, and of AsynDM's map."""

from __future__ import annotations

import json

import pytest
import torch
from pixel_runs import Runs
from sampling import PerSample, sample

LISTS = ("t_star", "deviation", "cut_percent", "omega")


@pytest.fixture
def quarter(families) -> torch.Tensor:
    """White in the right quarter of the picture."""
    mask = torch.zeros(1, 8, 8)
    mask[..., 6:] = 1
    return mask


def content(trace) -> tuple[list[dict], str]:
    """The entries of the one run, and its kind."""
    found = json.loads(trace.to_json())
    (entries,), (kind,) = found["runs"], found["kinds"]
    return entries, kind


def test_a_batch_of_three_is_three_samples(pack, families):
    values = (0.1, 0.2, 0.6)
    model, trace = pack("nodes.run.hook").attach(families["sd35"][0], PerSample(pack, values))
    sample(families["sd35"], model, batch=3)
    entries, kind = content(trace)
    assert kind == "deviation" and [e["step"] for e in entries] == [0, 1, 2]
    assert all(e["map"] is False and e["images"] == 3 for e in entries)
    assert entries[2]["deviation"] == pytest.approx(values)
    assert entries[2]["cut_percent"] == pytest.approx([4.2717, 8.5433, 25.6300], abs=1e-3)
    assert trace.runs[0].mean_amount() == pytest.approx(0.3), "no middle of a map"
    assert "mean D +0.300, strength 8.9 % (strong); if there is grain" in trace.summary()


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_map_is_smallest_mean_and_largest_of_all_images(pack, families, quarter, batch):
    policy, region = pack("tpm.policies").Constant(0.4), pack("nodes.run.region").Region
    region = region("mask", mask=quarter)
    model, trace = pack("nodes.run.hook").attach(families["sd35"][0], policy, region=region)
    sample(families["sd35"], model, batch=batch)
    entries, kind = content(trace)
    assert kind == "deviation"
    for entry in entries:
        assert entry["map"] is True and entry["images"] == batch
        for name in LISTS:
            assert len(entry[name]) == 3 and entry[name] == sorted(entry[name]), name
    assert entries[0]["cut_percent"] == [0.0] * 3 and entries[0]["omega"] == [1.0] * 3
    assert entries[2]["deviation"] == pytest.approx([0, 0.1, 0.4])
    assert entries[2]["cut_percent"] == pytest.approx([0, 4.2717, 17.0866], abs=1e-3)
    assert entries[2]["t_star"] == pytest.approx([498.077, 575.059, 600.719], abs=1e-2)
    over = "the picture" if batch == 1 else f"{batch} pictures"
    assert f"mean D +0.100, strength 3.0 % (light), mean over {over}; 17.1 % at" in trace.summary()


@pytest.mark.parametrize("family", ["sd35", "sd15"])
@pytest.mark.parametrize("batch", [1, 2])
def test_asyndm_means_are_over_the_pixels(pack, families, quarter, family, batch):
    """A quarter of the pixels are behind: the mean of lag and sigma is a quarter of the largest."""
    runs = Runs(families[family], pack)
    sampler, trace = runs.sampler(quarter, 1.0)
    runs.run(sampler, latent=runs.empty.repeat(batch, 1, 1, 1))
    entries, kind = content(trace)
    assert kind == "asyndm" and len(entries) == 4
    assert all(e["map"] is True and e["images"] == batch for e in entries)
    assert all(e[name] == sorted(e[name]) for e in entries for name in LISTS)
    for entry in entries:
        least, mean, _ = entry["cut_percent"]
        assert mean == pytest.approx(least / 4) and entry["deviation"][1] * 4 == pytest.approx(
            entry["deviation"][0]
        )
    assert entries[1]["deviation"] == pytest.approx([-2 / 3, -1 / 6, 0]), "w (r - 1) / L, L = 3"
    sigma = entries[1]["sigma"] * (1 - entries[1]["cut_percent"][0] / 100)
    assert sigma == pytest.approx(float(runs.lagged(1.0)[1]), rel=1e-5)
    assert ("of 2 images" in trace.summary()) == (batch == 2)
