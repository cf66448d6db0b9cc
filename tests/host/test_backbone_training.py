"""The script that trained the embedded model, for a few steps: killed on the way, it goes on."""

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


STEPS, LINE = 12, 3  # few: where a processor has no bfloat16 one step of Muon takes six seconds


def command(out: Path, save_seconds: int) -> list[str]:
    module = [sys.executable, "-m", "training.tiny.train_backbone", "--out", str(out)]
    length = ["--steps", str(STEPS), "--log_steps", str(LINE), "--save_seconds", str(save_seconds)]
    return [*module, *length, "--batch", "16", "--lr", "0.1", "--no_bf16", "--threads", "1"]


def test_smoke_training_survives_a_kill(tmp_path):
    """It is killed when it reports its second line, so after the checkpoint of the first."""
    saved = tmp_path / "checkpoint.pt"
    with subprocess.Popen(command(tmp_path, 0), cwd=ROOT, stdout=subprocess.PIPE) as process:
        reported = [json.loads(process.stdout.readline())["step"] for _ in range(2)]
        process.send_signal(signal.SIGKILL)
    assert reported == [LINE, 2 * LINE]
    before = torch.load(saved)
    assert LINE <= before["step"] < STEPS and before["spent"] > 0
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    subprocess.run(command(tmp_path, 10**6), cwd=ROOT, check=True)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    went_on = log[len(lines) :]
    assert [line["step"] for line in went_on] == list(range(before["step"] + LINE, STEPS + 1, LINE))
    assert all(line["minutes"] >= round(before["spent"] / 60, 2) for line in went_on)
    assert log[-1]["loss"] < 0.9 * log[0]["loss"], log  # 0.77: the same steps on every machine
    assert not saved.exists()

    network = TinyBackbone(tmp_path).network
    loaded = comfy.sd.load_diffusion_model(str(tmp_path / "transformer.safetensors"))
    assert type(loaded.model).__name__ == "SD3"
    assert network.config.num_layers == 3
