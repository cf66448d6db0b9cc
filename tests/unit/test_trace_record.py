"""What a trace knows of a run is a field of it: never read back from words for people."""

import json

import pytest
import torch
from test_trace_plot import GRID, asyndm, count, of_map, run, trace

from async_timestep.report.canvas import DARK
from async_timestep.report.panels import over_what, series
from async_timestep.report.plot import plot_trace
from async_timestep.report.trace import ASYNDM, DEVIATION, Run, stages_of
from async_timestep.tpm import families
from async_timestep.tpm.policies import Preset, State

THREE = (0.0, 0.1, 0.5)  # of which 0.1 is the middle and 0.2 the mean


def step(k: int, t: float, of_map: bool, images: int, **lists) -> dict:
    """An entry of the JSON."""
    return {"step": k, "sigma": t, "t": t, "map": of_map, "images": images, **lists}


def two_points(kind: str, values, map_of: int, **fields) -> Run:
    """A first evaluation, and one where the told time is 0.5 - 0.5 D, on the grid 1, 0.5, 0. Of
    AsynDM D is minus the lag."""
    record = Run(f"a {kind}", "sdxl", [1.0, 0.5, 0.0], kind=kind, **fields)
    n = len(values)
    record.add(0, 1.0, 1.0, [1.0] * n, [0.0] * n, [0.0] * n, [1.0] * n, map_of)
    told, cut = [0.5 - 0.5 * d for d in values], [100 * d for d in values]
    lag = [-d for d in reversed(values)] if record.asyndm else None
    decided = [0.0] * n if record.asyndm else list(values)
    record.add(1, 0.5, 0.5, told, decided, cut, [1.0] * n, map_of, lag=lag)
    return record


def zeros(n: int) -> dict:
    return {"t_star": [1.0] * n, "deviation": [0.0] * n, "cut_percent": [0.0] * n, "omega": [1] * n}


