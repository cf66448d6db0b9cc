"""Small evaluations of the embedded model, for the tests of evaluate.py."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from small_model import small_model

from async_timestep.tpm.checkpoint import TPMMeta, save_tpm
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig
from async_timestep.training.tiny.backbone import simple_sigmas
from async_timestep.training.tiny.text import POOLED

SMALL = [
    "--backbone.path", small_model(),
    "--preset=tiny", "--backbone.precision=fp32", "--data.validation_prompts=4",
    "--data.evaluation_prompts=8", "--steps=3", "--rewards.batch=4", "--log.samples=1",
    "--threads=1", "--n", "8",
]  # fmt: skip


def write_tpm(path: Path, seed: int, steps: int = 3, family: str = "tiny", **meta) -> Path:
    """A TPM that was not trained but decides something."""
    config = TPMConfig(
        latent_channels=16, pooled_dim=POOLED, pooled_split=(POOLED,), width=16, layers=1, heads=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = TimestepPredictionModule(config)
        with torch.no_grad():
            for values in module.raw.parameters():
                values.copy_(torch.randn_like(values))
    sigmas = tuple(simple_sigmas(steps).tolist())
    save_tpm(path, module, TPMMeta(config, family, steps, sigmas, **meta))
    return path


def rows(out: Path, *leave: str) -> dict[str, list[dict[str, str]]]:
    """Method -> its rows, without some columns."""
    with open(out / "per_prompt.csv", newline="") as file:
        assert next(file).startswith("# settings ")
        found: dict[str, list[dict[str, str]]] = {}
        for row in csv.DictReader(file):
            own = {k: v for k, v in row.items() if k not in leave}
            found.setdefault(row["method"], []).append(own)
    return found
