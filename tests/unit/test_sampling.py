"""The trainer's Euler loop against hand-written steps, with a velocity that shows its time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from async_timestep.tpm.policies import (
    Constant,
    Decision,
    Policy,
    State,
    VelocityScale,
    synchronous,
)
from async_timestep.training.backbones.sampling import Tokens, VelocityBackbone, column
from async_timestep.training.tiny.backbone import simple_sigmas


class Line(VelocityBackbone):
    """v = t everywhere, so that the result shows every t* used."""

    family = "line"

    def __init__(self):
        self.times = []

    def velocity(self, x, t_star, conditioning):
        self.times.append(t_star.clone())
        return t_star[:, None, None, None].expand_as(x)


@dataclass(frozen=True)
class Told(Policy):
    """Deviations by sample (B,), or by sample and step (B, K)."""

    deviation: torch.Tensor

    def decide(self, state: State) -> Decision:
        d = self.deviation if self.deviation.ndim == 1 else self.deviation[:, state.k]
        nothing = synchronous(state)
        return Decision(d, nothing.cut, nothing.omega)


SIGMAS = torch.tensor([1.0, 0.75, 0.5, 0.0])
NOISE = torch.zeros(2, 16, 2, 2)


def conditioning(batch: int) -> Tokens:
    """Prompts that differ: rows with one prompt and one noise share their first velocity."""
    prompts = tuple(str(i) for i in range(batch))
    return Tokens(prompts, torch.zeros(batch, 1, 1), torch.zeros(batch, 1))


def run(policy: Policy | None = None):
    line = Line()
    return line.sample(conditioning(2), NOISE, SIGMAS, policy), torch.stack(line.times, 1)


def test_synchronous_times_are_the_grid():
    x, times = run()
    assert torch.equal(times, SIGMAS[:-1].expand(2, 3))
    assert torch.allclose(x, torch.tensor(-0.25 - 0.25 * 0.75 - 0.5 * 0.5))


def test_deviation_moves_the_network_time_only():
    x, times = run(Constant(0.5))
    assert torch.allclose(times[0], torch.tensor([1.0, 0.625, 0.375]))
    assert torch.allclose(x, torch.tensor(-0.25 - 0.25 * 0.625 - 0.5 * 0.375))


def test_lying_scales_the_velocity_too():
    x, times = run(Constant(0.5, mode="follow_time"))
    assert torch.allclose(times[0], torch.tensor([1.0, 0.625, 0.375]))
    expected = -0.25 - 0.25 * 0.625 * (0.625 / 0.75) - 0.5 * 0.375 * (0.375 / 0.5)
    assert torch.allclose(x, torch.tensor(expected))


def test_omega_is_one_on_the_last_step():
    x, _ = run(VelocityScale(omega=0.5))
    assert torch.allclose(x, torch.tensor(0.5 * (-0.25 - 0.25 * 0.75) - 0.5 * 0.5))


def test_values_by_sample_and_by_step():
    _, times = run(Told(torch.tensor([0.0, 1.0])))
    assert torch.allclose(times, torch.tensor([[1.0, 0.75, 0.5], [1.0, 0.5, 0.25]]))
    _, times = run(Told(torch.tensor([[9.0, 0.0, 1.0], [9.0, -1.0, 0.0]])))
    assert torch.allclose(times, torch.tensor([[1.0, 0.75, 0.25], [1.0, 1.0, 0.5]]))
    _, times = run(Constant(0.5, unit="percent"))
    assert torch.allclose(times[0], torch.tensor([1.0, 0.7125, 0.475]))
    with pytest.raises(RuntimeError, match="size of tensor"):
        run(Told(torch.zeros(3)))


def test_time_is_clamped():
    _, times = run(Constant(5.0))
    assert torch.equal(times[:, 1:], torch.full((2, 2), 1e-3))


def test_generate_splits_tensors_with_the_batch():
    """A batch in parts is the batch."""
    deviation, sigmas = torch.linspace(0, 1, 5), simple_sigmas(4)
    noise = torch.arange(5.0)[:, None, None, None].expand(-1, 16, 2, 2)

    def part(rows: slice) -> torch.Tensor:
        own = noise[rows]
        return Line().sample(conditioning(len(own)), own, sigmas, Told(deviation[rows]))

    whole = part(slice(0, 5))
    parts = torch.cat([part(slice(start, start + 2)) for start in range(0, 5, 2)])
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    "prompts,seeds,first",
    [
        ("aaabbb", [0, 0, 0, 1, 1, 1], 2),
        ("aabb", [0, 0, 0, 0], 2),
        ("aaaa", [0, 0, 0, 0], 1),
        ("aab", [0, 0, 1], 3),
        ("aabc", [0, 0, 1, 1], 4),
        ("aabb", [0, 0, 1, 2], 4),
        ("ab", [0, 1], 2),
    ],
)
def test_rows_that_share_prompt_and_noise_have_one_first_velocity(prompts, seeds, first):
    """Only where all rows come in such groups; the result is the same."""
    batch, line = len(seeds), Line()
    rows = Tokens(tuple(prompts), torch.zeros(batch, 1, 1), torch.zeros(batch, 1))
    noise = torch.tensor(seeds, dtype=torch.float32)[:, None, None, None].expand(-1, 16, 2, 2)
    policy = Told(torch.linspace(0, 1, batch))
    found = line.sample(rows, noise, SIGMAS, policy)
    assert [len(times) for times in line.times] == [first, batch, batch]
    assert torch.equal(found, Line().sample(conditioning(batch), noise, SIGMAS, policy))


def test_a_record_has_an_entry_per_evaluation():
    from async_timestep.report.trace import Run

    record = Run("", "line", SIGMAS.tolist())
    deviation = torch.tensor([0.0, 1.0])
    Line().sample(conditioning(2), NOISE, SIGMAS, Told(deviation), record=record)
    assert [step["step"] for step in record.steps] == [0, 1, 2]
    assert [step["t"] for step in record.steps] == SIGMAS[:-1].tolist()
    assert column(record, "deviation").tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    told = torch.tensor([[1.0, 0.75, 0.5], [1.0, 0.5, 0.25]])
    assert torch.allclose(column(record, "t_star"), told)
    assert column(record, "omega").tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    "policy,cut",
    [
        (Constant(0.5), [0.0, 100 / 6, 25.0]),
        (Constant(0.5, mode="follow_time"), [0.0, 100 / 6, 25.0]),
        (Constant(0.5, unit="percent"), [0.0, 5.0, 5.0]),
        (Constant(0.0), [0.0, 0.0, 0.0]),
    ],
)
def test_a_record_says_how_much_of_sigma_is_cut(policy, cut):
    """By t*, whatever the unit of the deviation."""
    from async_timestep.report.trace import Run

    record = Run("", "line", SIGMAS.tolist())
    Line().sample(conditioning(2), NOISE, SIGMAS, policy, record=record)
    assert torch.allclose(column(record, "cut_percent"), torch.tensor([cut, cut]), atol=1e-4)
    assert record.peak_cut() == pytest.approx(max(cut), abs=1e-4)
    changed = [c for c in cut if c]
    assert record.mid_cut() == pytest.approx(np.median(changed) if changed else 0, abs=1e-4)
