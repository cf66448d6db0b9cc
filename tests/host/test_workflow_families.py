"""A workflow of each family trains: the latents are those of its graph, an iteration changes the
policy, and the file says what the policy reads.

The embedded model is in test_workflow_training.py too, against the trainer's own loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from workflow_files import (
    FAMILY,
    SMALL,
    RandomText,
    by_the_nodes,
    family_graph,
    family_loader,
    generators,
    scored,
    written,
)  # fmt: skip

import nodes
from async_timestep.harness.tiny_families import FAMILIES, load_family
from async_timestep.tpm.checkpoint import load_tpm, save_tpm
from async_timestep.tpm.policies import Constant
from async_timestep.training.grpo.result import tpm_meta
from async_timestep.training.grpo.rollout import Actor, log_probs, rollout
from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import one_iteration
from async_timestep.training.run.distributed import World
from async_timestep.training.run.settings import parse

STEPS, CFG = 3, 2.0


@dataclass(frozen=True)
class Case:
    """A family as its users have it. tiny: its name in the harness; stored, latent: in the TPM
    file. context, pooled, masked: what ComfyUI's encoder of the family gives, in small."""

    tiny: str
    stored: str
    latent: str
    channels: int
    context: int = 64
    pooled: int | None = None
    masked: bool = False
    prediction: str = ""
    frames: int = 1


CASES = {
    "SD1.5 (eps)": Case("sd15", "sd15", "SD15", 4, 768, 768),
    "SD2.1 (v)": Case("sd21", "sd20", "SD15", 4, 1024, 1024, prediction="v_prediction"),
    "SDXL": Case("sdxl", "sdxl", "SDXL", 4, pooled=1280),
    "SD3.5": Case("sd35_dual", "sd35_medium", "SD3", 16, pooled=2048),
    "Flux": Case("flux", "flux1_dev", "Flux", 16, pooled=768),
    "Flux.2": Case("flux2", "flux2", "Flux2", 128, masked=True),
    "Qwen-Image": Case("qwen_image", "qwenimage", "Wan21", 16),
    "Z-Image": Case("z_image", "zimage", "Flux", 16, masked=True),
    "Lumina 2": Case("lumina2", "lumina2", "Flux", 16, masked=True),
    "Wan": Case("wan", "wan21_t2v", "Wan21", 16, 4096, frames=3),
}


@pytest.fixture(scope="module", params=list(CASES))
def trained(request, families, tmp_path_factory):
    """(case, the tiny model, its text, a training after one iteration, its record, the start)."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("family")
    if case.tiny in families:
        tiny = families[case.tiny]
    else:
        tiny = load_family(case.tiny, tmp_path_factory.getbasetemp())
    tokens = FAMILIES[case.tiny].tokens if case.tiny in FAMILIES else 7
    text = RandomText(case.context, case.pooled, tokens, case.masked)
    graph = family_graph(case.prediction, steps=STEPS, cfg=CFG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, family_loader(tiny, text))
        workflow = written(folder, graph)
        config, _ = parse([*SMALL, f"--backbone.workflow={workflow}", *scored(folder)])
        training = load_training(config, World())
        start = [p.detach().clone() for p in training.module.parameters()]
        with torch.enable_grad():
            record = one_iteration(training, 0)
        yield case, tiny, text, training, record, start


@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_the_latents_of_the_graph_to_the_bit(trained, deviation):
    case, tiny, text, training, *_ = trained
    one, latent = training.backbone, tiny[3].repeat(2, *[1] * (tiny[3].ndim - 1))
    noise = torch.randn(latent.shape, generator=torch.manual_seed(5))
    found = one.sample(one.encode(["a dog"] * 2), noise, one.sigmas(STEPS), Constant(deviation))
    model = tiny[0]
    if case.prediction:
        node = nodes.NODE_CLASS_MAPPINGS["ModelSamplingDiscrete"]
        model = node().patch(model, case.prediction, False)[0]
    wanted = by_the_nodes((model, text), latent, "a dog", 5, deviation, steps=STEPS, cfg=CFG)
    assert torch.equal(found, wanted) and bool(found.isfinite().all())
    moved = one.sample(one.encode(["a dog"] * 2), noise, one.sigmas(STEPS), Constant(0.3))
    assert not torch.equal(found, moved)


def test_an_iteration_changes_the_policy(trained):
    *_, training, record, start = trained
    assert record["idle"] == "" and len(record["rewards"]["bright"]) == 2
    assert 0 < record["grad_norm"] < 1e6
    now = list(training.module.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(start, now, strict=True))
    assert all(bool(p.isfinite().all()) for p in now)


def test_what_the_policy_sees_is_of_a_flow_model(trained):
    case, tiny, _, training, *_ = trained
    one, config = training.backbone, training.config
    noise, prompts = one.noise(generators(2)), one.encode(["a dog", "a mouse"])
    actor = Actor(training.module, config.policy, generators(2, 9))
    latents, states = rollout(one, actor, prompts, noise, one.sigmas(STEPS))
    assert latents.shape == noise.shape and bool(latents.isfinite().all())
    assert states.x.shape == (2, STEPS - 1, case.channels, *tiny[3].shape[-2:])  # of video a frame
    assert bool(((states.t > 0) & (states.t <= 1)).all())
    assert bool((states.t.diff(dim=1) < 0).all())
    assert torch.allclose(states.t[:, 0], states.t_star[:, 0])
    assert 0.3 < float(states.x[:, 0].std()) < 2, "a mixture of image and noise by shares"
    assert torch.allclose(log_probs(training.module, states)[1], states.raw, atol=1e-5)
    assert not torch.equal(states.pooled[0], states.pooled[1]) or case.pooled is None
    images = one.decode(latents)
    assert images.ndim == 4 and images.shape[:2] == (2, 3)


def test_the_file_says_what_the_policy_reads(trained, tmp_path):
    case, _, _, training, *_ = trained
    path, module = tmp_path / "tpm.safetensors", training.module
    meta = tpm_meta(training.config, training.backbone, training.prompts, module, 1)
    save_tpm(path, module, meta)
    _, found = load_tpm(path)
    assert (found.model_family, found.latent_channels) == (case.stored, case.channels)
    assert (found.latent_format, found.pooled_dim) == (case.latent, case.pooled or 1)
    assert found.frames == case.frames and len(found.weights_sha256) == 64
    assert (found.steps, found.guidance) == (STEPS, CFG)
