"""Two minutes of the script that trained the embedded model: killed on the way, it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import comfy.sd
from training.tiny.backbone import TinyBackbone

ROOT = Path(__file__).parents[2]


def command(out: Path, minutes: float) -> list[str]:
    module = [sys.executable, "-m", "training.tiny.train_backbone", "--out", str(out)]
    return [*module, "--minutes", str(minutes), "--batch", "32", "--save_seconds", "10"]


def test_smoke_training_survives_a_kill(tmp_path):
    saved = tmp_path / "checkpoint.pt"
    with subprocess.Popen(command(tmp_path, 2), cwd=ROOT) as process:
        while not saved.exists() and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert saved.exists(), "the run ended without a checkpoint"
    before = torch.load(saved)["step"]
    subprocess.run(command(tmp_path, 2), cwd=ROOT, check=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] > before and log[-1]["minutes"] > log[0]["minutes"]
    assert log[-1]["loss"] < 0.75 * log[0]["loss"], log
    assert not saved.exists()

    network = TinyBackbone(tmp_path).network
    loaded = comfy.sd.load_diffusion_model(str(tmp_path / "transformer.safetensors"))
    assert type(loaded.model).__name__ == "SD3"
    assert network.config.num_layers == 3
