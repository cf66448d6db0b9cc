"""The files of the mistakes: TPMs that are broken or of another model, and stubs of other models.

`write(base)` puts them where a server with that base directory finds them.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..tpm.checkpoint import load_tpm, save_tpm
from ..tpm.network import TimestepPredictionModule

TINY = Path(__file__).parents[1] / "training" / "tiny" / "tpm" / "tiny.safetensors"
LORA = {"lora_unet_blocks_0.lora_down.weight": torch.zeros(4, 8)}
# As much of these as ComfyUI's detection reads: their graphs end before any weight is used.
VACE = {
    "head.modulation": (1, 2, 128),
    "head.head.weight": (64, 128),
    "head.head.bias": (64,),
    "blocks.0.ffn.0.weight": (256, 128),
    "patch_embedding.weight": (128, 16, 1, 2, 2),
    "vace_patch_embedding.weight": (128, 96, 1, 2, 2),
    "vace_blocks.0.ffn.0.weight": (256, 128),
}
CLIP_L = {f"text_model.encoder.layers.{n}.mlp.fc1.weight": (3072, 768) for n in (0, 1)}


def write(base: Path) -> None:
    """All files, under `base`/models and `base`/input."""
    folders = {
        name: base / name
        for name in ("models/tpm", "models/diffusion_models", "models/text_encoders", "input")
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    write_broken(folders["models/tpm"])
    write_other(folders["models/tpm"])
    save_file(zeros(VACE), folders["models/diffusion_models"] / "wan_vace.safetensors")
    save_file(zeros(CLIP_L), folders["models/text_encoders"] / "clip_l.safetensors")
    latent = {"latent_tensor": torch.ones(1, 4, 16, 16), "latent_format_version_0": torch.zeros(1)}
    save_file(latent, folders["input"] / "sd15.latent")


def zeros(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def write_broken(folder: Path) -> None:
    """Files that are no TPM, or no longer."""
    tensors = load_file(TINY)
    with safe_open(TINY, framework="pt") as file:
        texts = file.metadata()
    (folder / "cut.safetensors").write_bytes(TINY.read_bytes()[:100_000])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "renamed.safetensors").write_bytes(pickle.dumps({"weight": [0.0] * 100}))
    save_file(LORA, folder / "my_lora.safetensors")
    save_file(LORA, folder / "kohya_lora.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "newer.safetensors", metadata={**texts, "format_version": "2"})
    save_file(tensors, folder / "extra.safetensors", metadata={**texts, "norm": "rms"})
    name = "raw.weight"
    save_file({**tensors, name: tensors[name] * torch.nan}, folder / "nan.safetensors", texts)


def write_other(folder: Path) -> None:
    """Whole TPMs that were trained for something else than the embedded model."""
    _, meta = load_tpm(TINY)
    sd35 = replace(meta.network, pooled_dim=2048, pooled_split=(768, 1280))
    sd15 = replace(meta.network, latent_channels=4)
    for name, network, family in (
        ("sd35", sd35, "sd35_medium"),
        ("sd15", sd15, "my_sd15"),
        ("cousin", meta.network, "my_sd35"),
    ):
        module = TimestepPredictionModule(network)
        own = replace(meta, network=network, model_family=family)
        save_tpm(folder / f"{name}.safetensors", module, own)
