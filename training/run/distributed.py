"""Ranks of torchrun: the rollout is shared out, rank 0 updates and broadcasts.

    torchrun --nproc_per_node 2 training/train_tpm.py --preset sd35_medium

One process without torchrun is the normal case, and every function here then does nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """rank of size; a single process is 0 of 1."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0


def join() -> World:
    """The world that torchrun made, else a world of one."""
    if not dist.is_torchelastic_launched():
        return World()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    return World(dist.get_rank(), dist.get_world_size())


def leave(world: World) -> None:
    if world.size > 1 and dist.is_initialized():
        dist.destroy_process_group()


class RankLost(RuntimeError):
    """Another rank ended in the middle of the work; its own reason is the one that counts."""


@contextmanager
def together() -> Iterator[None]:
    """Around what needs all ranks. Raises RankLost where one of them is gone."""
    try:
        yield
    except RuntimeError as error:  # gloo's and nccl's own
        reason = (str(error).strip().splitlines() or [""])[0]
        raise RankLost(
            f"another rank ended or does not answer ({reason}); the reason is what that rank says, "
            "and rank 0's last checkpoint is whole."
        ) from error


class Sentence(ErrorHandler):
    """What a rank leaves for torchrun, which otherwise knows its exit code alone: no traceback."""

    def record_exception(self, e: BaseException) -> None:
        if file := self._get_error_file_path():  # only below torchrun
            extra = {"timestamp": str(int(time.time()))}
            content = {"message": {"message": str(e), "extraInfo": extra}}
            self._write_error_file(file, json.dumps(content))


def tell_torchrun(text: str) -> None:
    """Has torchrun say it at the very end of its own report; nothing happens without torchrun."""
    Sentence().record_exception(RuntimeError(text))


def give_up(world: World, reason: str) -> None:
    """Says why this rank ends, and has torchrun say it again at the very end of its report."""
    text = f"rank {world.rank}: {reason}"
    print(text, file=sys.stderr, flush=True)
    tell_torchrun(text)
    # the ranks that wait for this one fail when it is gone: a second later, so that torchrun
    # knows who was first
    time.sleep(1.0)


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that a clock read next means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(world: World, wanted: str) -> torch.device:
    """The device that was asked for, else this rank's CUDA device, else the CPU. Raises ValueError
    where it is not there, or lacks float64, which the log-probabilities need."""
    if wanted:
        try:
            device = torch.device(wanted)
            torch.ones(1, dtype=torch.float64, device=device).item()
        except (RuntimeError, AssertionError, TypeError) as error:  # by kind of device
            there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
            raise ValueError(
                f"device is {wanted!r}, which this torch cannot use ({first_line(error)}); "
                f"here are {', '.join(['cpu', *there])}, and an empty device takes the best."
            ) from None
        return device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.rank % torch.cuda.device_count())


def first_line(error: BaseException, most: int = 120) -> str:
    """The beginning of somebody else's message, to go into a sentence of ours."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return line if len(line) <= most else line[: most - 3] + "..."


def shard(world: World, prompts: int, group: int) -> list[int]:
    """This rank's images of an iteration, as indices prompt * group + image: an equal share of
    every group. Raises ValueError where the group cannot be shared out."""
    if group % world.size:
        raise ValueError(
            f"grpo.num_generations is {group} and there are {world.size} ranks, expected a number "
            "of ranks that divides the group; change --nproc_per_node or --grpo.num_generations."
        )
    own = group // world.size
    return [
        p * group + i
        for p in range(prompts)
        for i in range(world.rank * own, (world.rank + 1) * own)
    ]


def gather(world: World, values: Tensor, prompts: int) -> Tensor:
    """Rows of `shard` of every rank, put together in the order prompt * group + image."""
    if world.size == 1:
        return values
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(world.size)]
    with together():
        dist.all_gather(parts, values)
    grouped = [part.unflatten(0, (prompts, -1)) for part in parts]
    return torch.cat(grouped, dim=1).flatten(0, 1)


def total(world: World, values: Tensor, device: torch.device) -> Tensor:
    """The sum of every rank's values, which lie on the CPU; `device`: where this rank works."""
    if world.size == 1:
        return values
    moved = values.to(device) if dist.get_backend() == "nccl" else values.clone()
    with together():
        dist.all_reduce(moved)
    return moved.cpu()


def broadcast(world: World, module: nn.Module) -> None:
    """Rank 0's parameters to all."""
    if world.size > 1:
        with together():
            for parameter in module.parameters():
                dist.broadcast(parameter.data, 0)


def share(world: World, value: object) -> object:
    """Rank 0's small Python value to all."""
    if world.size == 1:
        return value
    box = [value]
    with together():
        dist.broadcast_object_list(box, 0)
    return box[0]
