"""The script that trained the embedded model, for a few hundred steps: killed on the way, it goes
on.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import torch

import comfy.sd
from training.tiny.backbone import TinyBackbone

ROOT = Path(__file__).parents[2]


STEPS = 300


def command(out: Path, save_seconds: int) -> list[str]:
    module = [sys.executable, "-m", "training.tiny.train_backbone", "--out", str(out)]
    sizes = ["--steps", str(STEPS), "--batch", "32", "--save_seconds", str(save_seconds)]
    return [*module, *sizes, "--threads", "1"]


def test_smoke_training_survives_a_kill(tmp_path):
    """It is killed when it reports step 50, so after the checkpoint of step 25."""
    saved, out = tmp_path / "checkpoint.pt", subprocess.PIPE
    with subprocess.Popen(command(tmp_path, 0), cwd=ROOT, stdout=out, text=True) as process:
        reported = [json.loads(process.stdout.readline())["step"] for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    assert reported == [25, 50]
    before = torch.load(saved)
    assert 25 <= before["step"] < STEPS
    subprocess.run(command(tmp_path, 10**6), cwd=ROOT, check=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == STEPS
    after = [line["step"] for line in log if line["minutes"] >= round(before["spent"] / 60, 2)]
    assert after[-(STEPS - before["step"]) // 25 :] == list(
        range(before["step"] + 25, STEPS + 1, 25)
    ), "it went on from the checkpoint, and its time too"
    assert log[-1]["loss"] < 0.75 * log[0]["loss"], log
    assert not saved.exists()

    network = TinyBackbone(tmp_path).network
    loaded = comfy.sd.load_diffusion_model(str(tmp_path / "transformer.safetensors"))
    assert type(loaded.model).__name__ == "SD3"
    assert network.config.num_layers == 3
