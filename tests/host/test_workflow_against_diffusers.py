"""The same weights as a diffusers backbone and as a workflow: the same trajectories, and the same
log-probabilities of the same actions.

The transformer is one file, read by ComfyUI's own loader here and by diffusers there. The tiny
text encoders of a pipeline are no files of ComfyUI's, so a node gives both the same conditioning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file
from workflow_files import (
    FAMILY,
    RandomText,
    add_folder,
    family_loader,
    file_graph,
    generators,
    module_of,
    written,
)  # fmt: skip

import nodes
from async_timestep.harness import graphs
from async_timestep.harness.tiny_models import FLUX_DIFFUSERS, SD35_DIFFUSERS
from async_timestep.harness.tiny_pipelines import flux_pipeline, sd35_pipeline
from async_timestep.training.backbones import load_backbone
from async_timestep.training.backbones.sampling import Tokens
from async_timestep.training.grpo.rollout import Actor, log_probs, rollout
from async_timestep.training.run.config import BackboneConfig, PolicyConfig

CPU = torch.device("cpu")
STEPS, SIZE = 5, 64  # pixels a side: 8 latent cells
PROMPTS = ["a dog", "a mouse", "a dog"]


@dataclass(frozen=True)
class Case:
    """settings: of the diffusers backbone. scheduler, cfg, more: of the workflow that means the
    same; more: its nodes between loader and sampler, as of a user's. scale, shift: of the latents
    in a file."""

    family: str
    pooled: int
    settings: dict
    scheduler: str
    cfg: float
    scale: float
    shift: float
    more: dict = field(default_factory=dict)


FLUX_NODES = {
    "shifted": graphs.node(
        "ModelSamplingFlux", model=["unet", 0], max_shift=1.15, base_shift=0.5, width=SIZE,
        height=SIZE,
    ),
    "guided": graphs.node("FluxGuidance", conditioning=["positive", 0], guidance=2.5),
}  # fmt: skip
CASES = {
    "sd35": Case("sd35_medium", 2048, dict(guidance=3.0), "normal", 3.0, 1.5305, 0.0609),
    "flux": Case(
        "flux1_dev", 768, dict(guidance=2.5, guidance_mode="embedded"), "simple", 1.0, 0.3611,
        0.1159, FLUX_NODES,
    ),
}  # fmt: skip


class Replay(Actor):
    """Takes the actions (B, N, A) that another rollout drew."""

    def __init__(self, module, config: PolicyConfig, actions: torch.Tensor):
        super().__init__(module, config, [])
        self.actions = actions

    def sampled(self, raw):
        r = self.actions[:, len(self.drawn)]
        self.drawn.append((raw, r))
        return r


def of_diffusers(case: Case, name: str, file, folder):
    """A pipeline with the file's weights, saved and loaded as a user's."""
    pipeline = sd35_pipeline(SD35_DIFFUSERS) if name == "sd35" else flux_pipeline(FLUX_DIFFUSERS)
    state = {key: value.float() for key, value in load_file(file).items()}
    pipeline.transformer.load_state_dict(state)
    pipeline.save_pretrained(folder)
    return load_backbone(
        BackboneConfig(name=case.family, path=str(folder), resolution=SIZE, **case.settings), CPU
    )


def of_comfyui(case: Case, file, folder, monkeypatch):
    """The file behind UNETLoader in a KSampler of a user's."""
    add_folder(monkeypatch, "diffusion_models", file.parent)
    text = RandomText(64, case.pooled)
    empty = (None, None, None, torch.zeros(1, 16, SIZE // 8, SIZE // 8))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, family_loader(empty, text))
    graph = file_graph(file.name, steps=STEPS, cfg=case.cfg, scheduler=case.scheduler)
    if case.more:
        graph |= case.more
        graph["sampler"]["inputs"] |= {"model": ["shifted", 0], "positive": ["guided", 0]}
    path = written(folder, graph)
    return text, load_backbone(BackboneConfig(name="workflow", workflow=path), CPU)


@pytest.mark.parametrize("name", list(CASES))
def test_log_probabilities_are_those_of_the_diffusers_backbone(
    name, model_files, tmp_path, monkeypatch
):
    case = CASES[name]
    own = of_diffusers(case, name, model_files[name], tmp_path / "pipeline")
    text, workflow = of_comfyui(case, model_files[name], tmp_path, monkeypatch)
    assert workflow.family == own.family == case.family
    sigmas = own.sigmas(STEPS)
    assert torch.allclose(workflow.sigmas(STEPS), sigmas, atol=1e-5)

    def encoded(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        [[tokens, extra]] = text.encode_from_tokens_scheduled(text.tokenize(prompt))
        return tokens, extra["pooled_output"]

    own.empty = encoded("")
    tokens, pooled = map(torch.cat, zip(*map(encoded, PROMPTS), strict=True))
    noise, module = workflow.noise(generators(3)), module_of(workflow)
    assert torch.equal(noise, own.noise(generators(3)))
    drawn = Actor(module, PolicyConfig(), generators(3, 100))
    latents, first = rollout(own, drawn, Tokens(tuple(PROMPTS), tokens, pooled), noise, sigmas)
    replay = Replay(module, PolicyConfig(), first.r)
    found, second = rollout(workflow, replay, workflow.encode(PROMPTS), noise, sigmas)

    for part in ("x", "v", "t", "t_star", "pooled", "raw"):
        assert torch.allclose(getattr(first, part), getattr(second, part), atol=1e-4), part
    assert torch.equal(first.r, second.r)
    error = (log_probs(module, first)[0] - log_probs(module, second)[0]).abs().max()
    moved = (latents / case.scale + case.shift - found).abs().max() / found.abs().max()
    print(f"{name}: log-probabilities {error:.2g}, latents {moved:.2g} relative")
    assert error <= 1e-4 and moved <= 2e-5
    # and none of it is so because nothing is decided
    assert (first.t - first.t_star).abs().max() > 0.01 and first.raw.std() > 0.01
    still, _ = rollout(workflow, Replay(module, PolicyConfig(), torch.full_like(first.r, 0.5)),
                       workflow.encode(PROMPTS), noise, sigmas)  # fmt: skip
    assert (still - found).abs().max() > 1e-3
