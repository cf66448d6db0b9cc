"""A small TPM with a head that is not zero, for the tests of files and policies."""

import pytest
import torch

from async_timestep.tpm.checkpoint import TPMMeta
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig


def build(seed: int = 0, **fields) -> TimestepPredictionModule:
    shape = dict(latent_channels=4, pooled_dim=12, pooled_split=(4, 8), width=16, layers=2)
    config = TPMConfig(**{**shape, "heads": 2, "registers": 2, **fields})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TimestepPredictionModule(config)
        torch.nn.init.normal_(module.raw.weight)
    return module


def describe(module: TimestepPredictionModule, **fields) -> TPMMeta:
    known = dict(
        model_family="tiny", steps=4, sigmas=(1.0, 0.9, 0.75, 0.5, 0.0), rewards=("a", "b")
    )
    return TPMMeta(
        **{"network": module.config, "guidance": 3.0, "resolution": 64, **known, **fields}
    )


@pytest.fixture
def make_tpm():
    """(module, meta) with fields of the network and of the metadata given by name."""

    def make(seed: int = 0, meta: dict | None = None, **fields):
        module = build(seed, **fields)
        return module, describe(module, **(meta or {}))

    return make
