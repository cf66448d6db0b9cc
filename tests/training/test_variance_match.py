"""Time shift by variance on the embedded model: against the loop of the paper's algorithm, and in
evaluate.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluations import SMALL, rows

from async_timestep.report.trace import Run
from async_timestep.tpm.policies import Constant
from async_timestep.tpm.variance import VarianceMatch
from async_timestep.training.backbones.sampling import column
from async_timestep.training.backbones.tiny import TinyFlow
from async_timestep.training.evaluation.command import main
from async_timestep.training.run.config import BackboneConfig

PROMPTS = [
    "a red circle above a blue star on a dark rough background",
    "a green square left of a yellow circle on a light plain background",
    "two cyan stars on a dark striped background",
]


@pytest.fixture(scope="module")
def model() -> TinyFlow:
    torch.set_num_threads(1)
    return TinyFlow(BackboneConfig(precision="fp32", guidance=3.0), torch.device("cpu"))


def noise(model: TinyFlow, first: int = 0) -> torch.Tensor:
    return model.noise([torch.Generator().manual_seed(first + i) for i in range(len(PROMPTS))])


def shifted_times(x: np.ndarray, t: float, before: float, window: float) -> list[float]:
    """The paper's line: of the times within the window, that whose variance is nearest; one an
    image; above a cutoff of 1/2, which with data of variance 1 is where the variance turns."""
    if t <= 0.5:
        return [t] * len(x)
    tau = np.linspace(max(t - window * (before - t), 0.5), t + window * (before - t), 200_001)
    marginal = (1 - tau) ** 2 + tau**2
    return [float(tau[np.abs(own.var(ddof=1) - marginal).argmin()]) for own in x]


@pytest.mark.parametrize(("steps", "window"), [(4, 0.5), (4, 0.2), (8, 1.0)])
def test_the_loop_is_the_papers_algorithm(model, steps, window):
    conditioning, start, sigmas = model.encode(PROMPTS), noise(model), model.sigmas(steps)
    record = Run("variance match", model.family, sigmas.tolist())
    ours = model.sample(conditioning, start, sigmas, VarianceMatch(window), record=record)
    x, t_s = start * sigmas[0], [float(sigmas[0])] * len(PROMPTS)
    told = []
    for k in range(steps):
        told.append(t_s)
        v = model.velocity(x, torch.tensor(t_s, dtype=torch.float32), conditioning)
        x = x + (sigmas[k + 1] - sigmas[k]) * v  # a step with the true times
        if k + 1 < steps:
            t, before = float(sigmas[k + 1]), float(sigmas[k])
            t_s = shifted_times(x.double().numpy(), t, before, window)
    found = column(record, "t_star").numpy()
    np.testing.assert_allclose(found, np.array(told).T, atol=1e-5)
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-3)
    shifted = np.abs(found - sigmas[:-1].numpy())
    assert (shifted > 1e-3).sum() >= 3 and len(np.unique(found[:, 1])) >= 2  # one an image


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "unipc"])
def test_a_window_of_zero_is_stock_bit_for_bit(model, solver):
    conditioning, start, sigmas = model.encode(PROMPTS), noise(model, 9), model.sigmas(4)
    stock = model.sample(conditioning, start, sigmas, Constant(0.0), solver)
    assert torch.equal(model.sample(conditioning, start, sigmas, VarianceMatch(0.0), solver), stock)
    shifted = model.sample(conditioning, start, sigmas, VarianceMatch(0.5), solver)
    assert not torch.equal(shifted, stock)


def test_evaluate_has_a_row_for_each_window(tmp_path, capsys):
    few = ["--fixed", "0.5", "--gammas", "--more_steps", "--log.samples=0"]
    out = ["--out", str(tmp_path / "r")]
    assert main([*SMALL, *few, "--variance_match", "0", "0.5", *out]) == 0
    found = rows(tmp_path / "r", "method", "seconds", "file")
    assert set(found) == {"D=0", "D=+0.5", "variance match 0", "variance match 0.5"}
    scores = {name: [row["scene"] for row in own] for name, own in found.items()}
    assert scores["variance match 0"] == scores["D=0"] != scores["variance match 0.5"]
    assert "| variance match 0.5 (TS-DPM" in (tmp_path / "r" / "table.md").read_text()
    capsys.readouterr()
    assert main([*SMALL, *few, "--variance_match", "-1", "--out", str(tmp_path / "s")]) == 1
    assert "--variance_match has -1, expected" in capsys.readouterr().err.splitlines()[-1]
