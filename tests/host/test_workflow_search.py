"""A schedule for a workflow: searched, evaluated and exported through ComfyUI's own sampling."""

from __future__ import annotations

import json

import pytest
import torch
from sampling import sample
from workflow_files import (
    FAMILY,
    SCENES,
    SMALL,
    RandomText,
    family_graph,
    family_loader,
    scored,
    written,
)  # fmt: skip

import nodes
from async_timestep.harness import graphs
from async_timestep.harness.tiny_families import load_family
from async_timestep.nodes.run.hook import attach
from async_timestep.report.trace import Run
from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.tpm.learned import TPMPolicy
from async_timestep.tpm.schedule_file import ScheduleMeta, load_schedule, save_schedule
from async_timestep.training.backbones import load_backbone
from async_timestep.training.backbones.sampling import column
from async_timestep.training.evaluation.command import main as evaluate
from async_timestep.training.grpo.command import main as train
from async_timestep.training.run.config import BackboneConfig
from async_timestep.training.search.command import main as search
from async_timestep.training.search.space import Space

CPU = torch.device("cpu")
NUMBERS = torch.tensor([0.4, -0.2], dtype=torch.float64)


@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_a_schedule_is_told_as_it_was_drawn(name, families, monkeypatch, tmp_path):
    """On an eps model too, whose sigmas are no flow times: its numbers at its own grid points."""
    width, pooled = {"sd15": (768, 768), "flux": (64, 768)}[name]
    loader = family_loader(families[name], RandomText(width, pooled))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, loader)
    workflow = written(tmp_path, family_graph(steps=3, cfg=2.0))
    one = load_backbone(BackboneConfig(name="workflow", workflow=workflow), CPU)
    sigmas, times = one.sigmas(3), one.times(3)
    wanted = sigmas if name == "flux" else sigmas / (1 + sigmas)
    assert times == pytest.approx(wanted.tolist(), rel=1e-6)
    schedule = Space("deviation", times).schedule(NUMBERS)
    record, prompts = Run("", one.family, sigmas.tolist()), one.encode(["a dog", "a mouse"])
    noise = one.noise([torch.Generator().manual_seed(i) for i in range(2)])
    one.sample(prompts, noise, sigmas, schedule, record=record)
    told = column(record, "deviation")
    assert told.tolist() == [pytest.approx(list(schedule.deviation), rel=1e-6)] * 2


@pytest.mark.parametrize(
    ("name", "width", "pooled", "stored", "bright"),  # bright: which way its pictures can change
    [("sdxl", 64, 1280, "sdxl", -1), ("wan", 4096, None, "wan21_t2v", 1)],
)
def test_a_family_is_searched_and_its_sampler_runs_what_was_found(
    name, width, pooled, stored, bright, monkeypatch, tmp_path, tmp_path_factory, capsys
):
    tiny = load_family(name, tmp_path_factory.getbasetemp())
    loader = family_loader(tiny, RandomText(width, pooled))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, loader)
    workflow, out = written(tmp_path, family_graph(steps=3, cfg=2.0)), tmp_path / "found"
    counts = ["--prompts=4", "--candidates=3", "--images=32", "--fixed", "--lying", "--more_steps"]
    own = [*SMALL, *scored(tmp_path), f"--backbone.workflow={workflow}", *counts, f"--out={out}"]
    assert search(own) == 1 and not out.exists(), "a search without prompts to judge it on began"
    assert "data.validation is empty, expected a file" in capsys.readouterr().err
    own += [f"--data.validation={tmp_path / 'prompts.txt'}", "--data.evaluation_prompts=0"]
    own.append(f"--rewards.weights={{bright: {bright}}}")
    assert search([*own, "--n=2"]) == 0, capsys.readouterr().err
    found, meta = load_schedule(out / "found.safetensors")
    assert (meta.model_family, found.steps, len(meta.weights_sha256)) == (stored, 3, 64)
    assert any(found.deviation)
    patched, trace = attach(tiny[0], found)
    sample(tiny, patched, steps=3)
    run = trace.runs[-1]
    assert run.warnings == ([meta.note] if meta.note else [])
    assert column(run, "deviation")[0].tolist() == pytest.approx(list(found.deviation), rel=1e-6)


