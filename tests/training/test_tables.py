"""The tables and statistics of an evaluation, against numpy and the paper's form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from async_timestep.training.evaluation.methods import Method
from async_timestep.training.evaluation.per_prompt import Scores
from async_timestep.training.evaluation.statistics import difference, mean_error
from async_timestep.training.evaluation.tables import (
    Result,
    difference_table,
    paper_table,
)


def test_paired_differences_are_those_of_numpy():
    a, b = np.random.default_rng(0).normal(size=(2, 50))
    mean, error = difference(torch.tensor(a), torch.tensor(b))
    assert mean == pytest.approx((a - b).mean())
    assert error == pytest.approx((a - b).std(ddof=1) / np.sqrt(50))
    assert mean_error(torch.tensor(a))[1] == pytest.approx(a.std(ddof=1) / np.sqrt(50))


def result(name: str, kind: str, level: float, **more) -> Result:
    """A method whose metrics lie `level` above those of level 0."""
    sizes = {"image_reward": 0.9, "hps": 0.27, "clip": 0.27, "pick": 22.0, "noise": 0.01}
    values = torch.linspace(0, 1, 5, dtype=torch.float64)
    metrics = {metric: size * (1 + 0.1 * values + level) for metric, size in sizes.items()}
    told = torch.full((5, 3), 0.2 * bool(level), dtype=torch.float64)
    scores = Scores(metrics, told[:, 0], told, torch.ones_like(told), torch.ones(5))
    return Result(Method(name, kind, **more), 4, scores)


def test_the_paper_table_has_the_form_of_tables_1_and_2():
    results = [
        result("D=0", "baseline", 0.0),
        result("a gamma=1", "tpm", 0.1, tpm="a"),
        result("a gamma=2", "tpm", 0.3, tpm="a", gamma=2.0),
        result("b gamma=1", "tpm", 0.2, tpm="b", bound=1.0),
    ]
    lines = paper_table(results, "sd35_medium").splitlines()
    assert lines[0] == ("| Method | ImageReward | HPSv2 | CLIP | PickScore | Mean Deviation |")
    assert (
        lines[2].startswith("| sd35_medium base | 0.9450 | 0.2835 |") and lines[2][-5:] == "| 0 |"
    )
    assert "a (0.5 + r*) | <u>" in lines[3] and lines[3].endswith("| +0.200 |")
    assert "b (2 x r*) | **" in lines[4] and len(lines) == 5


def test_the_second_table_compares_every_tpm():
    results = [
        result("D=0", "baseline", 0.0),
        result("D=+0.5", "fixed", 0.05, best=True),
        result("a gamma=1", "tpm", 0.1, tpm="a"),
        result("a mean schedule", "mean", 0.08, tpm="a"),
        result("b gamma=1", "tpm", 0.2, tpm="b"),
        result("+1 step", "steps", 0.02, more=1),
    ]
    found = [line.split(" | ")[:2] for line in difference_table(results).splitlines()[2:]]
    assert found == [
        ["| a gamma=1", "D=+0.5"],
        ["| a gamma=1", "a mean schedule"],
        ["| a gamma=1", "+1 step"],
        ["| b gamma=1", "D=+0.5"],
        ["| b gamma=1", "+1 step"],
    ]
    assert "+0.0450 ± 0.0000" in difference_table(results)  # image_reward: 0.9 * (0.1 - 0.05)
