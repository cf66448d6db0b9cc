"""The surrogate and its gradient against torchrl's clipped PPO loss: a public implementation."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import ClipPPOLoss

from async_timestep.tpm.network import log_prob, phi
from async_timestep.training.grpo.update import surrogate
from async_timestep.training.run.config import GRPOConfig


class Schedule(torch.distributions.Independent):
    """The whole trajectory as one action (Eq. 15): independent Betas over decisions and actions."""

    def __init__(self, raw: torch.Tensor):
        alpha, beta = phi(raw).unbind(-1)
        super().__init__(torch.distributions.Beta(alpha, beta), 2)


class Table(nn.Module):
    """Raw values (B, N, A, 2) as parameters, so that gradients can be compared directly."""

    def __init__(self, raw: torch.Tensor):
        super().__init__()
        self.raw = nn.Parameter(raw.clone())

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.raw[index.squeeze(-1)]


@pytest.mark.parametrize("clip", [0.1, 0.2])
@pytest.mark.parametrize("actions", [1, 2])
def test_loss_and_gradient_equal_torchrl(actions, clip):
    rng = torch.Generator().manual_seed(3)
    batch, decisions = 16, 3
    raw = torch.randn(batch, decisions, actions, 2, generator=rng, dtype=torch.float64)
    old_raw = raw + 0.15 * torch.randn(raw.shape, generator=rng, dtype=torch.float64)
    r = torch.rand(batch, decisions, actions, generator=rng, dtype=torch.float64) * 0.8 + 0.1
    advantage = torch.randn(batch, generator=rng, dtype=torch.float64)

    table = Table(raw)
    actor = ProbabilisticActor(
        TensorDictModule(table, in_keys=["index"], out_keys=["raw"]),
        in_keys=["raw"],
        distribution_class=Schedule,
    )
    theirs = ClipPPOLoss(
        actor,
        None,
        clip_epsilon=clip,
        entropy_bonus=False,
        critic_coeff=None,
        normalize_advantage=False,
        functional=False,
    )
    given = TensorDict(
        {
            "index": torch.arange(batch)[:, None],
            "action": r,
            "action_log_prob": Schedule(old_raw).log_prob(r),
            "advantage": advantage[:, None],
        },
        batch_size=[batch],
    )
    loss = theirs(given)["loss_objective"]
    loss.backward()

    ours = raw.clone().requires_grad_()
    config = GRPOConfig(epsilon=clip, log_ratio_clamp=0.0)
    old = log_prob(old_raw, r)
    found, ratio = surrogate(log_prob(ours, r), old, advantage, config)
    found.backward()
    outside = ((ratio - 1).abs() > clip).float().mean()
    assert 0.1 < float(outside) < 0.95, "both branches of the clip take part"
    assert torch.allclose(found, loss, rtol=1e-8)
    assert torch.allclose(ours.grad, table.raw.grad, rtol=1e-6, atol=1e-10)
    assert bool(ours.grad.any())
