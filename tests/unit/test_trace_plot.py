"""The record of a run, its JSON, its words and its picture."""

import json
import math

import numpy as np
import pytest
import torch

from async_timestep.report.canvas import DARK, LIGHT
from async_timestep.report.panels import Axis, nice_ticks
from async_timestep.report.plot import plot_trace, words_card
from async_timestep.report.trace import ASYNDM, Run, Trace, stages_of

GRID = [1.0, 0.9, 0.75, 0.5, 0.0]


def run(deviation=(0.5,), label="D = +0.5", omega=1.0, grid=GRID, map_of=0, **fields) -> Run:
    """A run of Euler over the grid with one deviation per image, or smallest, mean and largest; of
    AsynDM it is minus the lag."""
    record = Run(label, "tiny", list(grid), **fields)
    for k in range(len(grid) - 1):
        d = [value * (k > 0) for value in deviation]
        t_star = [grid[k] + value * (grid[k] - grid[max(k - 1, 0)]) for value in d]
        cut = [100 * (1 - value / grid[k]) for value in t_star]
        lag = [-value for value in reversed(d)] if record.asyndm else None
        told = [0.0] * len(d) if record.asyndm else d
        record.add(k, grid[k], grid[k], t_star, told, cut, [omega] * len(d), map_of, lag=lag)
    return record


def trace(*runs: Run) -> Trace:
    record = Trace()
    record.runs.extend(runs)
    return record


