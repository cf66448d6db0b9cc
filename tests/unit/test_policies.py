"""Policies and how they compose."""

import dataclasses

import pytest
import torch

from async_timestep.tpm.policies import (
    Constant,
    Curve,
    Decision,
    Policy,
    Preset,
    Scaled,
    State,
    VelocityScale,
    Window,
    inside,
    limited,
    synchronous,
)


def state(k=2, steps=4, sigma=0.75, last=False, batch=2, family="tiny", **more) -> State:
    return State(
        k, steps, sigma, last, batch, torch.device("cpu"), family, lambda p: 1.0 - p, **more
    )


def numbers(decision: Decision) -> tuple[float, float, float]:
    for values in (decision.deviation, decision.cut, decision.omega):
        assert values.shape == (2,) and values.dtype == torch.float32
        assert values[0] == values[1]
    return tuple(
        pytest.approx(float(v[0])) for v in (decision.deviation, decision.cut, decision.omega)
    )


class Learned(Policy):
    learned = True

    def decide(self, state):
        return Constant(0.4).decide(state)


def test_synchronous_is_exactly_nothing():
    assert numbers(synchronous(state())) == (0.0, 0.0, 1.0)
    assert not synchronous(state()).follow


def test_constant_in_both_units():
    assert numbers(Constant(0.5).decide(state())) == (0.5, 0.0, 1.0)
    assert numbers(Constant(0.5, "percent").decide(state())) == (0.0, 0.05, 1.0)
    assert numbers(Constant(-0.5, "percent").decide(state())) == (0.0, -0.05, 1.0)
    assert Constant(0.5, mode="follow_time").decide(state()).follow
    assert not Constant(0.5).decide(state()).follow


@pytest.mark.parametrize("deviation", [0.1, 5.0, -0.1, -5.0])
@pytest.mark.parametrize("time", ["sigma", "index"])
def test_a_limit_is_a_share_of_sigma(deviation, time):
    """Where the interval would cut more of sigma it is that share, and elsewhere nothing changes;
    index: of a model whose time is the logarithm of its sigma."""
    clock = torch.clone if time == "sigma" else torch.log1p
    own = state(sigma=0.6, previous=0.9, timestep=clock)
    found = limited(Constant(deviation).decide(own), own, 0.05).deviation
    u, before = (float(clock(torch.tensor(s))) for s in (0.6, 0.9))
    most = (u - float(clock(torch.tensor(0.6 * 0.95)))) / (before - u)
    wanted = min(max(deviation, -most), most)
    assert found.tolist() == pytest.approx([wanted, wanted], rel=1e-5)
    unknown = state(sigma=0.6)
    assert limited(Constant(deviation).decide(unknown), unknown, 0.05).deviation[0] == deviation


def test_an_untuned_preset_is_limited_and_a_published_one_is_not():
    steep = dict(sigma=0.1, previous=0.9)
    found = Preset("auto").decide(state(family="sdxl", **steep)).deviation
    assert found.tolist() == pytest.approx([0.1 * 0.1 / 0.8] * 2)
    assert Preset("auto").decide(state(family="sdxl", sigma=0.8, previous=0.9)).deviation[0] == 0.25
    for name, value in (("flux1_dev", 0.5), ("sd35_medium", 0.2)):
        assert Preset(name).decide(state(**steep)).deviation[0] == pytest.approx(value)
    assert Preset("auto", unit="percent").decide(state(family="sdxl", **steep)).cut[0] == 0.025


@pytest.mark.parametrize(
    "name,family,value",
    [
        ("auto", "flux1_dev", 0.5),
        ("auto", "sd35_medium", 0.2),
        ("auto", "sdxl", 0.25),
        ("flux1_dev", "sdxl", 0.5),
        ("sd35_medium", "flux1_dev", 0.2),
    ],
)
def test_presets(name, family, value):
    assert numbers(Preset(name).decide(state(family=family))) == (value, 0.0, 1.0)
    found, source, tuned = Preset(name).resolve(family)
    assert found == value and tuned == (value != 0.25) == ("paper" in source)


