"""Group-relative PPO for the TPM: advantages (Eq. 16), the trajectory surrogate (Eq. 14, 15), and
one iteration's optimizer steps. The AsyncDiff paper's equation numbers."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...tpm.network import TimestepPredictionModule
from ..run.config import GRPOConfig
from .rollout import Rollout, log_probs

CHANGE_MIN = 1e-8  # of a parameter: a head that starts at 0 takes any step, however small
STD_MIN = 1e-6  # a metric or reward whose spread is below has nothing to say about its group


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


def advantages(
    scores: dict[str, Tensor], weights: dict[str, float], config: GRPOConfig
) -> tuple[Tensor, Tensor]:
    """Advantage (P, G) of every image in its group, and which groups (P,) have any spread.

    scores: metric -> (P, G). Eq. 16: every metric as a z-score over its group (population std),
    averaged with the weights; then centred, divided by its own std again (`renormalize`) and
    clipped. A metric without spread in a group counts 0 there, a group without any is left out.
    """
    total = sum(abs(weight) for weight in weights.values())
    reward = sum(
        weight / total * z_score(scores[name], config.scale_rewards)
        for name, weight in weights.items()
        if weight
    )
    alive = reward.std(dim=1, correction=0) > STD_MIN
    if config.renormalize:
        reward = z_score(reward, config.scale_rewards)
    else:
        reward = reward - reward.mean(dim=1, keepdim=True)
    if config.advantage_clip:
        reward = reward.clamp(-config.advantage_clip, config.advantage_clip)
    return (reward * alive[:, None]).float(), alive


def z_score(values: Tensor, scale: str) -> Tensor:
    """(P, G) centred on each group's mean, over the group's std, or over the root mean square of
    all groups' stds; 0 where that is next to nothing."""
    values = values.double()
    centred = values - values.mean(dim=1, keepdim=True)
    std = centred.square().mean(dim=1, keepdim=True).sqrt()
    if scale == "batch":
        std = std.square().mean().sqrt().expand_as(std)
    flat = std <= STD_MIN * values.abs().mean(dim=1, keepdim=True).clamp(min=1)
    return torch.where(flat, 0.0, centred / std.clamp(min=1e-12))


def surrogate(
    new: Tensor, old: Tensor, advantage: Tensor, config: GRPOConfig
) -> tuple[Tensor, Tensor]:
    """Loss -E[min(r A, clip(r) A)] (Eq. 14) and the ratios r (B,).

    new, old: (B, N, A) log-probabilities. `trajectory`: r = exp(sum of the differences), the whole
    schedule as a single action (Eq. 15); `mean`: exp(their mean).
    """
    difference = (new - old).flatten(1)
    log_ratio = (
        difference.sum(1)
        if config.importance_sampling_level == "trajectory"
        else difference.mean(1)
    )
    if config.log_ratio_clamp:
        log_ratio = log_ratio.clamp(-config.log_ratio_clamp, config.log_ratio_clamp)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.epsilon, 1 + config.epsilon)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean(), ratio


def minibatches(config: GRPOConfig, prompts: int) -> list[Tensor]:
    """Rows of each optimizer step: `minibatch` images of every prompt, the group in order."""
    image = torch.arange(prompts * config.num_generations).view(prompts, config.num_generations)
    return [part.flatten() for part in image.split(config.minibatch_size, dim=1)]


@dataclass
class Update:
    """What one iteration's optimizer steps did; means over those that were made."""

    ratio_mean: float = 1.0
    ratio_max: float = 1.0
    clip_fraction: float = 0.0
    kl: float = 0.0
    grad_norm: float = 0.0
    loss: float = 0.0
    change: float = 0.0  # the largest of all parameters
    optimizer_steps: int = 0
    skipped_kl: int = 0
    skipped_nan: int = 0
    zero_std_groups: int = 0

    @property
    def idle(self) -> str:
        """Why the policy is what it was before the iteration, or ""."""
        if self.optimizer_steps and self.grad_norm > 0 and self.change > CHANGE_MIN:
            return ""
        if self.skipped_kl:
            return "every mini-batch was above grpo.kl_skip; raise it, or lower grpo.lr"
        if not self.optimizer_steps:
            return (
                "all images of a prompt got the same reward; weigh a reward that tells them apart "
                "(rewards.weights), or raise grpo.num_generations"
            )
        if self.grad_norm > 0:
            return "the steps were too small to change a parameter; raise grpo.lr"
        return (
            f"the gradient was 0 (torch {torch.__version__}); lower grpo.lr if the policy has run "
            "into policy.raw_cap, else take a torch that docs/guides/trainer.md names as tested"
        )