def test_it_is_searched_evaluated_and_used_by_its_graph(server, tmp_path, capsys):
    workflow = written(tmp_path, graphs.stock(steps=3))
    own = [*SMALL, *SCENES, f"--backbone.workflow={workflow}"]
    small = ["--data.validation_prompts=4", "--data.evaluation_prompts=4"]
    counts = ["--prompts=4", "--candidates=3", "--images=40", "--fixed", "--lying", "--more_steps"]
    out = tmp_path / "found"
    assert search([*own, *small, *counts, f"--out={out}"]) == 0, capsys.readouterr().err
    found, meta = load_schedule(out / "found.safetensors")
    assert meta.model_family == "tiny" and found.steps == 3 and any(found.deviation)

    path = out / "found.safetensors"
    asked = ["--fixed", "--more_steps", "--schedule", str(path), "--out", str(tmp_path / "table")]
    assert evaluate([*own, *small, *asked]) == 0, capsys.readouterr().err
    assert "schedule found" in (tmp_path / "table" / "table.md").read_text()

    save_schedule(tmp_path / "other.safetensors", found, ScheduleMeta("sdxl", 4))
    asked[3] = str(tmp_path / "other.safetensors")
    capsys.readouterr()
    assert evaluate([*own, *small, *asked[:-1], str(tmp_path / "none")]) == 1
    assert "is for the model family sdxl, expected tiny" in capsys.readouterr().err

    place = server.base / "models" / "tpm" / "of_the_workflow.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(path.read_bytes())
    graph = graphs.async_ksampler(batch=1, steps=3)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name=place.name)
    graph["scale"]["inputs"]["deviation"] = ["tpm", 0]
    del graph["deviation"]
    graph["show"] = graphs.node("PreviewAny", source=["plot", 1])
    entries = json.loads(server.run(graph)["show"]["text"][0])["runs"][0]
    told = [entry["deviation"][0] for entry in entries]
    assert told == pytest.approx(list(found.deviation), rel=1e-5)


def test_a_trained_policy_is_used_by_its_graph(server, tmp_path, capsys):
    """Trained through the workflow's own sampler, it decides in the server's graph what it decides
    in the trainer, from the same noise."""
    workflow, out = written(tmp_path, graphs.stock(steps=3)), tmp_path / "run"
    own = [*SMALL, *SCENES, f"--backbone.workflow={workflow}", "--data.validation_prompts=2"]
    with torch.enable_grad():
        assert train([*own, "--iterations=1", f"--out={out}"]) == 0, capsys.readouterr().err
    place = server.base / "models" / "tpm" / "trained_on_the_workflow.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes((out / "tpm_last.safetensors").read_bytes())
    graph = graphs.async_ksampler(seed=11, batch=2, steps=3)
    graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name=place.name)
    graph["scale"]["inputs"]["deviation"] = ["tpm", 0]
    del graph["deviation"]
    graph["show"] = graphs.node("PreviewAny", source=["plot", 1])
    entries = json.loads(server.run(graph)["show"]["text"][0])["runs"][0]
    told = torch.tensor([entry["deviation"] for entry in entries]).T

    one = load_backbone(BackboneConfig(name="workflow", workflow=workflow), CPU)
    noise = torch.randn(2, 16, 16, 16, generator=torch.manual_seed(11))
    record = Run("", one.family, one.sigmas(3).tolist())
    policy = TPMPolicy(*load_tpm(place))
    one.sample(one.encode([graphs.PROMPT] * 2), noise, one.sigmas(3), policy, record=record)
    assert told.shape == (2, 3) and float(told.abs().max()) > 1e-4
    assert torch.allclose(told, column(record, "deviation"), atol=1e-4)
