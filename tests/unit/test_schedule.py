"""A schedule: interpolation against numpy's, the file and everything that can be wrong with one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from async_timestep.tpm.content import KEY, content_sha256
from async_timestep.tpm.metadata import TPMFileError
from async_timestep.tpm.policies import Constant, Scaled, State
from async_timestep.tpm.schedule import Schedule, interpolate, schedule_warnings
from async_timestep.tpm.schedule_file import (
    ScheduleMeta,
    is_schedule,
    load_schedule,
    save_schedule,
)

GRID = (1.0, 0.9, 0.75, 0.5, 0.0)
MINE = Schedule(GRID, (0.0, 0.6, 0.8, -0.1), (1.0, 1.2, 0.9, 0.8))
META = ScheduleMeta("tiny", 4, gain=0.02, gain_se=0.002, gain_n=1024, images=1280, reward="scene")


def state(k: int, sigma: float, steps: int = 4, **more) -> State:
    return State(k, steps, sigma, False, 3, torch.device("cpu"), "tiny", lambda p: 1 - p, **more)


@pytest.mark.parametrize("mode", ["conditioning", "follow_time"])
def test_on_its_own_grid_it_is_what_was_written(mode):
    schedule = replace(MINE, mode=mode)
    for k in range(4):
        decision = schedule.decide(state(k, GRID[k] * (1 + 3e-6)))
        assert torch.equal(decision.deviation, torch.full((3,), schedule.deviation[k]))
        assert torch.equal(decision.omega, torch.full((3,), schedule.omega[k]))
        assert not decision.cut.any() and decision.follow == (mode == "follow_time")


falling = st.lists(st.integers(1, 999), min_size=2, max_size=12, unique=True).map(
    lambda numbers: [n / 1000 for n in sorted(numbers, reverse=True)]
)


@given(falling, st.floats(0, 1), st.randoms(use_true_random=False))
def test_between_its_points_it_is_numpys_line(times, t, random):
    values = [random.uniform(-1, 1) for _ in times]
    wanted = np.interp(t, times[::-1], values[::-1])
    assert interpolate(t, times, values) == pytest.approx(wanted, abs=1e-3 * 2.1)
    if min(abs(t - time) for time in times) > 1e-5:
        assert interpolate(t, times, values) == pytest.approx(wanted, abs=1e-12)


def test_time_is_the_share_of_noise_on_models_with_another_sigma():
    eps = state(2, 3.0, flow_time=lambda sigma: sigma / (1 + sigma))
    assert torch.equal(MINE.decide(eps).deviation, torch.full((3,), 0.8))


def test_it_never_deviates_at_the_first_point_and_scales_as_any_policy():
    assert not MINE.decide(state(0, 0.8)).deviation.any()
    twice, half = Scaled(MINE, 2.0), Scaled(MINE, 0.5)
    assert twice.decide(state(2, 0.75)).deviation[0] == pytest.approx(1.6)
    assert half.decide(state(2, 0.75)).omega[0] == pytest.approx(0.9), "gamma never scales omega"
    assert Schedule((1.0, 0.0), (0.0,), (1.0,)).decide(state(0, 1.0, 1)).omega.tolist() == [1] * 3


def test_a_flat_one_is_a_constant():
    flat = Schedule(GRID, (0.0, 0.5, 0.5, 0.5), (1.0,) * 4)
    for k, sigma in enumerate((1.0, 0.93, 0.6, 0.3, 0.05)):
        ours, constant = (p.decide(state(k, sigma, 5)) for p in (flat, Constant(0.5)))
        assert k == 0 or torch.equal(ours.deviation, constant.deviation)
        assert torch.equal(ours.omega, constant.omega)


def test_sizes_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="3 times, 1 deviations and 2 omegas, expected K"):
        Schedule((1.0, 0.5, 0.0), (0.0,), (1.0, 1.0))


def test_a_file_reads_back_and_is_the_same_bytes_again(tmp_path):
    path = tmp_path / "mine.safetensors"
    for schedule in (MINE, replace(MINE, mode="follow_time")):
        save_schedule(path, schedule, META)
        found, meta = load_schedule(path)
        assert meta == META and is_schedule(path)
        assert found == replace(schedule, name="mine", meta=META)
        first = path.read_bytes()
        save_schedule(path, schedule, META)
        assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == [path.name]
    assert not is_schedule(tmp_path / "none.safetensors")


def test_a_hash_of_weights_is_a_key_only_where_it_is_known(tmp_path):
    """So that packs that do not know the key yet read the files that have none."""
    path = tmp_path / "mine.safetensors"
    for weights in ("", "0" * 64):
        meta = replace(META, weights_sha256=weights)
        save_schedule(path, MINE, meta)
        assert load_schedule(path)[1] == meta
        with safe_open(path, framework="pt") as file:
            assert ("weights_sha256" in file.metadata()) == bool(weights)


def rewritten(path, change_texts=None, change_tensors=None, rehash=True):
    """The file with other content; its hash made anew unless that is what is tried."""
    with safe_open(path, framework="pt") as file:
        texts = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if change_texts:
        change_texts(texts)
    if change_tensors:
        change_tensors(tensors)
    if rehash:
        texts[KEY] = content_sha256(tensors, texts)
    save_file(tensors, path, metadata=texts)


@pytest.mark.parametrize(
    ("texts", "tensors", "sentence"),
    [
        (lambda t: t.update(format="async-timestep-tpm"), None, "has format 'async-timestep-tpm'"),
        (lambda t: t.update(format_version="2"), None, "format_version '2', expected '1'; update"),
        (lambda t: t.update(colour="red"), None, "has the unknown metadata key 'colour'"),
        (lambda t: t.pop("gain"), None, "has no metadata key 'gain'"),
        (lambda t: t.update(gain="NaN"), None, "has gain 'NaN', expected a number"),
        (lambda t: t.update(source="a dream"), None, "source 'a dream', expected search or eye"),
        (lambda t: t.update(mode="lying"), None, "mode 'lying', expected conditioning or follow"),
        (lambda t: t.update(steps="5"), None, "expected {'deviation': 4, 'omega': 5, 'sigmas': 6}"),
        (None, lambda t: t.pop("omega"), "has tensors of the shapes"),
        (None, lambda t: t["omega"].fill_(float("nan")), "has NaN or infinity"),
        (None, lambda t: t["sigmas"].fill_(0.5), "expected falling ones"),
        (None, lambda t: t["sigmas"][0].fill_(1e300), "has 1e+300 in sigmas, expected numbers"),
        (None, lambda t: t["deviation"].fill_(1e30), "has 1e+30 in deviation, expected numbers"),
        (None, lambda t: t["omega"].fill_(1e-300), "has 1e-300 in omega, expected numbers from"),
        (None, lambda t: t["omega"].fill_(-1), "has -1 in omega, expected numbers from 1e-09 to"),
        (lambda t: t.update(gain="1e300"), None, "has gain '1e300', expected a number"),
        (lambda t: t.update(note="a\nb"), None, "expected one line of at most"),
        (lambda t: t.update(model_family="\x1b[31m"), None, "that can be printed"),
        (lambda t: t.update(steps="100000000"), None, "a whole number from 1 to 10,000"),
        (lambda t: t.pop("steps"), None, "has steps '', expected a whole number"),
        (None, lambda t: t.update(more=torch.zeros(10**6)), "has tensors of the shapes"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(tmp_path, texts, tensors, sentence):
    path = tmp_path / "mine.safetensors"
    save_schedule(path, MINE, META)
    rewritten(path, texts, tensors)
    with pytest.raises(TPMFileError) as caught:
        load_schedule(path)
    text = str(caught.value)
    assert sentence in text and text.startswith("mine.safetensors ") and text.endswith(".")


def test_every_flipped_bit_of_the_numbers_is_seen(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_schedule(path, MINE, META)
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for place in range(begin, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(TPMFileError, match="damaged or changed since;"):
            load_schedule(path)
    for end in (0, 5, begin - 3, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(TPMFileError, match="no complete safetensors file"):
            load_schedule(path)
    with pytest.raises(TPMFileError, match="was not found"):
        load_schedule(tmp_path / "gone.safetensors")


def test_what_is_to_be_said_of_another_model_and_fewer_steps():
    mine = replace(MINE, name="mine", meta=META)
    noted = replace(mine, meta=replace(META, note="Nothing was gained."))
    assert schedule_warnings(noted, "tiny", 4) == ["Nothing was gained."]
    assert schedule_warnings(MINE, "sdxl", 4) == [] == schedule_warnings(mine, "tiny", 9)
    other, fewer = schedule_warnings(mine, "sdxl", 3)
    assert "made for tiny and runs here on sdxl" in other
    assert "on 4 steps and runs here on 3" in fewer
