"""The objective against the same equations written again in numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig
from async_timestep.training.grpo.rollout import Rollout, action_mask, log_probs
from async_timestep.training.grpo.update import (
    TrainingStopped,
    advantages,
    divergence,
    minibatches,
    surrogate,
    update,
    z_score,
)
from async_timestep.training.run.config import GRPOConfig, PolicyConfig

STRICT = GRPOConfig(kl_skip=0.0, log_ratio_clamp=0.0, advantage_clip=0.0)


def network(seed: int = 0, **changes) -> TimestepPredictionModule:
    torch.manual_seed(seed)
    config = TPMConfig(
        latent_channels=4, pooled_dim=6, pooled_split=(6,), width=16, heads=2, layers=2, **changes
    )
    module = TimestepPredictionModule(config)
    torch.nn.init.normal_(module.raw.weight, std=0.5)
    return module


def states(batch: int, actions: int = 1, decisions: int = 3, seed: int = 1) -> Rollout:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=rng)

    return Rollout(
        x=normal(batch, decisions, 4, 8, 8),
        v=normal(batch, decisions, 4, 8, 8),
        t=torch.rand(batch, decisions, generator=rng),
        t_star=torch.rand(batch, decisions, generator=rng),
        pooled=normal(batch, 6),
        r=torch.rand(batch, decisions, actions, generator=rng) * 0.9 + 0.05,
        raw=normal(batch, decisions, actions, 2),
        mask=torch.ones(decisions, actions),
        steps=decisions + 1,
    )


def scores(prompts: int = 3, group: int = 16, seed: int = 5) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(prompts, group, generator=rng) * scale + shift
        for name, scale, shift in (("a", 1.0, 0.0), ("b", 0.01, 0.27), ("c", 3.0, 22.0))
    }


def test_advantages_are_equation_16_in_numpy():
    """z-score over the group, mean of the metrics, centred and scaled once more."""
    given = scores()
    found, alive = advantages(given, {"a": 1.0, "b": 1.0, "c": 1.0, "n": 0.0}, STRICT)
    for p in range(3):
        z = [(v := given[m][p].double().numpy()) - v.mean() for m in "abc"]
        reward = np.mean([part / np.std(part) for part in z], axis=0)
        assert np.allclose(found[p], (reward - reward.mean()) / reward.std(), atol=1e-5)
    assert alive.all()


def test_weights_and_signs_count():
    given = scores()
    found, _ = advantages(given, {"a": 2.0, "b": -1.0}, STRICT)
    a, b = ((given[m][0] - given[m][0].mean()) / given[m][0].std(correction=0) for m in "ab")
    reward = (2 * a - b) / 3
    assert torch.allclose(found[0], reward / reward.std(correction=0), atol=1e-5)


def test_a_group_without_spread_is_left_out_and_says_so():
    given = {"a": torch.stack([torch.full((8,), 0.3), torch.arange(8.0)])}
    found, alive = advantages(given, {"a": 1.0}, STRICT)
    assert alive.tolist() == [False, True]
    assert not found[0].any() and found[1].any()


def test_a_metric_without_spread_counts_nothing():
    given = {"a": torch.arange(8.0)[None], "flat": torch.full((1, 8), 0.1)}
    both, _ = advantages(given, {"a": 1.0, "flat": 1.0}, STRICT)
    alone, _ = advantages(given, {"a": 1.0}, STRICT)
    assert torch.allclose(both, alone, atol=1e-6)


def test_scale_batch_divides_all_prompts_by_one_number():
    values = torch.stack([torch.arange(8.0), 10 * torch.arange(8.0)])
    one = z_score(values, "batch")
    assert torch.allclose(one[1], 10 * one[0])
    stds = values.double().std(dim=1, correction=0)
    assert torch.allclose(one[0], (values[0] - 3.5).double() / stds.square().mean().sqrt())


def test_advantage_clip():
    given = {"a": torch.tensor([[0.0] * 63 + [1.0]])}
    found, _ = advantages(given, {"a": 1.0}, GRPOConfig(advantage_clip=5.0))
    assert found.max() == 5.0


@pytest.mark.parametrize("actions", ["deviation", "both"])
@pytest.mark.parametrize("ratio", ["trajectory", "mean"])
def test_loss_equals_scipy_and_numpy(actions, ratio):
    """Eq. 14 and 15 with scipy's Beta density and numpy's min and clip."""
    module = network(actions=actions)
    given = states(8, actions=len(actions.replace("deviation", "d")) // 3 + 1)
    new, raw = log_probs(module, given)
    old = new.detach() + 0.1 * torch.randn(new.shape, generator=torch.Generator().manual_seed(2))
    advantage = torch.linspace(-2, 2, 8)
    loss, found = surrogate(
        new, old, advantage, GRPOConfig(importance_sampling_level=ratio, epsilon=0.2)
    )

    x = raw.detach().double().numpy()
    phi = np.where(x > 0, 2 + x + x**2 / 2, 1 + np.exp(np.minimum(x, 0)))
    density = scipy.stats.beta.logpdf(given.r.double().numpy(), phi[..., 0], phi[..., 1])
    assert np.allclose(density, new.detach(), atol=1e-4)
    change = (density - old.double().numpy()).reshape(8, -1)
    ratios = np.exp(change.sum(1) if ratio == "trajectory" else change.mean(1))
    gain = advantage.double().numpy()
    expected = -np.mean(np.minimum(ratios * gain, np.clip(ratios, 0.8, 1.2) * gain))
    assert np.allclose(ratios, found.detach(), rtol=1e-3)
    assert math.isclose(expected, float(loss.detach()), rel_tol=1e-3, abs_tol=1e-5)


def test_clipped_trajectories_give_no_gradient():
    new = torch.zeros(2, 1, 1, requires_grad=True)
    old = torch.tensor([-1.0, 1.0]).view(2, 1, 1)  # ratios e and 1/e: both outside of 0.8 .. 1.2
    loss, _ = surrogate(new, old, torch.tensor([1.0, -1.0]), GRPOConfig())
    loss.backward()
    assert not new.grad.any()


def test_first_ratio_is_exactly_one_and_the_policy_moves_uphill():
    """Rewarding large r raises the probability of large r."""
    module, config = (
        network(),
        GRPOConfig(
            prompts_per_iteration=2, num_generations=8, minibatch_size=4, lr=1e-3, kl_skip=0
        ),
    )
    given = states(16)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0)
    advantage = (given.r.mean((1, 2)) - 0.5).view(2, 8) * 4
    before, _ = log_probs(module, given)
    result = update(module, optimizer, given, advantage, torch.ones(2, dtype=bool), config)
    after, _ = log_probs(module, given)
    gain = ((after - before).detach().sum((1, 2)) * advantage.flatten()).mean()
    assert result.optimizer_steps == 2 and result.skipped_nan == 0
    assert gain > 0
    assert result.grad_norm > 0 and result.kl >= 0


def test_a_policy_that_did_not_draw_the_actions_is_caught(monkeypatch):
    module, config = (
        network(),
        GRPOConfig(prompts_per_iteration=1, num_generations=4, minibatch_size=4),
    )
    calls = []

    def drifting(module, part):
        value, raw = log_probs(module, part)
        calls.append(1)
        return value + 1e-3 * len(calls), raw

    monkeypatch.setattr("async_timestep.training.grpo.update.log_probs", drifting)
    optimizer = torch.optim.AdamW(module.parameters())
    with pytest.raises(TrainingStopped, match="expected exactly 1"):
        update(module, optimizer, states(4), torch.ones(1, 4), torch.ones(1, dtype=bool), config)


def test_nan_is_counted_and_all_nan_stops():
    module, config = (
        network(),
        GRPOConfig(prompts_per_iteration=1, num_generations=8, minibatch_size=4),
    )
    optimizer = torch.optim.AdamW(module.parameters())
    advantage = torch.ones(1, 8)
    advantage[0, :4] = math.nan
    before = {k: v.clone() for k, v in module.state_dict().items()}
    alive = torch.ones(1, dtype=bool)
    result = update(module, optimizer, states(8), advantage, alive, config)
    assert result.skipped_nan == 1 and result.optimizer_steps == 1
    assert any(not torch.equal(before[k], v) for k, v in module.state_dict().items())
    with pytest.raises(TrainingStopped, match="finite"):
        update(module, optimizer, states(8), advantage * math.nan, alive, config)


def test_kl_skip_leaves_the_parameters_alone():
    module = network()
    config = GRPOConfig(prompts_per_iteration=1, num_generations=8, minibatch_size=4, kl_skip=1e-9)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    advantage = torch.linspace(-1, 1, 8)[None]
    result = update(module, optimizer, states(8), advantage, torch.ones(1, dtype=bool), config)
    assert (result.optimizer_steps, result.skipped_kl) == (1, 1)  # the first is at ratio 1


def test_dead_groups_are_not_updated_on():
    module, config = (
        network(),
        GRPOConfig(prompts_per_iteration=2, num_generations=4, minibatch_size=4),
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    result = update(
        module, optimizer, states(8), torch.zeros(2, 4), torch.zeros(2, dtype=bool), config
    )
    assert result.zero_std_groups == 2 and result.optimizer_steps == 0
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_minibatches_take_an_equal_share_of_every_prompt():
    parts = minibatches(GRPOConfig(num_generations=16, minibatch_size=4), 3)
    assert len(parts) == 4
    assert parts[1].tolist() == [4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39]
    assert sorted(torch.cat(parts).tolist()) == list(range(48))


def test_kl_estimate_matches_the_exact_kl_of_two_betas():
    """Monte Carlo over 200 000 draws of one Beta against the closed form."""
    rng = np.random.default_rng(0)
    p, q = scipy.stats.beta(3.0, 2.0), scipy.stats.beta(2.5, 2.2)
    r = p.rvs(200_000, random_state=rng)
    old, new = (torch.tensor(d.logpdf(r)).view(-1, 1, 1) for d in (p, q))
    grid = np.linspace(1e-6, 1 - 1e-6, 200_001)
    exact = np.trapezoid(p.pdf(grid) * (p.logpdf(grid) - q.logpdf(grid)), grid)
    assert math.isclose(float(divergence(new, old)), exact, rel_tol=0.02)


@pytest.mark.parametrize(
    "actions,last", [("deviation", 1), ("omega", 0), ("both", 0), ("follow_time", 1)]
)
def test_only_the_omega_head_is_idle_on_the_last_step(actions, last):
    mask = action_mask(PolicyConfig(actions=actions), torch.tensor([1.0, 0.8, 0.5, 0.0]))
    assert mask.shape == (2, 1 + (actions == "both")) and mask.sum() == mask.numel() - 1 + last
    assert mask[-1, -1] == last


def test_an_untrained_head_has_the_gradient_of_finite_differences():
    """At raw = 0 exactly, where the two branches of Eq. 17 meet; it was 0 on newer versions of
    torch, and every run learned nothing."""
    module = network()
    torch.nn.init.zeros_(module.raw.weight)
    batch = states(8)
    advantage = torch.linspace(-1, 1.5, 8)
    with torch.no_grad():
        old = log_probs(module, batch)[0]

    def loss():
        return surrogate(log_probs(module, batch)[0], old, advantage, STRICT)[0]

    assert not bool(module.raw.bias.any())
    loss().backward()
    found, step = module.raw.bias.grad.clone(), 1e-2
    for i in range(2):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                module.raw.bias[i] = sign * step
                values.append(float(loss()))
                module.raw.bias[i] = 0.0
        slope = (values[0] - values[1]) / (2 * step)
        assert abs(slope) > 0.01 and float(found[i]) == pytest.approx(slope, rel=1e-2)
