"""The script that trained the embedded model, for a few steps: killed on the way, it goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import torch

import comfy.sd
from async_timestep.training.tiny.backbone import TinyBackbone

SCRIPT = "tiny.train_backbone"
STEPS, LINE = 6, 1


def arguments(out: Path, save_seconds: int) -> list:
    length = ["--steps", STEPS, "--log_steps", LINE, "--save_seconds", save_seconds]
    length += ["--ns_steps", 1]  # five take five seconds where a processor has no bfloat16
    return ["--out", out, *length, "--batch", 16, "--lr", 0.3, "--no_bf16", "--threads", 1]


def test_smoke_training_survives_a_kill(tmp_path, warm):
    """It is killed when it reports its second line, so after the checkpoint of the first."""
    saved = tmp_path / "checkpoint.pt"
    process = warm.start(SCRIPT, arguments(tmp_path, 0))
    while process.text().count("\n") < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.text()
    reported = [json.loads(line)["step"] for line in process.text().splitlines()]
    assert reported == [LINE, 2 * LINE]
    before = torch.load(saved, weights_only=True)
    assert LINE <= before["step"] < STEPS and before["spent"] > 0
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    resumed = warm.start(SCRIPT, arguments(tmp_path, 10**6))
    assert resumed.wait() == 0, resumed.text()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    went_on = log[len(lines) :]
    assert [line["step"] for line in went_on] == list(range(before["step"] + LINE, STEPS + 1, LINE))
    assert all(line["minutes"] >= round(before["spent"] / 60, 2) for line in went_on)
    losses = [line["loss"] for line in log]  # each of one batch of 16, so not falling evenly
    assert min(losses) < 0.9 * losses[0], losses  # 0.81 here: the same steps on every machine
    assert not saved.exists()

    network = TinyBackbone(tmp_path).network
    loaded = comfy.sd.load_diffusion_model(str(tmp_path / "transformer.safetensors"))
    assert type(loaded.model).__name__ == "SD3"
    assert network.config.num_layers == 3
