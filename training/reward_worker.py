"""Scores images with the image-reward and hpsv2 packages, for a trainer in another environment.

    python training/reward_worker.py [--address PATH] [--device cuda]

The trainer (rewards.backend packages) connects to --address and sends its settings; the protocol is
at the top of training/rewards/packages.py. A model is loaded once, at the first trainer that asks
for it, and stays until this process is stopped. Nothing is fetched: `training/prepare.py --fetch`
puts the published files into the hub's cache, or the settings name them.

The environment is one of its own, since the packages need an older transformers than the trainer:

    pip install image-reward==1.5 hpsv2==1.2.0 clip-anytorch==2.6.0 transformers==4.55.4
        diffusers==0.39.0 huggingface-hub==0.36.2 tokenizers==0.21.4 timm==0.6.13
        fairscale==0.4.13 "datasets>=3.6,<4" "setuptools<81" torch torchvision

hpsv2 lacks one file: copy bpe_simple_vocab_16e6.txt.gz from the folder of the package clip to
hpsv2/src/open_clip. In a checkout of the repository `make parity` does all of it and leaves the
environment in .host/packages-venv.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path, PurePath
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = ".host/reward_worker.sock"

OTHER = (
    "this worker already serves a trainer with other reward settings, start a second one with "
    "another --address and set rewards.address to it"
)

# prompts and uint8 images (B, H, W, 3) -> metric -> B floats
Scorer = Callable[[list[str], "object"], dict[str, list[float]]]
Loader = Callable[[dict], Scorer]

# The text tower that image-reward otherwise fetches as med_config.json
MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}


def serve(address: str, load: Loader) -> None:
    """Answers every trainer that connects, one batch at a time; ends with the process."""
    lock, loaded = threading.Lock(), {}
    with Listener(address) as listener:
        print(f"Reward worker listens on {address}", flush=True)
        while True:
            connection = listener.accept()
            thread = threading.Thread(
                target=answer, args=(connection, load, loaded, lock), daemon=True
            )
            thread.start()


def answer(connection: Connection, load: Loader, loaded: dict, lock: threading.Lock) -> None:
    """One trainer: its settings, then batches until it hangs up."""
    import numpy as np

    with connection:
        try:
            settings = json.loads(connection.recv_bytes())
            key = json.dumps(settings, sort_keys=True)
            reply: dict = {"names": settings["names"]}
            try:
                with lock:
                    if loaded and key not in loaded:
                        raise ValueError(OTHER)
                    loaded[key] = loaded.get(key) or load(settings)
            except Exception as error:  # the trainer has to hear of it, whatever it is
                reply = {"error": sentence(error)}
            connection.send_bytes(json.dumps(reply).encode())
            while "error" not in reply:
                header = json.loads(connection.recv_bytes())
                shape = (len(header["prompts"]), header["height"], header["width"], 3)
                images = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(shape)
                try:
                    with lock:
                        reply = {"scores": loaded[key](header["prompts"], images)}
                except Exception as error:  # as above
                    reply = {"error": sentence(error)}
                connection.send_bytes(json.dumps(reply).encode())
        except (EOFError, OSError):  # the trainer went away
            return
        except (ValueError, KeyError, TypeError) as error:  # it is no trainer
            reply = {"error": f"what was sent is none of the protocol: {sentence(error)}"}
            with contextlib.suppress(OSError):
                connection.send_bytes(json.dumps(reply).encode())


def sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return f"{type(error).__name__}: {lines[0]}"


def load_packages(settings: dict, device: str) -> Scorer:
    """The package models that `settings` names."""
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # nothing is fetched here
    scorers = {}
    if "image_reward" in settings["names"]:
        scorers["image_reward"] = load_image_reward(
            settings["image_reward_path"], settings["image_reward_tokenizer"], device
        )
    if "hps" in settings["names"]:
        scorers["hps"] = load_hps(settings["hps_path"], settings["hps_version"], device)

    def score(prompts: list[str], images) -> dict[str, list[float]]:
        from PIL import Image

        pictures = [Image.fromarray(row) for row in images]
        pairs = list(zip(prompts, pictures, strict=True))
        return {name: [float(one(*pair)) for pair in pairs] for name, one in scorers.items()}

    return score


def load_image_reward(path: str, tokenizer: str, device: str):
    """(prompt, image) -> score by ImageReward.load(...).score."""
    import ImageReward.utils as package
    import torch
    from ImageReward.models.BLIP import blip
    from transformers import BertTokenizer

    package.torch = WeightsOnly(torch)
    # it asks the hub for bert-base-uncased by name; the trainer's setting names the same tokens
    blip.BertTokenizer = SimpleNamespace(
        from_pretrained=lambda name: BertTokenizer.from_pretrained(tokenizer, local_files_only=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "med_config.json"
        config.write_text(json.dumps(MED_CONFIG))
        path = path or in_cache("THUDM/ImageReward", "ImageReward.pt")
        model = package.load(path, device=device, med_config=str(config))

    def score(prompt: str, image) -> float:
        with torch.no_grad():
            return model.score(prompt, image)

    return score


def load_hps(path: str, version: str, device: str):
    """(prompt, image) -> score by hpsv2.img_score.score, which is kept from reading twice.

    The package builds LAION's model from the hub first, only to overwrite it, and reads its
    checkpoint at every call; here the same architecture is built empty, and read once.
    """
    import hpsv2.img_score as package
    import torch

    package.device = device
    model, _, preprocess = package.create_model_and_transforms(
        "ViT-H-14",
        None,
        precision="amp",
        device=device,
        light_augmentation=True,
        aug_cfg={},
        output_dict=True,
    )
    path = path or in_cache("xswu/HPSv2", package.hps_version_map[version])
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["state_dict"])
    model.load_state_dict = lambda state: None
    package.model_dict.update(model=model, preprocess_val=preprocess)
    package.torch = Reread(torch)
    return lambda prompt, image: package.score(image, prompt, cp=path, hps_version=version)[0]


def in_cache(repository: str, name: str) -> str:
    """A published file in the hub's cache. Nothing is asked of the network: raises what
    huggingface_hub raises where the file is not there (training/prepare.py --fetch puts it there).
    """
    import huggingface_hub

    return huggingface_hub.hf_hub_download(repository, name, local_files_only=True)


class WeightsOnly:
    """torch for ImageReward.utils, but its load takes tensors alone: a file from elsewhere runs no
    code here."""

    def __init__(self, torch):
        self.torch = torch

    def __getattr__(self, name: str):
        return getattr(self.torch, name)

    def load(self, path: str, *_, **__) -> dict:
        return self.torch.load(path, map_location="cpu", weights_only=True)


class Reread(WeightsOnly):
    """torch for hpsv2.img_score, but its load gives nothing: the model has its weights."""

    def load(self, *_, **__) -> dict:
        return {"state_dict": None}


def listening_address(address: str) -> str:
    """What the trainer makes of rewards.address (training/rewards/packages.py, which needs torch):
    a named pipe as it is, else a path below the repository, or on Windows the pipe of its name."""
    if address.startswith("\\\\"):
        return address
    if sys.platform == "win32":
        return rf"\\.\pipe\async-timestep-{PurePath(address).name}"
    return str(ROOT / address)


def free(address: str) -> str:
    """Removes the socket of a worker that was killed, on which nobody listens any more; a sentence
    where something else is there, which stays."""
    path = Path(address)
    if address.startswith("\\\\") or not path.is_symlink() and not path.exists():
        return ""
    if path.is_symlink() or not stat.S_ISSOCK(path.stat().st_mode):
        return f"{address} is there and no socket of a worker's; choose another --address."
    try:
        Client(address).close()
        return f"a worker listens on {address} already; use it, or choose another --address."
    except ConnectionRefusedError:
        path.unlink()
        return ""
    except OSError as error:
        return f"{address} is the socket of another program ({error}); choose another --address."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default=ADDRESS, help="rewards.address of the trainer")
    parser.add_argument(
        "--device", default="", help="cpu or cuda; empty is CUDA where there is one"
    )
    arguments = parser.parse_args()
    address = listening_address(arguments.address)
    if said := free(address):
        sys.exit(f"reward_worker.py: {said}")
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if not address.startswith("\\\\"):  # a named pipe of Windows
            Path(address).parent.mkdir(parents=True, exist_ok=True)
        serve(address, lambda settings: load_packages(settings, device))
    except OSError as error:  # too long for a socket, or not writable
        sys.exit(
            f"reward_worker.py: cannot listen on {address} ({error}); choose another --address."
        )


if __name__ == "__main__":
    # the packages must not find files of this folder in the place of modules of theirs
    sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent]
    main()
