"""The training run: draw prompts, roll out, score, update, write down. See train_tpm.py.

    training = load_training(config, World())
    train(training, folder, resume=False, log=print)

An iteration depends on the settings and its own number alone (rng.py), so a resumed run is the run
that was never stopped.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import Tensor

from ...tpm.network import concentrations, entropy
from ..rewards import RewardError
from ..run import distributed
from ..run.config import Config
from ..run.folder import RunFolder, RunFolderError
from ..run.phase import phase
from ..run.rng import generator, number
from .result import untrained, write_files
from .resume import checkpoint, restore
from .rollout import Actor, Rollout, rollout
from .setup import Training
from .update import TrainingStopped, advantages, update

# what ends a run with its own sentence; anything else is a fault of ours and keeps its traceback
EXPECTED = (ValueError, OSError, RewardError, TrainingStopped, RunFolderError)
EXPECTED += (distributed.RankLost,)


def steps_of(config: Config, iteration: int) -> int:
    """K of an iteration: the one that is set, or one drawn from the list."""
    every = config.step_counts
    return every[number(config.seed, "steps", iteration) % len(every)]


@contextmanager
def clock(seconds: dict[str, float], name: str, device: torch.device) -> Iterator[None]:
    """Adds the wall time of a block, and of the device's work in it."""
    phase(name)
    start = time.perf_counter()
    yield
    distributed.synchronize(device)
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def one_iteration(training: Training, iteration: int) -> dict:
    """One iteration: rollout of this rank's share, scores, advantages, optimizer steps on rank 0.
    Returns the line of metrics.jsonl. Raises RewardError and TrainingStopped."""
    config, world = training.config, training.world
    grpo, seconds = config.grpo, {}
    steps = steps_of(config, iteration)
    texts = [
        training.order(iteration * grpo.prompts_per_iteration + p)
        for p in range(grpo.prompts_per_iteration)
    ]
    own = distributed.shard(world, grpo.prompts_per_iteration, grpo.num_generations)
    with clock(seconds, "encode", training.device):
        conditioning = training.backbone.encode(texts).rows(
            [i // grpo.num_generations for i in own]
        )
    noise = initial_noise(training, iteration, own)
    sigmas = training.backbone.sigmas(steps)
    draws = [generator(config.seed, "action", iteration, i) for i in own]
    with clock(seconds, "rollout", training.device):
        actor = Actor(training.module, config.policy, draws)
        latents, states = rollout(training.backbone, actor, conditioning, noise, sigmas)
    seconds["tpm"] = actor.seconds
    seconds["denoise"] = seconds.pop("rollout") - actor.seconds
    with clock(seconds, "decode", training.device):
        images = training.backbone.decode(latents)
    with clock(seconds, "score", training.device):
        scores = training.rewards(images, list(conditioning.prompts))
    with clock(seconds, "update", training.device):
        scores = {
            name: distributed.gather(world, values.to(training.device), grpo.prompts_per_iteration)
            .cpu()
            .view(grpo.prompts_per_iteration, grpo.num_generations)
            for name, values in scores.items()
        }
        states = gathered(training, states)
        set_rate(training, iteration)
        result = None
        if world.main:
            advantage, alive = advantages(scores, config.rewards.weights, grpo)
            result = update(training.module, training.optimizer, states, advantage, alive, grpo)
        distributed.broadcast(world, training.module)
    if result is None:
        return {}
    return {
        "iteration": iteration + 1,
        "steps": steps,
        "prompts": texts,
        "lr": training.optimizer.param_groups[0]["lr"],
        "rewards": {name: values.tolist() for name, values in scores.items()},
        **policy_record(config, states),
        **asdict(result),
        "idle": result.idle,
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
    }


def initial_noise(training: Training, iteration: int, own: list[int]) -> Tensor:
    """One latent per image, or per prompt where the group shares it."""
    seed, grpo = training.config.seed, training.config.grpo
    shared = grpo.group_noise == "shared"
    names = [i // grpo.num_generations * grpo.num_generations if shared else i for i in own]
    return training.backbone.noise([generator(seed, "noise", iteration, name) for name in names])


def gathered(training: Training, states: Rollout) -> Rollout:
    """The trajectories of all ranks, in the order prompt * group + image."""
    prompts = training.config.grpo.prompts_per_iteration
    return Rollout(
        **states.parts(lambda part: distributed.gather(training.world, part, prompts)),
    )


def set_rate(training: Training, iteration: int) -> None:
    grpo = training.config.grpo
    left = 1 - iteration / training.config.iterations if grpo.lr_schedule == "linear" else 1.0
    for group in training.optimizer.param_groups:
        group["lr"] = grpo.lr * max(left, 0.0)


def policy_record(config: Config, states: Rollout) -> dict:
    """What the policy did, by decision: mean and std of the drawn values, mean alpha and beta."""
    raw, r = states.raw.cpu(), states.r.cpu()
    alpha, beta = concentrations(raw)
    record = {
        "alpha": alpha.mean(0).tolist(),
        "beta": beta.mean(0).tolist(),
        "entropy": float(entropy(raw).mean()),
    }
    if config.policy.actions != "omega":
        deviation = (r[..., 0] - 0.5) * 2 * config.policy.deviation_bound
        record["deviation"] = deviation.mean(0).tolist()
        record["deviation_std"] = deviation.std(0).tolist()
    if config.policy.actions in ("omega", "both"):
        low, high = config.policy.omega_range
        record["omega"] = (low + r[..., -1] * (high - low)).mean(0).tolist()
    return record


class Stop:
    """SIGTERM and SIGINT end the run after the iteration that is under way, with a checkpoint."""

    def __init__(self) -> None:
        self.reason = ""
        for name in ("SIGTERM", "SIGINT"):
            signal.signal(getattr(signal, name), lambda *_, name=name: self.ask(name))

    def ask(self, reason: str) -> None:
        if self.reason == "SIGINT" and reason == "SIGINT":
            raise KeyboardInterrupt  # the second time it is meant
        self.reason = reason


def train(
    training: Training, folder: RunFolder | None, resume: bool, log: Callable[[str, dict], None]
) -> str:
    """Runs until the last iteration, max_hours or a signal; returns why it ended ("" = done).

    folder: rank 0's run folder, already created. log(kind, record) is told of "start", "iteration",
    "validation" and "checkpoint" as they happen, and by "said" of a sentence for the user.
    """
    config, world = training.config, training.world
    first, best, spent = restore(training, folder, resume, log)
    stop, start = Stop(), time.monotonic()
    idle = [] if folder is None else idle_at_the_end(folder.records("metrics.jsonl"))
    done = first
    log("start", {"iteration": first})
    for iteration in range(first, config.iterations):
        if is_due(config.log.validate_every, iteration) or iteration == 0:
            best = validate(training, folder, iteration, best, log)
        record = one_iteration(training, iteration)
        done = iteration + 1
        spent_now = spent + time.monotonic() - start
        if folder is not None:
            folder.append("metrics.jsonl", record)
            log("iteration", record)
            idle = [*idle, record["idle"]] if record["idle"] else []
            if is_due(config.log.samples_every, done):
                phase("sample grid")
                path = folder.samples / f"{done:06d}.png"
                training.validation.write_grid(path, training.module, folder.advice())
        if config.max_hours and spent_now > config.max_hours * 3600:
            stop.ask(f"max_hours {config.max_hours:g}")
        stuck = len(idle) >= config.grpo.patience > 0
        reason, stuck = distributed.share(world, (stop.reason, stuck and idle_sentence(idle)))
        if folder is not None and (reason or stuck or is_due(config.log.checkpoint_every, done)):
            checkpoint(training, folder, done, best, spent_now)
            log("checkpoint", {"iteration": done})
        if stuck:
            raise TrainingStopped(stuck)
        if reason:
            return str(reason)
    best = validate(training, folder, done, best, log)
    if folder is not None:
        checkpoint(training, folder, done, best, spent + time.monotonic() - start)
    if untrained(training.module):
        raise TrainingStopped(
            f"After {done} iterations the TPM is what it was at the start, D = 0 everywhere, and "
            f"no tpm.safetensors was written{': ' + idle[-1] if idle else ''}."
        )
    if folder is not None:
        write_files(
            folder, config, training.backbone, training.prompts, training.module, done, best
        )
    return ""


def idle_at_the_end(records: list[dict]) -> list[str]:
    """Why the last iterations in a row changed nothing: a resumed run counts on."""
    reasons: list[str] = []
    for record in records:
        why = record.get("idle", "")
        reasons = [*reasons, why] if why else []
    return reasons


def idle_sentence(idle: list[str]) -> str:
    return (
        f"The last {len(idle)} iterations changed nothing: {idle[-1]}; a checkpoint was written, "
        "--resume with a larger grpo.patience (0 is no limit) goes on all the same."
    )


def is_due(every: int, done: int) -> bool:
    return bool(every) and done > 0 and done % every == 0


def validate(training: Training, folder: RunFolder | None, done: int, best: dict, log) -> dict:
    """Validates, and remembers the module that was best. The same on every rank."""
    if not training.config.log.validate_every:
        return best
    if best.get("validated", -1) >= done:
        return best
    result = training.validation.run(training.world, training.module)
    record = {"iteration": done, **result}
    if folder is not None:
        folder.append("validation.jsonl", record)
        log("validation", record)
    best = {**best, "validated": done, "baseline": training.validation.baseline}
    if "score" not in best or result["objective"] > best["score"]:
        weights = {k: v.detach().cpu().clone() for k, v in training.module.state_dict().items()}
        best |= {"score": result["objective"], "iteration": done, "weights": weights}
    return best