@torch.enable_grad()
def update(
    module: TimestepPredictionModule,
    optimizer: torch.optim.Optimizer,
    states: Rollout,
    advantage: Tensor,
    alive: Tensor,
    config: GRPOConfig,
) -> Update:
    """One pass over the rollout, group / minibatch optimizer steps.

    advantage: (P, G), alive: (P,). The old log-probabilities are computed here, in the very
    mini-batches of the training, so that the first ratio is exactly 1; it is checked in every
    iteration. Raises TrainingStopped where it is not, or where no step of the iteration was finite.
    """
    result = Update(zero_std_groups=int((~alive).sum()))
    if not bool(alive.any()):
        return result
    parts = minibatches(config, len(advantage))
    keep = alive.repeat_interleave(config.num_generations)
    parts = [part[keep[part]] for part in parts]
    flat = advantage.flatten().to(states.r.device)
    # with gradients on: without them a kernel may be chosen whose last bit differs
    old = [log_probs(module, states.rows(part))[0].detach() for part in parts]
    before = [p.detach().clone() for p in module.parameters()]
    history = []
    for index, (part, old_part) in enumerate(zip(parts, old, strict=True)):
        new, _ = log_probs(module, states.rows(part))
        loss, ratio = surrogate(new, old_part, flat[part], config)
        if index == 0 and not bool((ratio == 1).all()):
            raise TrainingStopped(
                f"The first ratio of the iteration is {ratio.min():.9g} to {ratio.max():.9g}, "
                "expected exactly 1: the policy that drew the actions is not the one that is "
                "updated; this device's kernels are not deterministic, try another "
                "--grpo.minibatch_size or device."
            )
        kl = float(divergence(new, old_part))
        if config.kl_skip and kl > config.kl_skip:
            result.skipped_kl += 1
            continue
        norm = gradient(module, optimizer, loss, config.max_grad_norm)
        if not (math.isfinite(loss.item()) and math.isfinite(norm)):
            result.skipped_nan += 1
            logging.warning("Mini-batch %d gave a loss or gradient that is not finite.", index)
            continue
        optimizer.step()
        outside = (ratio - 1).abs() > config.epsilon
        history.append(
            [ratio.mean().item(), ratio.max().item(), outside.float().mean().item(), kl, norm]
            + [loss.item()]
        )
    if result.skipped_nan == len(parts):
        raise TrainingStopped(
            "No mini-batch of the iteration gave a finite gradient; lower grpo.lr, or set "
            "policy.raw_cap and grpo.log_ratio_clamp."
        )
    if history:
        columns = torch.tensor(history)
        names = ("ratio_mean", "ratio_max", "clip_fraction", "kl", "grad_norm", "loss")
        for name, value in zip(names, columns.mean(0).tolist(), strict=True):
            setattr(result, name, value)
        result.ratio_max = float(columns[:, 1].max())
    result.optimizer_steps = len(history)
    after = zip(module.parameters(), before, strict=True)
    result.change = max(float((now.detach() - was).abs().max()) for now, was in after)
    return result


def divergence(new: Tensor, old: Tensor) -> Tensor:
    """Estimate of KL(old || new) of a trajectory in nats, from the drawn actions: E[r - 1 - log r],
    which is never negative."""
    log_ratio = (new - old).detach().flatten(1).sum(1).clamp(-10, 10)
    return (log_ratio.exp() - 1 - log_ratio).mean()


def gradient(
    module: TimestepPredictionModule, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float
) -> float:
    """Gradients of the loss, clipped to a norm; returns the norm before the clip."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    return float(torch.nn.utils.clip_grad_norm_(module.parameters(), clip or math.inf))
