"""Only `prepare.py --fetch` asks the network: everything else reads what is on this disk."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from small_model import small_model

from async_timestep.training.backbones import load_backbone
from async_timestep.training.data import fetch
from async_timestep.training.grpo import command as train_command
from async_timestep.training.rewards import PAPER, own_reward
from async_timestep.training.run.config import BackboneConfig, RewardsConfig

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
PLACES = ("clip_model", "pick_path", "pick_processor", "image_reward_tokenizer", "hps_tokenizer")
NOBODY = {name: "nobody/nothing" for name in PLACES}
LOADERS = ("from_pretrained", "hf_hub_download", "snapshot_download")
RUN = ["--preset=tiny", "--threads=1", "--backbone.path", small_model()]


def loads_offline(tree: ast.AST, within: bool = False):
    """(a call of a loader of the hub, whether it stands in `with offline()`)."""
    for node in ast.iter_child_nodes(tree):
        inner = within
        if isinstance(node, ast.With):
            inner |= any("offline()" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in LOADERS:
            yield node, inner
        yield from loads_offline(node, inner)


def test_every_loader_is_told_to_read_the_disk_alone():
    """Whoever calls a loader of the hub in training/ says so at the call, and calls it in
    `offline` or in a process that is offline, or is `fetch`."""
    fetches, found = ROOT / "training" / "data" / "fetch.py", 0
    for path in sorted((ROOT / "training").rglob("*.py")):
        text = path.read_text("utf-8")
        whole = path.name == "reward_worker.py" and "constants.HF_HUB_OFFLINE = True" in text
        for call, within in loads_offline(ast.parse(text), whole):
            given = {k.arg: ast.unparse(k.value) for k in call.keywords}
            good = within and given.get("local_files_only") == "True"
            assert good or path == fetches, f"{path.name}:{call.lineno}"
            found += path != fetches
    assert found > 3


@pytest.fixture(autouse=True)
def unreachable(monkeypatch, tmp_path):
    """No cache, and whoever looks a name up or connects ends the test."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *a, **k: pytest.fail(f"asked the network: {a}"))


@pytest.mark.parametrize("name", PAPER)
def test_a_reward_that_is_not_here_is_one_sentence(name):
    with pytest.raises(OSError, match=r"prepare\.py --fetch") as caught:
        own_reward(name, RewardsConfig(**NOBODY), CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sd35_medium", "flux1_dev"])
def test_a_model_that_is_not_here_is_one_sentence(name):
    config = BackboneConfig(name=name, path="nobody/nothing", resolution=512)
    with pytest.raises(ValueError, match=r"prepare\.py --fetch") as caught:
        load_backbone(config, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [["--dry_run"], []])
def test_no_run_and_no_dry_run_asks(tmp_path, capsys, more):
    weights = ["--rewards.weights", '{"clip": 1}', "--rewards.clip_model", "nobody/nothing"]
    assert train_command.main([*RUN, *weights, *more, "--out", str(tmp_path / "run")]) == 1
    assert "prepare.py --fetch" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_run_whose_settings_lost_a_section_does_not_fetch_the_default_ones(tmp_path, capsys):
    """Without `rewards` the settings name the paper's four, whose weights are 8 GB."""
    out = tmp_path / "run"
    few = ["--iterations=1", "--steps=2", "--grpo.num_generations=2", "--grpo.minibatch_size=1"]
    few += [
        "--grpo.prompts_per_iteration=1",
        "--data.validation_prompts=2",
        "--log.samples_every=0",
    ]
    assert train_command.main([*RUN, *few, "--out", str(out)]) == 0
    (out / "README.md").unlink()  # as killed at the very end
    text = (out / "config.yaml").read_text()
    begin, end = text.index("\nrewards:"), text.index("\ndata:")
    (out / "config.yaml").write_text(text[:begin] + text[end:])
    capsys.readouterr()
    assert train_command.main(["--resume", "--out", str(out)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(".")


def test_a_list_of_what_is_needed_is_made_without_asking(capsys):
    assert fetch.main(["--preset", "sd35_medium"]) == 1
    assert "0 of " in capsys.readouterr().out
