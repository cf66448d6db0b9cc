"""The command line: presets, overlays, overrides, and what is said about mistakes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from async_timestep.training.run.config import Config
from async_timestep.training.run.settings import (
    as_dict,
    binding,
    config_sha256,
    dotted,
    flat,
    parse,
    to_yaml,
)

ROOT = Path(__file__).resolve().parents[2]


def test_order_preset_overlay_command_line(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("grpo: {lr: 0.5, clip: 0.3}\niterations: 7\n")
    config, _ = parse(["--preset=tiny", f"--config={overlay}", "--grpo.epsilon=0.1"])
    assert (config.grpo.lr, config.grpo.epsilon, config.iterations) == (0.5, 0.1, 7)
    assert config.policy.width == 64  # the preset's own
    assert config.grpo.num_generations == 16  # the default


def test_steps_may_be_a_list():
    assert parse(["--preset=tiny", "--steps=[4,6]"])[0].steps == [4, 6]
    assert parse(["--preset=tiny", "--steps=5"])[0].steps == 5


def test_one_more_reward_weight():
    weights = parse(["--preset=tiny", "--rewards.weights.noise=-0.5"])[0].rewards.weights
    assert weights["noise"] == -0.5 and weights["scene"] == 1.0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--preset=tini"], ["'tini'", "tiny"]),
        (["--preset=tiny", "--grpo.lrr=1"], ["grpo.lrr does not exist", "did you mean grpo.lr?"]),
        (["--preset=tiny", "--itertions=1"], ["did you mean iterations?"]),
        (["--preset=tiny", "--lr=1"], ["did you mean grpo.lr?"]),
        (["--preset=tiny", "--steps=1"], ["steps is 1", "2 or more"]),
        (["--preset=tiny", "--grpo.minibatch_size=5"], ["grpo.minibatch_size 5", "divides"]),
        (["--preset=tiny", "--policy.omega_range=[1.5,0.5]"], ["omega_range", "rising"]),
        (["--preset=tiny", "--policy.deviation_bound=0.7"], ["0.7", "0.5", "1.0"]),
        (["--preset=tiny", "--backbone.name=sdxl"], ["backbone.name", "sd35_medium", "sdxl"]),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    text = capsys.readouterr().err
    assert caught.value.code == 2 and text.count("\n") == 1
    for word in words:
        assert word in text


def test_an_unknown_key_in_a_file_is_named(tmp_path, capsys):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("grpo:\n  klskip: 3\n")
    with pytest.raises(SystemExit):
        parse(["--preset=tiny", f"--config={overlay}"])
    assert "grpo.klskip does not exist; did you mean grpo.kl_skip?" in capsys.readouterr().err


def test_yaml_round_trip(tmp_path):
    config, _ = parse(["--preset=tiny", "--policy.omega_range=[0.75,1.25]"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    again, _ = parse([], base=path)
    assert as_dict(again) == as_dict(config)
    assert set(flat(yaml.safe_load(path.read_text()))) == set(dotted(Config))


def test_binding_settings_make_the_hash():
    config = parse(["--preset=tiny"])[0]
    same = parse(["--preset=tiny", "--threads=3", "--log.keep=9", "--max_hours=1"])[0]
    other = parse(["--preset=tiny", "--grpo.epsilon=0.3"])[0]
    assert config_sha256(config) == config_sha256(same) != config_sha256(other)
    assert "grpo.epsilon" in binding(config) and "threads" not in binding(config)


def test_a_linear_schedule_binds_the_number_of_iterations():
    assert "iterations" in binding(parse(["--preset=tiny", "--grpo.lr_schedule=linear"])[0])
    assert "iterations" not in binding(parse(["--preset=tiny", "--grpo.lr_schedule=constant"])[0])


def test_print_config_is_yaml_that_can_be_used_again(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "training" / "train_tpm.py"),
            "--preset=tiny",
            "--print_config",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["grpo"]["epsilon"] == 0.2
