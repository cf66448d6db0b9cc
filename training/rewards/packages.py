"""The image-reward and hpsv2 packages themselves, in a process with an environment of its own.

They need an older transformers than the trainer (and pin protobuf, timm and pytest), so they are
never imported here. Start the worker first, with a Python that has them (at the top of its file
stands what to install):

    python training/reward_worker.py

Protocol, over a local pipe, each message with its length in front: the trainer sends its settings
as JSON and gets {"names": [...]}; then, for every batch, {"prompts", "height", "width"} as JSON and
the images as raw uint8 (B, H, W, 3), and gets {"scores": {metric: [...]}}. A worker that cannot
answers {"error": "one sentence"}.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Client, Connection
from pathlib import Path, PurePath

import torch
from torch import Tensor

from ..run.config import RewardsConfig
from . import RewardError
from .images import to_uint8

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 900.0  # seconds without an answer; loading both models takes minutes on a slow disk
START = "start it with `python training/reward_worker.py` in an environment of the packages"


class PackageRewards:
    """Some of `image_reward` and `hps`, scored by the packages' own code.

    Raises RewardError when the worker is not there, stops, or answers with an error.
    """

    def __init__(self, config: RewardsConfig, names: tuple[str, ...]):
        self.names, self.address = names, worker_address(config.address)
        try:
            self.connection: Connection = Client(self.address)
        except OSError as error:
            raise RewardError(
                f"No reward worker listens on rewards.address {self.address} ({error}); {START}, "
                "or set rewards.backend to own."
            ) from error
        settings = {
            "names": list(names),
            "image_reward_path": absolute(config.image_reward_path),
            "image_reward_tokenizer": absolute(config.image_reward_tokenizer),
            "hps_path": absolute(config.hps_path),
            "hps_version": config.hps_version,
        }
        answer = self.ask(settings)
        if answer.get("names") != list(names):
            raise RewardError(
                f"The reward worker at {self.address} offers {answer.get('names')}, expected "
                f"{list(names)}; {START}."
            )

    def ask(self, message: dict, payload: bytes | None = None) -> dict:
        """Sends JSON, and bytes if there are some; returns the JSON of the answer."""
        try:
            self.connection.send_bytes(json.dumps(message).encode())
            if payload is not None:
                self.connection.send_bytes(payload)
            if not self.connection.poll(PATIENCE):
                raise TimeoutError(f"no answer in {PATIENCE:.0f} s")
            answer = json.loads(self.connection.recv_bytes())
        except (OSError, EOFError, ValueError) as error:
            reason = str(error) or "it closed the connection"
            raise RewardError(
                f"The reward worker at {self.address} stopped answering ({reason}); see its own "
                f"output, {START}, and continue the run with --resume."
            ) from error
        if "error" in answer:
            raise RewardError(f"The reward worker at {self.address} failed: {answer['error']}")
        return answer

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] and one prompt each -> metric -> (B,) float32."""
        rows = to_uint8(images).cpu().movedim(1, -1).contiguous()
        header = {"prompts": prompts, "height": rows.shape[1], "width": rows.shape[2]}
        scores = self.ask(header, rows.numpy().tobytes()).get("scores", {})
        for name in self.names:
            if len(scores.get(name, ())) != len(prompts):
                raise RewardError(
                    f"The reward worker at {self.address} gave {len(scores.get(name, ()))} scores "
                    f"of {name}, expected {len(prompts)}; nothing was updated."
                )
        return {name: torch.tensor(scores[name], dtype=torch.float32) for name in self.names}


def worker_address(address: str) -> str:
    """A named pipe as it is; a relative path is below the repository, as the worker's own. Where
    Python has none at paths (Windows) the path's last part names a pipe."""
    if address.startswith("\\\\"):
        return address
    if sys.platform == "win32":
        return rf"\\.\pipe\async-timestep-{PurePath(address).name}"
    return str(ROOT / address)


def absolute(where: str) -> str:
    """The worker may run in another folder; a hub id stays one."""
    return str(Path(where).resolve()) if where and Path(where).exists() else where