def count(image: torch.Tensor, color: str) -> int:
    """Pixels of a theme colour."""
    wanted = torch.tensor([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int(((image[0] - wanted).abs().amax(-1) < 0.02).sum())


def test_json():
    content = json.loads(trace(run(), run((0.2, -0.2), tuned=False)).to_json())
    named = {"runs", "labels", "families", "kinds", "sigmas"}
    assert set(content) == named | {"remarks", "sources", "tuned", "warnings"}
    assert content["labels"] == ["D = +0.5"] * 2 and content["remarks"] == ["", "untuned"]
    assert content["families"] == ["tiny"] * 2 and content["sigmas"] == [GRID, GRID]
    first = content["runs"][0][2]
    keys = {"step", "sigma", "t", "t_star", "deviation", "cut_percent", "omega"}
    assert set(first) == keys | {"map", "images"} and first["step"] == 2
    assert first["sigma"] == first["t"] == 0.75 and first["deviation"] == [0.5]
    assert first["t_star"] == pytest.approx([0.675]) and first["cut_percent"] == pytest.approx(
        [10.0]
    )
    assert [len(entry["t_star"]) for entry in content["runs"][1]] == [2, 2, 2, 2]


def test_json_has_no_nan():
    record = run()
    record.add(4, math.inf, 0.1, [math.nan], [0.5], [-math.inf], [1.0])
    text = trace(record).to_json()
    last = json.loads(text, parse_constant=lambda name: pytest.fail(name))["runs"][0][-1]
    assert last["sigma"] is None and last["t_star"] == [None] and last["cut_percent"] == [None]


def test_empty_trace():
    assert json.loads(Trace().to_json())["runs"] == []
    assert Trace().summary().startswith("off")


def test_summary_names_the_numbers():
    text = trace(run(source="paper: 10 steps, 512 px")).summary()
    assert "D = +0.5: 4 evaluations, mean D +0.500" in text  # the first one is no decision
    assert "paper: 10 steps" in text and "run 1" not in text
    assert "mean D +0.100" in trace(run((0.5, -0.3))).summary()
    assert "omega 1.1 to 1.1" in run((0.0,), omega=1.1).summary()


@pytest.mark.parametrize(
    ("deviation", "strength"),
    [(0.1, "2.0 % (light)"), (0.2, "4.0 % (medium)"), (0.5, "10.0 % (strong)"), (-0.5, "-10.0 %")],
)
def test_the_strength_is_that_of_the_middle(deviation, strength):
    """The grid's cuts are .2, .4 and 1 of it at full D, of which the last is near the end."""
    record = run((deviation,))
    cuts = [step["cut_percent"][0] for step in record.steps[1:]]
    assert record.mid_cut() == pytest.approx(np.median(cuts)) != record.peak_cut()
    text = record.summary()
    assert f"strength {strength}" in text and ("grain" in text) == (abs(deviation) == 0.5)


def test_the_line_of_a_node():
    assert run().line() == "detail +0.50 on steps 2 to 4 of 4, strength 10.0 % (strong)"
    untuned = run((0.1, 0.3), source="sdxl D = +0.25", tuned=False)
    assert untuned.line().endswith("strength 4.0 % (medium), untuned for this model")
    assert run((-0.2,)).line().startswith("smoothing -0.20 on steps 2 to 4 of 4")
    assert run((0.0,), omega=1.1).line() == "omega 1.1 to 1.1"
    assert run((0.0,)).line() == "off: every deviation is 0: the network is told the true time"
    assert Run("", "tiny", GRID, why="nobody asked").line() == "off: nobody asked"
    only = run()
    for k in (1, 3):
        only.steps[k]["deviation"] = [0.0]
    assert only.line().startswith("detail +0.50 on step 3 of 4")
    only.steps[1]["deviation"] = only.steps[3]["deviation"] = [0.5]
    only.steps[2]["deviation"] = [0.0]
    assert only.line().startswith("detail +0.50 on 2 of 4 steps")
    assert asyndm().line() == "pixels 0.10 steps behind, 0.40 at most"


def of_map(images: int = 1) -> Run:
    """Smallest, mean and largest of the pixels, and the region's masks."""
    record = run((0.0, 0.1, 0.4), "D = +0.5, in a region", map_of=images)
    record.masks = [torch.eye(8).expand(images, -1, -1) for _ in record.steps]
    return record


def asyndm(images: int = 1) -> Run:
    """The same of a lag, which is minus the deviation."""
    return run((-0.4, -0.1, 0.0), "AsynDM euler, strength 0.5, cat", map_of=images, kind=ASYNDM)


def test_summary_of_maps():
    text = of_map().summary()
    assert "mean D +0.100, strength 2.0 % (light), mean over the picture; 20.0 % at its" in text
    text = asyndm().summary()
    assert "pixels 0.10 steps behind, 0.40 at most" in text and " %" not in text
    none = Run("AsynDM euler, strength 0", "tiny", GRID, kind=ASYNDM)
    assert "off, the stock sampler ran" in none.summary()


def test_what_is_not_finite_is_left_out_and_counted():
    record = run((-0.5, 0.5, math.nan))
    # three evaluations with a NaN in t*, D and cut; at the first NaN * 0 is one too
    assert record.lost == 12 and "12 numbers are not finite" in record.summary()
    assert record.mean_amount() == 0.0 and record.peak_cut() == 0.0
    assert count(plot_trace(trace(record)), DARK.warn) > 20
    assert count(plot_trace(trace(run((-0.5, 0.5)))), DARK.warn) == 0
    everything = run((math.nan,))
    assert bool(plot_trace(trace(everything)).isfinite().all())


def test_stages_of_one_schedule_are_one_run():
    whole, first, second = run(), run(), run()
    first.steps, second.steps = first.steps[:2], second.steps[2:]
    joined, stages = stages_of([first, second])
    assert stages == 2 and joined.steps == whole.steps
    assert stages_of([whole, whole])[1] == 1  # sampled twice
    assert stages_of([run(label="other"), second])[1] == 1
    drawn, alone = plot_trace(trace(first, second)), plot_trace(trace(whole))
    difference = (drawn - alone).abs().amax(-1)[0]
    assert bool(difference[:48].any()) and not bool(difference[48:].any())


def test_one_step_says_why_it_is_off():
    assert "the first evaluation is never changed" in run(grid=[1.0, 0.0]).summary()
    assert "every deviation is 0" in run((0.0,)).summary()


def test_summary_of_several_runs():
    second = run(label="second", source="sdxl D = +0.25", tuned=False)
    lines = trace(run(), second).summary().split("\n")
    assert lines[0].startswith("run 1 of 2: D = +0.5") and lines[1].startswith("run 2 of 2: second")
    assert lines[2:] == ["  sdxl D = +0.25, untuned"]


def test_summary_of_nothing():
    assert "no evaluations" in trace(Run("D = +0.5", "tiny", GRID)).summary()
    assert "off" in trace(run((0.0,))).summary()
    assert "off" not in trace(run((0.0,), omega=1.1)).summary()
    assert "omega 1.1 to 1.1" in trace(run((0.0,), omega=1.1)).summary()


def test_off_and_peak():
    assert run((0.0, 0.0)).off and not run((0.0, 0.1)).off and not run((0.0,), omega=0.9).off
    assert run((0.5, 0.3)).peak_cut() == pytest.approx(20.0)  # mean of the batch


@pytest.mark.parametrize("size", [(768, 512), (512, 341), (320, 240)])
@pytest.mark.parametrize("dark", [True, False])
def test_plot_shape_and_theme(size, dark):
    image = plot_trace(trace(run()), size, dark)
    assert image.shape == (1, size[1], size[0], 3) and image.dtype == torch.float32
    assert 0.0 <= float(image.min()) and float(image.max()) <= 1.0
    ours, other = (DARK, LIGHT) if dark else (LIGHT, DARK)
    assert count(image, ours.told) > 200 and count(image, ours.cut) > 80
    assert count(image, ours.band) > 2000 > count(image, other.band)


def test_a_free_size_grows_with_what_is_shown():
    plain, omega, region = (
        plot_trace(trace(r)).shape[1] for r in (run(), run(omega=1.1), of_map())
    )
    assert 480 < plain < omega < region + 60 and plain < region
    assert plot_trace(trace(run())).shape[2] == 768
    long = "a warning that needs more room than one line of the plot has at its width " * 2
    assert plain < plot_trace(trace(run(warnings=[long]))).shape[1]


def heights_of_cut(image: torch.Tensor) -> list[float]:
    """Where the cut's line is at the first and at the third of four evaluations, from above."""
    orange = torch.tensor([int(DARK.cut[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    lower = (image[0, 300:, :] - orange).abs().amax(-1) < 0.02
    return [float(lower[:, x - 2 : x + 3].nonzero()[:, 0].float().mean()) for x in (147, 459)]


def test_asyndm_is_drawn_as_a_lag_above_zero():
    zero, later = heights_of_cut(plot_trace(trace(asyndm())))
    assert later < zero - 20
    zero, later = heights_of_cut(plot_trace(trace(run((-0.4,)))))
    assert later > zero + 20


def test_plot_says_off_without_the_told_line():
    off = plot_trace(None)
    assert count(off, DARK.text) > 1000 and count(off, DARK.told) == 0  # the large letters
    assert torch.equal(plot_trace(Trace()), off)
    zero = plot_trace(trace(run((0.0,))))
    assert count(zero, DARK.text) > 1000 and count(zero, DARK.told) == 0
    assert count(zero, DARK.true) > 200  # the sampler's own sigma is still there
    assert count(plot_trace(trace(Run("a", "tiny", GRID))), DARK.text) > 1000


def test_plot_shows_untuned():
    tagged = plot_trace(trace(run(source="sdxl D = +0.25", tuned=False)))
    plain = plot_trace(trace(run(source="flux1_dev D = +0.5, paper: 10 steps")))
    assert count(tagged, DARK.warn) > 500 and count(plain, DARK.warn) == 0


def test_plot_shows_omega_only_where_it_is_used():
    assert count(plot_trace(trace(run(omega=1.1))), DARK.omega) > 200
    assert count(plot_trace(trace(run((0.0,), omega=1.1))), DARK.omega) > 200
    assert count(plot_trace(trace(run())), DARK.omega) == 0


def test_plot_shows_the_last_run():
    one, two = run(), run((0.1, 0.4), label="second")
    assert not torch.equal(plot_trace(trace(one, two)), plot_trace(trace(two, one)))
    # only the corner ("run 2 of 2") may differ from the plot of that run alone
    difference = (plot_trace(trace(one, two)) - plot_trace(trace(two))).abs().amax(-1)[0]
    assert bool(difference[:40].any()) and not bool(difference[40:].any())


def test_whiskers_appear_with_a_batch_that_differs():
    spread, same = (plot_trace(trace(run(d))) for d in ((0.2, 0.4), (0.3, 0.3)))
    assert count(spread, DARK.told) > count(same, DARK.told)


@pytest.mark.parametrize(
    "record",
    [
        run(grid=[14.6, 7.0, 2.0, 0.5, 0.03, 0.0]),
        run(grid=[1.0 - i / 120 for i in range(121)]),
        run(grid=[1.0, 0.0]),
        run(label="x" * 300, source="word " * 200),
        run(label="", source="untuned" * 100),
        run((-1.0, 1.0, math.nan)),
    ],
    ids=["eps model", "120 steps", "one step", "long text", "no label", "nan"],
)
def test_plot_of_unusual_runs(record):
    image = plot_trace(trace(record))
    assert bool(image.isfinite().all()) and count(image, DARK.true) > 20


def test_axis_and_ticks():
    axis = Axis((0, 10, 100, 110), 0.0, 2.0, 4)
    assert axis.y(0.0) == 110 and axis.y(2.0) == 10 and axis.y(1.0) == 60 and axis.x(0) == 12.5
    log = Axis((0, 0, 1, 100), 0.01, 100.0, 1, log=True)
    assert log.y(1.0) == pytest.approx(50)
    assert nice_ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert nice_ticks(-0.27, 0.27, 4) == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2])
    assert nice_ticks(0.5, 0.5, 4) == [0.5]


def test_words_card_grows_with_its_lines():
    one, two = words_card(["image 0: 0.17 of 255"]), words_card(["image 0: 0.17 of 255"] * 2)
    assert one.shape[0] == 1 and one.shape[2:] == (512, 3) and two.shape[1] > one.shape[1]
    bright = [(card > 0.6).all(-1).sum() for card in (words_card([]), one, two)]
    assert bright[0] == 0 and bright[1] > 200 and 1.9 < bright[2] / bright[1] < 2.1