SAMPLES = {"t_star": [0.375, 0.25, 0.5], "deviation": [0.25, 0.5, 0], "cut_percent": [25, 50, 0]}
PIXELS = {"t_star": [0.5, 0.375, 0.25], "deviation": [0, 0.25, 0.5], "cut_percent": [0, 25, 50]}
LAGS = {"t_star": [0.75, 0.625, 0.5], "deviation": [-0.5, -0.25, 0], "cut_percent": [-50, -25, 0]}
KINDS = {
    "a batch of three": (
        two_points(DEVIATION, (0.25, 0.5, 0.0), 0, source="sdxl D = +0.25", tuned=False),
        [step(0, 1.0, False, 3, **zeros(3)), step(1, 0.5, False, 3, omega=[1] * 3, **SAMPLES)],
        {
            "kinds": ["deviation"], "sources": ["sdxl D = +0.25"], "tuned": [False],
            "remarks": ["sdxl D = +0.25, untuned"], "warnings": [[]],
        },
    ),
    "a map": (
        two_points(DEVIATION, (0.0, 0.25, 0.5), 1, source="by hand", warnings=["One.", "Two."]),
        [step(0, 1.0, True, 1, **zeros(3)), step(1, 0.5, True, 1, omega=[1] * 3, **PIXELS)],
        {
            "kinds": ["deviation"], "sources": ["by hand"], "tuned": [True],
            "remarks": ["by hand; One.; Two."], "warnings": [["One.", "Two."]],
        },
    ),
    "AsynDM on two images": (
        two_points(ASYNDM, (-0.5, -0.25, 0.0), 2),
        [step(0, 1.0, True, 2, **zeros(3)), step(1, 0.5, True, 2, omega=[1] * 3, **LAGS)],
        {
            "kinds": ["asyndm"], "sources": [""], "tuned": [True], "remarks": [""],
            "warnings": [[]],
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_json_of_each_kind(name):
    record, entries, fields = KINDS[name]
    content = json.loads(trace(record).to_json())
    own = {"labels": [record.label], "families": ["sdxl"], "sigmas": [[1.0, 0.5, 0.0]]}
    assert content == {"runs": [entries], **own, **fields}


def test_a_map_and_a_batch_of_three_differ_everywhere():
    """The same three numbers: as samples their mean is 0.2, as a map's the middle one, 0.1."""
    batch, pixels = run(THREE), run(THREE, map_of=1)
    assert batch.mean_amount() == pytest.approx(0.2) and batch.images == 3 and not batch.of_map
    assert pixels.mean_amount() == pytest.approx(0.1) and pixels.images == 1 and pixels.of_map
    assert batch.peak_cut() == pytest.approx(10.0) and pixels.peak_cut() == pytest.approx(5.0)
    assert "mean D +0.200, strength 4.0 % (medium)" in batch.summary()
    assert "mean D +0.100" in pixels.summary() and "mean over the picture" in pixels.summary()
    drawn = [plot_trace(trace(record)) for record in (batch, pixels)]
    assert drawn[0].shape != drawn[1].shape or not torch.equal(*drawn)
    told = [json.loads(trace(record).to_json())["runs"][0] for record in (batch, pixels)]
    assert [[entry["map"] for entry in entries] for entries in told] == [[False] * 4, [True] * 4]


def test_a_list_of_an_entry_has_one_unit():
    """Shares of the interval, tenths of the time, steps of the grid: the JSON keeps one key."""
    record = two_points(DEVIATION, (0.25, 0.5), 0)
    record.add(1, 0.5, 0.5, [0.4, 0.3], [0.0, 0.0], [20, 40], [1.0, 1.0], percent=[2.0, 4.0])
    late = two_points(ASYNDM, (-0.5, -0.25, 0.0), 1)
    lists = [[entry[name] for name in ("deviation", "percent", "lag")] for entry in record.steps]
    assert lists[1:] == [[[0.25, 0.5], [0, 0], [0, 0]], [[0, 0], [2.0, 4.0], [0, 0]]]
    assert late.steps[1]["deviation"] == [0, 0, 0] and late.steps[1]["lag"] == [0, 0.25, 0.5]
    assert record.lists("amount")[1:] == [[0.25, 0.5], [2.0, 4.0]]
    assert record.mean_amount() == pytest.approx((0.375 + 3.0) / 2)
    told = json.loads(trace(record, late).to_json())["runs"]
    assert [entry["deviation"] for entry in told[0][1:]] == [[0.25, 0.5], [2.0, 4.0]]
    assert told[1][1]["deviation"] == [-0.5, -0.25, 0.0]
    assert not {"percent", "lag"} & told[0][1].keys() | {"percent", "lag"} & told[1][1].keys()


def test_maps_of_several_images_say_so():
    assert "mean over 2 pictures; 20.0 % at its strongest" in of_map(2).summary()
    assert "pixels of 2 images 0.10 steps behind" in asyndm(2).summary()
    legends = [over_what(r, series(r, "cut_percent")) for r in (run(THREE), of_map(), of_map(2))]
    pixels = ", mean of the pixels"
    assert legends == [", mean of 3 images", pixels, f"{pixels} of 2 images"]


def test_the_kind_is_no_part_of_the_label():
    """A policy may be called anything."""
    named = run((-0.4,), label="AsynDM's own schedule")
    assert not named.asyndm and "mean D -0.400" in named.summary()
    plain = run((-0.4,), label="mine", kind=ASYNDM)
    assert plain.asyndm and "0.40 steps behind" in plain.summary()
    assert not torch.equal(plot_trace(trace(named)), plot_trace(trace(plain)))
    empty = Run("mine", "tiny", GRID, kind=ASYNDM)
    assert "off, the stock sampler ran" in empty.summary()


def test_the_tag_is_no_part_of_the_words():
    warned = run(source="tuned once, now untuned", warnings=["The TPM is untuned here."])
    assert warned.tuned and count(plot_trace(trace(warned)), DARK.warn) == 0
    assert warned.remark == "tuned once, now untuned; The TPM is untuned here."
    tagged = run(source="sdxl D = +0.25", tuned=False, warnings=["Another schedule."])
    assert tagged.remark == "sdxl D = +0.25, untuned; Another schedule."
    assert tagged.said == "sdxl D = +0.25; Another schedule."  # beside the tag
    assert count(plot_trace(trace(tagged)), DARK.warn) > 500
    assert run(tuned=False).remark == "untuned" and run().remark == run().said == ""


def test_the_last_step_is_not_decided_by_a_sentence(monkeypatch):
    """A family that somebody has measured is tuned, however its source is worded."""
    mine = families.Family("mine", preset=0.5, preset_source="my notes on what was left untuned")
    monkeypatch.setitem(families.FAMILIES, "mine", mine)
    assert Preset("mine").resolve("tiny")[2] is True
    last = State(3, 4, 0.5, True, 1, torch.device("cpu"), "tiny", lambda percent: 1.0)
    assert Preset("mine").decide(last).deviation.tolist() == [0.5]
    assert Preset("auto").decide(last).deviation.tolist() == [0.0]


def test_warnings_are_kept_once_and_in_all_stages():
    record = run()
    record.warn("One.", "Two.", "One.")
    record.warn("Two.")
    assert record.warnings == ["One.", "Two."]
    first, second = run(warnings=["One."]), run(warnings=["One.", "Two."])
    first.steps, second.steps = first.steps[:2], second.steps[2:]
    assert stages_of([first, second])[0].warnings == ["One.", "Two."]
    assert first.warnings == ["One."], "the stages stay as they are"