def test_an_untuned_family_keeps_its_last_step_synchronous():
    assert numbers(Preset().decide(state(family="sdxl", last=True))) == (0.0, 0.0, 1.0)
    assert numbers(Preset().decide(state(family="flux1_dev", last=True))) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    "sigma,start,end,active",
    [
        (0.75, 0.0, 1.0, True),
        (0.75, 0.25, 1.0, True),  # both ends belong to the window
        (0.75, 0.26, 1.0, False),
        (0.75, 0.0, 0.25, True),
        (0.75, 0.0, 0.24, False),
    ],
)
def test_window_on_the_true_sigma(sigma, start, end, active):
    assert inside(state(sigma=sigma), start, end) is active
    decision = Window(Constant(0.5), start, end).decide(state(sigma=sigma))
    assert numbers(decision) == (0.5 if active else 0.0, 0.0, 1.0)


def test_scaled_multiplies_the_deviation_and_never_omega():
    policy = VelocityScale(Constant(0.25, "percent"), omega=0.8)
    assert numbers(Scaled(policy, 2.0).decide(state())) == (0.0, 0.05, 0.8)
    assert numbers(Scaled(Constant(0.25), -1.0).decide(state())) == (-0.25, 0.0, 1.0)


def test_outside_its_window_scaled_leaves_the_policy_as_it_is():
    scaled = Scaled(Constant(0.25), 2.0, 0.0, 0.2)
    assert numbers(scaled.decide(state(sigma=0.9))) == (0.5, 0.0, 1.0)
    assert numbers(scaled.decide(state(sigma=0.5))) == (0.25, 0.0, 1.0)


def test_composition_of_window_and_two_scales():
    policy = Scaled(Scaled(Window(Constant(0.5), 0.0, 0.5), 0.5), 3.0, 0.0, 0.3)
    assert numbers(policy.decide(state(sigma=0.8))) == (0.75, 0.0, 1.0)
    assert numbers(policy.decide(state(sigma=0.6))) == (0.25, 0.0, 1.0)
    assert numbers(policy.decide(state(sigma=0.4))) == (0.0, 0.0, 1.0)


def test_velocity_scale_constant_leaves_the_last_step_alone():
    policy = VelocityScale(omega=1.2)
    assert numbers(policy.decide(state())) == (0.0, 0.0, 1.2)
    assert numbers(policy.decide(state(last=True))) == (0.0, 0.0, 1.0)
    assert numbers(VelocityScale(policy, omega=0.5).decide(state())) == (0.0, 0.0, 0.6)
    assert numbers(VelocityScale(omega=1.2, end_percent=0.2).decide(state())) == (0.0, 0.0, 1.0)


def test_velocity_scale_follow_time_keeps_the_last_step():
    policy = VelocityScale(Constant(0.5), mode="follow_time")
    assert policy.decide(state(last=True)).follow
    assert numbers(policy.decide(state())) == (0.5, 0.0, 1.0)


def test_curve_is_read_at_the_progress_of_the_whole_schedule():
    policy = Curve(Constant(0.5), lambda progress: 1.0 - progress)
    assert numbers(policy.decide(state(k=1))) == (0.375, 0.0, 1.0)
    assert numbers(policy.decide(state(k=3))) == (0.125, 0.0, 1.0)


@pytest.mark.parametrize(
    "wrap",
    [Window, Scaled, VelocityScale, lambda policy: Curve(policy, lambda p: 1.0)],
    ids=["Window", "Scaled", "VelocityScale", "Curve"],
)
def test_a_wrapped_learned_policy_is_still_asked_with_an_evaluation(wrap):
    """The hook hands the evaluation over only where `learned` is true."""
    assert wrap(Learned()).learned
    assert not wrap(Constant(0.5)).learned


def test_labels_name_what_is_applied():
    assert Constant(0.5).label == "D = +0.5"
    assert "50%" in Window(Constant(0.5), 0.0, 0.5).label
    assert Window(Constant(0.5)).label == "D = +0.5"
    assert "gamma 2" in Scaled(Constant(0.5), 2.0).label
    assert "omega 1.1" in VelocityScale(omega=1.1).label


def test_policies_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(0.5).deviation = 1.0
