"""Random weights in the widths of the real models, and what to sample with them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from async_timestep.harness.in_process import pack


def randomized(network: torch.nn.Module) -> None:
    rng = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, 0.7 / tensor[0].numel() ** 0.5, generator=rng)
        else:
            gain = ("norm" in name or "ln_" in name) and not name.endswith("bias")
            tensor.fill_(float(gain))


def cut_sd35(blocks: int):
    """SD3.5-medium with its first blocks only, half of them with a second attention."""
    import comfy.model_patcher
    import comfy.supported_models

    linear = {"in_features": 4096, "out_features": 1536}
    config = comfy.supported_models.SD3({
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 24, "input_size": None,
        "adm_in_channels": 2048, "num_patches": 64**2, "pos_embed_max_size": 64,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": linear},
        "pos_embed_scaling_factor": None, "qk_norm": "rms", "num_blocks": blocks,
        "x_block_self_attn_layers": list(range(blocks // 2)),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    base, cpu = config.get_model({}, ""), torch.device("cpu")
    randomized(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def prompt(width: int, tokens: int) -> list:
    """A random conditioning with the pooled vector of CLIP-L and CLIP-G."""
    rng = torch.Generator().manual_seed(2)
    pooled = torch.randn(1, 2048, generator=rng)
    return [[torch.randn(1, tokens, width, generator=rng), {"pooled_output": pooled}]]


def random_tpm(grid: torch.Tensor):
    """A TPM policy of default size, whose head is not zero, through its file as a user loads it."""
    network, checkpoint = pack("tpm.network"), pack("tpm.checkpoint")
    torch.manual_seed(3)
    module = network.TimestepPredictionModule(network.TPMConfig())
    torch.nn.init.normal_(module.raw.weight)
    meta = checkpoint.TPMMeta(module.config, "sd35_medium", len(grid) - 1, tuple(grid.tolist()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        checkpoint.save_tpm(path, module, meta)
        return pack("tpm.learned").TPMPolicy(*checkpoint.load_tpm(path), name=path.name)
