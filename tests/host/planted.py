"""TPM files with planted weights: deviations that are not zero and follow the state."""

from __future__ import annotations

from pathlib import Path

import torch

import comfy.samplers

SPLITS = {"sd35": (768, 1280), "flux": (768,)}
NAMES = {"sd35": "sd35_medium", "flux": "flux1_dev"}
PLANTED = {"sd35": (8.0, 2), "flux": (8.0, 4)}  # scale of the random head, seed: many deviations
# Of both time layers: float32 has a time of 1000 to 6e-5, which the fastest sinusoids show in full.
# With the weights as they are drawn the policy hands that on from step to step, to 1e-4 and more.
TIME_WEIGHTS = 0.1


def schedule(model, steps: int, scheduler: str = "simple") -> torch.Tensor:
    """(K+1,) sigmas of a ComfyUI scheduler for a ModelPatcher."""
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)


def planted_tpm(
    pack,
    folder: Path,
    family: str,
    sigmas: torch.Tensor,
    head: float | None = None,
    seed: int | None = None,
    actions: str = "deviation",
    bound: float = 0.5,
    **network,
) -> Path:
    """A file as the trainer writes one. head: scale of the random head; 0 leaves it untrained."""
    head = PLANTED[family][0] if head is None else head
    seed = PLANTED[family][1] if seed is None else seed
    nets, checkpoint = pack("tpm.network"), pack("tpm.checkpoint")
    split = network.pop("pooled_split", SPLITS[family])
    config = nets.TPMConfig(
        pooled_dim=sum(split),
        pooled_split=split,
        width=64,
        layers=2,
        heads=4,
        registers=2,
        actions=actions,
        **network,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nets.TimestepPredictionModule(config)
        module.raw.weight.copy_(head * torch.randn_like(module.raw.weight))
        module.raw.bias.zero_()
        for layer in (module.time, module.time_star):
            layer.weight *= TIME_WEIGHTS
    meta = checkpoint.TPMMeta(
        network=config,
        model_family=NAMES[family],
        steps=len(sigmas) - 1,
        sigmas=tuple(float(s) for s in sigmas),
        deviation_bound=bound,
    )
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


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())
