"""The TPM of the repository, that the trainer made: what the node decides in a real server is what
the trainer's own loop decides from the same noise and prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from async_timestep.harness import graphs
from async_timestep.report.trace import Run
from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.tpm.learned import TPMPolicy
from async_timestep.training.backbones import load_backbone
from async_timestep.training.backbones.sampling import column
from async_timestep.training.run.config import BackboneConfig

FOLDER = Path(__file__).parents[2] / "training" / "tiny" / "tpm"
PROMPT = "a purple star above a green circle on a light rough background"
COMMANDS = {  # options after --preset tiny that made each file
    "tiny.safetensors": ["--policy.deviation_bound=1"],
}
UNIT = 1000.0  # the model's own time of flow time 1
NAMES = sorted(path.name for path in FOLDER.glob("*.safetensors"))


def in_server(server, name: str, steps: int, cfg: float, seed: int, batch: int) -> list[dict]:
    graph = graphs.async_ksampler(PROMPT, seed, batch, steps=steps, cfg=cfg)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name=name)
    graph["scale"]["inputs"]["deviation"] = ["tpm", 0]
    del graph["deviation"]
    graph["show"] = graphs.node("PreviewAny", source=["plot", 1])
    return json.loads(server.run(graph)["show"]["text"][0])["runs"][0]


@pytest.mark.parametrize("name", NAMES)
def test_the_node_decides_as_the_trainer(server, name):
    """t* within 1e-5 of the trainer's, every step and image."""
    module, meta = load_tpm(FOLDER / name)
    steps, batch, seed = meta.steps, 3, 11
    found = in_server(server, name, steps, meta.guidance, seed, batch)

    config = BackboneConfig(precision="fp32", guidance=meta.guidance)
    backbone = load_backbone(config, torch.device("cpu"))
    noise = torch.randn(batch, 16, 16, 16, generator=torch.Generator().manual_seed(seed))
    sigmas, policy = backbone.sigmas(steps), TPMPolicy(module, meta)
    record = Run(policy.label, backbone.family, sigmas.tolist())
    backbone.sample(backbone.encode([PROMPT] * batch), noise, sigmas, policy, record=record)
    assert len(found) == steps
    worst = 0.0
    for step, t_star, omega in zip(
        found, column(record, "t_star").T, column(record, "omega").T, strict=True
    ):
        told = [t / UNIT for t in step["t_star"]]
        worst = max(worst, *(abs(a - b) for a, b in zip(told, t_star.tolist(), strict=True)))
        assert step["omega"] == pytest.approx(omega.tolist(), abs=1e-4)
    print(f"t* in the server and in the trainer differ by {worst:.2g}")
    assert worst <= 1e-5
    moved = max(abs(d) for step in found for d in step["deviation"])
    assert moved > 0.05, "a TPM that decides nothing would pass this test"


def test_the_loader_offers_it(server):
    info = server.get("/object_info")["AsyncTimestepTPMLoader"]["input"]["required"]["tpm_name"]
    assert set(NAMES) <= set(info[1]["options"])


@pytest.mark.parametrize("name", NAMES)
def test_it_was_made_by_the_committed_preset(name):
    """The settings of its run, kept beside it, are those of today's preset and its command."""
    from async_timestep.training.data.prompts import load_prompts
    from async_timestep.training.run.settings import as_dict, flat, parse

    _, meta = load_tpm(FOLDER / name)
    run = yaml.safe_load((FOLDER / name).with_suffix(".yaml").read_text())
    config, _ = parse(["--preset=tiny", *COMMANDS[name]])
    config.rewards.weights.setdefault("noise", 0.0)
    today = flat(as_dict(config))
    assert {k: today.get(k) for k in flat(run)} == flat(run)
    assert meta.prompts_sha256 == load_prompts(config.data, "train").sha256
    assert meta.model_family == "tiny" and meta.iterations <= config.iterations
