"""Two machines with a folder of their own each, as torchrun --nnodes 2 starts them: what a training
makes lies on the first, and only there, and it goes on to the bit. (A search on two machines:
test_search_command.py.)"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from small_model import small_model
from two_ranks import on_two_ranks

from async_timestep.tpm.checkpoint import load_tpm

MODEL = ["--preset=tiny", "--backbone.precision=fp32", f"--backbone.path={small_model()}"]
RUN = [
    *MODEL, "--threads=1", "--grpo.lr=1e-3", "--grpo.num_generations=4", "--grpo.minibatch_size=2",
    "--grpo.prompts_per_iteration=1", "--grpo.lr_schedule=constant", "--steps=2",
    "--data.validation_prompts=2", "--log.checkpoint_every=1", "--log.samples_every=0",
]  # fmt: skip


def lines(path: Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def test_a_training_goes_on_to_the_bit(tmp_path, warm):
    machines = first, second = tmp_path / "first", tmp_path / "second"
    for folder in machines:
        folder.mkdir()
    for out, iterations in (("whole", 2), ("halves", 1), ("halves", 2)):
        more = ["--resume"] if (first / out).exists() else []
        words = [*RUN, *more, f"--iterations={iterations}", f"--out={out}"]
        on_two_ranks(warm, "grpo.command", words, machines)
    whole, halves = (load_tpm(first / out / "tpm_last.safetensors") for out in ("whole", "halves"))
    assert whole[1].iterations == halves[1].iterations == 2
    a, b = whole[0].state_dict(), halves[0].state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert lines(first / "whole" / "metrics.jsonl") == lines(first / "halves" / "metrics.jsonl")
    assert not list(second.iterdir())
