"""What the Deviation node draws before a run, against the times that a network then hears.

The run is on a flow model without a shift, the preview's own; a deviation is read off the times:
D = (u_k - u*_k) / (u_{k-1} - u_k), or ten times the share that is taken off in unit percent.
"""

from __future__ import annotations

import json
import math

import pytest
from planted import schedule
from sampling import sample

from comfy_extras.nodes_model_advanced import ModelSamplingSD3

VALUES = {
    "preset": "custom",
    "deviation": 0.5,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "unit": "interval",
    "mode": "conditioning",
}
ROOF = {"points": [[0, 0], [0.5, 1], [1, 0]], "interpolation": "linear"}
SETTINGS = [
    {},
    {"unit": "percent", "deviation": -0.3},
    {"preset": "flux1_dev", "mode": "follow_time"},
    {"preset": "sd35_medium", "start_percent": 0.3},
    {"preset": "auto"},
    {"preset": "auto", "unit": "percent", "end_percent": 0.7},
    {"preset": "detail daemon", "deviation": 0.8, "start_percent": 0.2, "end_percent": 0.8},
    {"curve": ROOF, "deviation": 1.0},
    {"curve": {**ROOF, "points": [[0, 1], [0.4, -1], [1, 2]]}, "unit": "percent"},
    {"start_percent": 0.2, "end_percent": 0.6, "deviation": -1.0},
]


def asked(pack, **values) -> dict:
    """The answer to what the page sends."""
    answered = pack("nodes.preview").answer(json.dumps({**VALUES, **values}).encode())
    json.loads(json.dumps(answered, allow_nan=False))
    return answered


def run(pack, families, steps: int, denoise: float, values: dict):
    """(u, u*): the times of the steps, and those that the network hears."""
    tiny = families["sd35"]
    (model,) = ModelSamplingSD3().patch(tiny[0], 1.0)
    model.set_attachments(pack("nodes.run.family").FAMILY_KEY, "nobody's")
    policy = pack("nodes.deviation").deviation_policy(**{**VALUES, **values})
    patched = pack("nodes.run.hook").attach(model, policy)[0]
    _, told = sample(tiny, patched, steps=steps, cfg=1.0, batch=1, denoise=denoise)
    sigmas = schedule(model, int(steps / denoise))[-(steps + 1) :]
    u = [1000 * float(sigma) for sigma in sigmas[:-1]]
    return u, [float(times[0]) for times in told]


@pytest.mark.parametrize("values", SETTINGS, ids=str)
@pytest.mark.parametrize(("steps", "denoise"), [(8, 1.0), (5, 0.5)])
def test_it_is_what_the_network_hears(pack, families, steps, denoise, values):
    drawn = asked(pack, steps=steps, denoise=denoise, **values)
    u, told = run(pack, families, steps, denoise, values)
    percent = values.get("unit") == "percent" or values.get("preset") == "detail daemon"
    found = [0.0]
    for k in range(1, steps):
        unit = u[k] * 0.1 if percent else u[k - 1] - u[k]
        found.append((u[k] - told[k]) / unit)
    assert drawn["low"] == drawn["high"] == pytest.approx(found, abs=1e-3)
    assert drawn["peak"] == drawn["low"][drawn["at"]]
    assert abs(drawn["peak"]) == max(map(abs, drawn["low"]))
    assert any(found) or drawn["text"].startswith("off")
    if any(found):
        assert f"{drawn['peak']:+.2f}" in drawn["text"]
        assert f"of {steps}" in drawn["text"]


def test_a_policy_that_measures_gets_a_band(pack):
    """Its two extremes on the steps with more than half noise, and 0 behind them."""
    drawn = asked(pack, steps=8, preset="variance match")
    assert drawn["low"][1:4] == [-0.5] * 3 and drawn["high"][1:4] == [0.5] * 3
    assert not any(drawn["low"][4:]) and not any(drawn["high"][4:])
    assert "each image" in drawn["text"] and "half noise" in drawn["note"]


def test_auto_says_what_depends_on_the_model(pack):
    families = pack("tpm.families")
    note = asked(pack, preset="auto", steps=8)["note"]
    for name in families.PRESETS:
        assert f"{name} {families.family_of(name).preset:+g}" in note
    assert f"{families.UNTUNED:+g}" in note


def test_without_a_sampler_the_steps_are_an_example(pack):
    drawn = asked(pack)
    assert len(drawn["low"]) == drawn["steps"] and "as an example" in drawn["note"]
    assert "as an example" not in asked(pack, steps=20)["note"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "best"},
        {"preset": ["auto"]},
        {"deviation": math.nan},
        {"deviation": "0.5"},
        {"start_percent": 0.9, "end_percent": 0.1},
        {"steps": 0},
        {"steps": 10**6},
        {"steps": 4.5},
        {"denoise": 0},
        {"denoise": -math.inf},
        {"curve": 3},
        {"curve": {"points": [[0, 1e300]]}},
        {"seed": 1},
        {"mode": None},
    ],
    ids=str,
)
def test_what_cannot_be_drawn_gets_a_sentence(pack, wrong):
    assert list(asked(pack, **wrong)) == ["problem"]
    assert len(asked(pack, **wrong)["problem"]) <= 300


@pytest.mark.parametrize(
    "question", [b"", b"\xff", b"[]", b"{}", b"[" * 90_000, b'"' + b"a" * 200_000 + b'"']
)
def test_what_is_no_question_gets_a_sentence(pack, question):
    answered = pack("nodes.preview").answer(question)
    assert list(answered) == ["problem"] and len(answered["problem"]) <= 300


def test_the_server_answers(pack, server):
    for values in ({}, {"preset": "best"}):
        answered = server.post("/async_timestep/deviation", {**VALUES, **values})
        assert answered == asked(pack, **values)
