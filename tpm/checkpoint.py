"""A TPM file: one .safetensors with the weights, and with all that must be known to use them.

    save_tpm("tpm.safetensors", module, TPMMeta(network=module.config, model_family="tiny", ...))
    module, meta = load_tpm("tpm.safetensors")

Whatever is wrong with a file ends as a `TPMFileError` of one sentence.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from .content import KEY, content_sha256, save_whole
from .metadata import CURE, TPMFileError, TPMMeta, from_texts, shown, to_texts
from .network import TimestepPredictionModule, TPMConfig

__all__ = ["TPMFileError", "TPMMeta", "load_tpm", "save_tpm"]
DTYPES = (torch.float32, torch.float16)


def save_tpm(path: str | Path, module: TimestepPredictionModule, meta: TPMMeta) -> None:
    """Writes the file in one move: a reader sees the old one or the new one, never a half.

    Raises TPMFileError where `load_tpm` would refuse the result.
    """
    path = Path(path)
    if module.config != meta.network:
        raise TPMFileError(
            f"{path.name} was to be saved with metadata of another network than the module's; "
            "pass TPMMeta(network=module.config, ...)."
        )
    texts = to_texts(meta)
    from_texts(path.name, texts)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in module.state_dict().items()
    }
    for name, tensor in tensors.items():
        check_finite(path.name, name, tensor)
    save_whole(path, tensors, texts)


def load_tpm(path: str | Path) -> tuple[TimestepPredictionModule, TPMMeta]:
    """The module (float32, CPU, no gradients) and its metadata. Raises TPMFileError."""
    path = Path(path)
    name = path.name
    if not path.is_file():
        raise TPMFileError(f"{name} was not found, expected a TPM file there; {CURE}.")
    if path.stat().st_size == 0:
        raise TPMFileError(f"{name} is empty, expected a TPM file; copy or download it again.")
    try:
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            kept = texts.pop(KEY, None)
            meta = from_texts(name, texts)
            check_size(name, meta.network, path.stat().st_size)
            with torch.device("meta"):  # names and shapes alone, nothing is allocated
                module = TimestepPredictionModule(meta.network)
            shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
            check_names(name, set(shapes), set(file.keys()))
            for key, shape in shapes.items():
                check_shape(name, key, file.get_slice(key).get_shape(), shape)
            stored = {key: file.get_tensor(key) for key in shapes}
            tensors = {key: read_tensor(name, key, stored[key]) for key in shapes}
            check_content(name, kept, stored, texts)
    except (SafetensorError, OSError):
        raise TPMFileError(
            f"{name} is no complete safetensors file (of another kind, or cut off), expected a TPM "
            "file; copy or download it again."
        ) from None
    except (RuntimeError, MemoryError):  # torch cannot map or copy so much
        raise TPMFileError(
            f"{name} has {path.stat().st_size:,} bytes, expected a file that fits into the memory "
            f"of this machine; {CURE}."
        ) from None
    module.load_state_dict(tensors, assign=True)
    return module.requires_grad_(False).train(False), meta


def family_in(path: str | Path) -> str:
    """The model family that a file says it is for, "" where it says none or is no such file."""
    return texts_in(path).get("model_family", "")


def iterations_in(path: str | Path) -> int | None:
    """Of how many iterations a file says it is, None where it says none or is no such file."""
    said = texts_in(path).get("iterations", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None


def texts_in(path: str | Path) -> dict[str, str]:
    """The metadata as they are, {} where there are none."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, RuntimeError):
        return {}


def check_content(
    name: str, kept: str | None, tensors: dict[str, torch.Tensor], texts: dict[str, str]
) -> None:
    """Raises TPMFileError where the content is not what was written; older files tell no hash."""
    if kept is not None and kept != content_sha256(tensors, texts):
        raise TPMFileError(
            f"{name} has other content than its {KEY} tells, expected what was written: it was "
            "damaged or changed since; copy or download it again."
        )


def check_size(name: str, config: TPMConfig, found: int) -> None:
    """Raises TPMFileError where the file is too small for the network, before that is allocated."""
    blocks = 12 * config.layers * config.width**2
    patches = 3 * config.latent_channels * config.patch**2 * config.width
    expected = 2 * (blocks + patches + config.registers * config.width**2)  # bytes, half precision
    if found < expected:
        raise TPMFileError(
            f"{name} has {found} bytes, expected more than {expected} for the network that its "
            f"metadata describe; {CURE}."
        )


def check_names(name: str, expected: set[str], found: set[str]) -> None:
    """Raises TPMFileError unless the tensors are exactly those of the network."""
    for what, keys in (("lacks", expected - found), ("has the unknown", found - expected)):
        if keys:
            raise TPMFileError(
                f"{name} {what} tensor {shown(min(keys))} ({len(keys)} in all), expected the "
                f"{len(expected)} tensors of the network that its metadata describe; {CURE}."
            )


def check_shape(name: str, key: str, found: list[int], shape: torch.Size) -> None:
    """Raises TPMFileError, before the tensor is read."""
    if list(found) != list(shape):
        raise TPMFileError(
            f"{name} has the tensor {key} with shape {shown(found)}, expected {list(shape)} "
            f"from its metadata; {CURE}."
        )


def read_tensor(name: str, key: str, tensor: torch.Tensor) -> torch.Tensor:
    """A float32 copy, so that the file is not kept open. Raises TPMFileError."""
    if tensor.dtype not in DTYPES:
        raise TPMFileError(
            f"{name} has the tensor {key} in {str(tensor.dtype)[6:]}, expected float32 or float16; "
            "save it again in one of these."
        )
    check_finite(name, key, tensor)
    return tensor.to(torch.float32, copy=True)


def check_finite(name: str, key: str, tensor: torch.Tensor) -> None:
    """Raises TPMFileError on NaN or infinity."""
    if not bool(tensor.isfinite().all()):
        raise TPMFileError(
            f"{name} has NaN or infinity in the tensor {key}, expected finite weights; take an "
            "earlier checkpoint of that training run."
        )
