"""TPM files with planted weights: deviations that are not zero and follow the state."""

from __future__ import annotations

from pathlib import Path

import torch

import comfy.samplers

SPLITS = {"sd35": (768, 1280), "flux": (768,)}
NAMES = {"sd35": "sd35_medium", "flux": "flux1_dev"}


def schedule(model, steps: int, scheduler: str = "simple") -> torch.Tensor:
    """(K+1,) sigmas of a ComfyUI scheduler for a ModelPatcher."""
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)


def planted_tpm(
    pack,
    folder: Path,
    family: str,
    sigmas: torch.Tensor,
    head: float = 8.0,
    seed: int = 3,
    actions: str = "deviation",
    bound: float = 0.5,
    **network,
) -> Path:
    """A file as the trainer writes one. head: scale of the random head; 0 leaves it untrained."""
    nets, checkpoint = pack("tpm.network"), pack("tpm.checkpoint")
    split = network.pop("pooled_split", SPLITS[family])
    config = nets.TPMConfig(
        pooled_dim=sum(split), pooled_split=split, width=64, layers=2, heads=4, registers=2,
        actions=actions, **network,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nets.TimestepPredictionModule(config)
        module.raw.weight.copy_(head * torch.randn_like(module.raw.weight))
        module.raw.bias.zero_()
    meta = checkpoint.TPMMeta(
        network=config, model_family=NAMES[family], steps=len(sigmas) - 1,
        sigmas=tuple(float(s) for s in sigmas), deviation_bound=bound,
    )  # fmt: skip
    path = folder / f"{family}_{head:g}_{seed}_{actions}_{bound:g}.safetensors"
    checkpoint.save_tpm(path, module, meta)
    return path


def tpm_policy(pack, path: Path):
    """The file behind the loader's own reader, as the deviation wire carries it."""
    module, meta = pack("tpm.checkpoint").load_tpm(path)
    return pack("tpm.learned").TPMPolicy(module, meta, name=path.name)


def count_calls(module: torch.nn.Module) -> list[tuple]:
    """Arguments of every forward call from now on."""
    calls: list[tuple] = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args))
    return calls
