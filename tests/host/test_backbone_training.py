"""The scripts that trained the embedded models, for a few steps: killed on the way, they go on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch

import comfy.sd
from async_timestep.training.tiny.backbone import TinyBackbone
from async_timestep.training.tiny.unet import TinyUNet

SCRIPTS = {  # script -> (its weights, log and checkpoint, learning rate, how far the loss falls)
    "tiny.train_backbone": ("transformer.safetensors", "log.jsonl", "checkpoint.pt", 0.3, 0.9),
    "tiny.train_unet": ("unet.safetensors", "unet_log.jsonl", "unet_checkpoint.pt", 0.05, 0.95),
}
STEPS, LINE = 6, 1


def arguments(out: Path, save_seconds: int, lr: float) -> list:
    length = ["--steps", STEPS, "--log_steps", LINE, "--save_seconds", save_seconds]
    length += ["--ns_steps", 1]  # five take five seconds where a processor has no bfloat16
    return ["--out", out, *length, "--batch", 16, "--lr", lr, "--no_bf16", "--threads", 1]


@pytest.mark.parametrize("script", SCRIPTS)
def test_smoke_training_survives_a_kill(tmp_path, warm, pack, script):
    """It is killed when it reports its second line, so after the checkpoint of the first."""
    weights, log_name, checkpoint, lr, fall = SCRIPTS[script]
    saved = tmp_path / checkpoint
    process = warm.start(script, arguments(tmp_path, 0, lr))
    while process.text().count("\n") < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.text()
    reported = [json.loads(line)["step"] for line in process.text().splitlines()]
    assert reported == [LINE, 2 * LINE]
    before = torch.load(saved)
    assert LINE <= before["step"] < STEPS and before["spent"] > 0
    lines = (tmp_path / log_name).read_text().splitlines()
    resumed = warm.start(script, arguments(tmp_path, 10**6, lr))
    assert resumed.wait() == 0, resumed.text()
    log = [json.loads(line) for line in (tmp_path / log_name).read_text().splitlines()]
    went_on = log[len(lines) :]
    assert [line["step"] for line in went_on] == list(range(before["step"] + LINE, STEPS + 1, LINE))
    assert all(line["minutes"] >= round(before["spent"] / 60, 2) for line in went_on)
    losses = [line["loss"] for line in log]  # each of one batch of 16, so not falling evenly
    assert min(losses) < fall * losses[0], losses  # the same steps on every machine
    assert not saved.exists()

    if script == "tiny.train_unet":
        network = TinyUNet(tmp_path).network
        loaded = pack("nodes.demo_unet").load_unet(tmp_path / weights).model.diffusion_model
        counts = [sum(p.numel() for p in each.parameters()) for each in (network, loaded)]
        assert counts[0] == counts[1]
        return
    network = TinyBackbone(tmp_path).network
    loaded = comfy.sd.load_diffusion_model(str(tmp_path / weights))
    assert type(loaded.model).__name__ == "SD3"
    assert network.config.num_layers == 3
