"""A workflow as the model to train on: ComfyUI's own sampling with the trainer's policy in it."""

from __future__ import annotations

import json

import pytest
import torch
from workflow_files import (
    SCENES,
    SMALL,
    by_the_nodes,
    custom_graph,
    generators,
    loaded,
    module_of,
    written,
)  # fmt: skip

import nodes
from async_timestep.harness import graphs
from async_timestep.report.trace import Run
from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.tpm.learned import TPMPolicy
from async_timestep.tpm.policies import Constant
from async_timestep.training.backbones import load_backbone
from async_timestep.training.backbones.sampling import column
from async_timestep.training.grpo.command import main
from async_timestep.training.grpo.rollout import Actor, log_probs, rollout
from async_timestep.training.run.config import BackboneConfig, PolicyConfig
from async_timestep.training.run.settings import parse

CPU = torch.device("cpu")
OTHER = "a purple star above a green circle on a light rough background"
GRAPHS = {"KSampler": graphs.stock, "SamplerCustomAdvanced": custom_graph}


@pytest.fixture(scope="module", params=list(GRAPHS))
def backbone(request, tmp_path_factory, pack):
    return loaded(tmp_path_factory.mktemp("graph"), GRAPHS[request.param]())


# --- (a) the same as the graph


@pytest.mark.parametrize("deviation", [0.0, 0.5])
def test_the_latents_of_the_graph_to_the_bit(backbone, deviation):
    noise = torch.randn(3, 16, 16, 16, generator=torch.manual_seed(5))
    conditioning = backbone.encode([OTHER] * 3)
    policy = Constant(deviation) if deviation else None
    found = backbone.sample(conditioning, noise, backbone.sigmas(4), policy)
    demo = nodes.NODE_CLASS_MAPPINGS["AsyncTimestepDemoLoader"].execute().args[:2]
    latent = torch.zeros(3, 16, 16, 16)
    assert torch.equal(found, by_the_nodes(demo, latent, OTHER, 5, deviation))
    moved = backbone.sample(conditioning, noise, backbone.sigmas(4), Constant(0.3))
    assert not torch.equal(found, moved)


def test_a_rollout_leaves_plain_tensors_and_pictures(backbone):
    conditioning, noise = backbone.encode([OTHER]), backbone.noise(generators(1))
    latents = backbone.sample(conditioning, noise, backbone.sigmas(4))
    images = backbone.decode(latents)
    assert images.shape == (1, 3, 128, 128) and 0 <= images.min() < images.max() <= 1
    assert images.std() > 0.05
    assert not any(t.is_inference() for t in (latents, images, conditioning.pooled))


# --- (b) the same as the trainer's own loop


@pytest.mark.parametrize(
    ("actions", "terminal"), [("deviation", False), ("both", False), ("deviation", True)]
)
def test_a_rollout_is_that_of_the_trainers_own_loop(backbone, actions, terminal):
    tiny = load_backbone(BackboneConfig(), CPU)
    module = module_of(tiny, actions)
    config = PolicyConfig(actions=actions, include_terminal_action=terminal)
    prompts = [OTHER, OTHER, graphs.PROMPT, "a red circle on a dark plain background"]
    found = []
    for one in (tiny, backbone):
        actor = Actor(module, config, generators(4, 100))
        latents, states = rollout(
            one, actor, one.encode(prompts), one.noise(generators(4)), one.sigmas(4)
        )
        values = log_probs(module, states)[0]
        # what the update computes from the kept states is what the policy saw as it drew
        assert torch.allclose(log_probs(module, states)[1], states.raw, atol=1e-5)
        found.append((latents, states, values))
    (own, mine, first), (_, theirs, second) = found
    assert theirs.x.shape == (4, 3 + terminal, 16, 16, 16) == mine.x.shape
    assert torch.equal(mine.mask, theirs.mask) and mine.steps == theirs.steps
    for name in ("x", "v", "t", "t_star", "pooled", "raw", "r"):
        assert torch.allclose(getattr(mine, name), getattr(theirs, name), atol=1e-4), name
    assert (first - second).abs().max() <= 1e-4
    assert mine.raw.std() > 0.01 and (mine.t - mine.t_star).abs().max() > 0.01
    shift, scale = 0.0609, 1.5305  # SD3's latents in a file
    assert torch.allclose(found[1][0], own / scale + shift, atol=1e-4)


def test_what_is_told_is_written_down_in_flow_time(backbone):
    tiny = load_backbone(BackboneConfig(), CPU)
    policy = TPMPolicy(module_of(tiny), PolicyConfig())
    told = []
    for one in (tiny, backbone):
        record, sigmas = Run("", one.family, []), one.sigmas(4)
        prompts = one.encode([OTHER, graphs.PROMPT])
        one.sample(prompts, one.noise(generators(2)), sigmas, policy, record=record)
        told.append(record)
    for name in ("t_star", "deviation", "cut_percent", "omega"):
        both = [column(record, name) for record in told]
        assert both[0].shape == (2, 4)
        assert torch.allclose(*both, atol=2e-4), name
    assert column(told[0], "deviation").abs().max() > 0.01


def test_the_grid_of_another_number_of_steps_is_the_schedulers(backbone):
    tiny = load_backbone(BackboneConfig(), CPU)
    for steps in (4, 7, 2):
        assert torch.allclose(backbone.sigmas(steps), tiny.sigmas(steps), atol=1e-6)


def test_what_the_file_will_say(backbone):
    assert (backbone.family, backbone.license) == ("tiny", "Apache-2.0")
    assert (backbone.guidance, backbone.resolution) == (3.0, 128)
    assert (backbone.latent_channels, backbone.latent_size) == (16, (16, 16))
    assert (backbone.pooled_dim, backbone.pooled_split) == (128, (128,))


# --- (c) the command


def command(out, workflow, *more) -> int:
    with torch.enable_grad():
        return main([*SMALL, *SCENES, f"--backbone.workflow={workflow}", f"--out={out}", *more])


def lines(path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in found]


def test_train_and_resume_to_the_bit(tmp_path, pack, capsys):
    workflow = written(tmp_path, graphs.stock())
    assert command(tmp_path / "whole", workflow, "--iterations=2") == 0, capsys.readouterr().err
    assert command(tmp_path / "halves", workflow, "--iterations=1") == 0
    assert command(tmp_path / "halves", workflow, "--iterations=2", "--resume") == 0
    for name in ("metrics.jsonl", "validation.jsonl"):
        assert lines(tmp_path / "whole" / name)[-2:] == lines(tmp_path / "halves" / name)[-2:]
    files = [load_tpm(tmp_path / run / "tpm_last.safetensors") for run in ("whole", "halves")]
    (a, meta), (b, _) = files
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert any(bool(p.abs().max() > 0) for p in a.raw.parameters())
    assert (meta.model_family, meta.steps, meta.guidance, meta.resolution) == ("tiny", 4, 3.0, 128)
    assert meta.iterations == 2 and meta.license == "Apache-2.0"

    graph = json.loads(open(workflow).read())
    open(workflow, "w").write(json.dumps(graph, indent=2))  # the same content
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(graph))
    assert command(tmp_path / "halves", moved, "--iterations=3", "--resume") == 0
    sampler = next(n for n in graph.values() if n["class_type"] == "KSampler")
    sampler["inputs"]["cfg"] = 4.0
    moved.write_text(json.dumps(graph))
    capsys.readouterr()
    assert command(tmp_path / "halves", moved, "--iterations=4", "--resume") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "backbone.workflow is" in said and "has another content" in said


def test_a_dry_run_writes_nothing(tmp_path, pack, capsys):
    workflow = written(tmp_path, graphs.stock())
    assert command(tmp_path / "run", workflow, "--dry_run", "--iterations=2") == 0
    out = capsys.readouterr().out
    assert "peak memory" in out and "denoise" in out
    assert not (tmp_path / "run").exists()


# --- (d) bad input


def changed(graph: dict, name: str, **inputs) -> dict:
    return {**graph, name: {**graph[name], "inputs": {**graph[name]["inputs"], **inputs}}}


STOCK = graphs.stock()
TWO = {**STOCK, "again": graphs.node("KSampler", **STOCK["sampler"]["inputs"])}
NO_SAMPLER = {name: STOCK[name] for name in ("loader", "positive", "negative", "latent")}
CHECKPOINT = {
    **STOCK, "loader": graphs.node("CheckpointLoaderSimple", ckpt_name="lost.safetensors"),
}  # fmt: skip
FOREIGN = {**STOCK, "loader": graphs.node("PackThatIsNotHere")}
COMBINED = {
    **changed(STOCK, "sampler", positive=["both", 0]),
    "both": graphs.node(
        "ConditioningCombine", conditioning_1=["positive", 0], conditioning_2=["negative", 0]
    ),
}
STAGE = {
    **STOCK,
    "sampler": graphs.node(
        "KSamplerAdvanced", model=["loader", 0], add_noise="enable", noise_seed=1, steps=4, cfg=3.0,
        sampler_name="euler", scheduler="simple", positive=["positive", 0],
        negative=["negative", 0], latent_image=["latent", 0], start_at_step=0, end_at_step=2,
        return_with_leftover_noise="disable",
    ),
}  # fmt: skip
PICTURE = {
    **changed(STOCK, "sampler", latent_image=["picture", 0]),
    "picture": graphs.node("LatentAdd", samples1=["made", 0], samples2=["made", 0]),
    "made": graphs.node("VAEEncode", pixels=["image", 0], vae=["loader", 2]),
    "image": graphs.node("EmptyImage", width=128, height=128, batch_size=1, color=255),
}
UNNOISED = {
    **graphs.stock(), "schedule": graphs.node("BasicScheduler", model=["loader", 0], steps=4),
    "sampler": graphs.node(
        "SamplerCustom", model=["loader", 0], add_noise=False, sigmas=["schedule", 0], cfg=3.0
    ),
}  # fmt: skip
UNDECODED = {k: v for k, v in STOCK.items() if k not in ("decode", "preview")}
ZEROED = {
    **changed(STOCK, "sampler", positive=["nothing", 0]),
    "nothing": graphs.node("ConditioningZeroOut", conditioning=["loader", 1]),
}
BAD = {
    "no sampler": (NO_SAMPLER, [], ["no sampler node", "KSampler"]),
    "two": (TWO, [], ["2 sampler nodes", "node 9 (KSampler), node 10 (KSampler)", "--backbone"]),
    "named wrongly": (TWO, ["--backbone.node=4"], ["node 4 (CLIPTextEncode)", "node 9 (KSampler)"]),
    "one step": (changed(STOCK, "sampler", steps=1), [], ["steps of node 9 (KSampler) is 1"]),
    "img2img": (changed(STOCK, "sampler", denoise=0.5), [], ["denoise of node 9", "is 0.5"]),
    "a picture": (PICTURE, [], ["latent_image of node 9", "a picture", "empty latent"]),
    "a stage": (STAGE, [], ["end_at_step of node 9 (KSamplerAdvanced) is 2"]),
    "no noise": (UNNOISED, [], ["add_noise of node 9 (SamplerCustom) is False", "one stage"]),
    "no file": (CHECKPOINT, [], ["node 3 (CheckpointLoaderSimple)", "lost.safetensors"]),
    "no pack": (FOREIGN, [], ["node 3 (PackThatIsNotHere)", "install the pack"]),
    "two texts": (
        COMBINED, [], ["2 text encoders", "node 4 (CLIPTextEncode), node 5 (CLIPTextEncode)"]
    ),
    "no text": (ZEROED, [], ["comes from no text encoder"]),
    "no decoder": (UNDECODED, [], ["No node decodes", "VAEDecode"]),
    "fixed guidance": (STOCK, ["--backbone.guidance=5"], ["backbone.guidance is 5.0", "workflow"]),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence(case, tmp_path, pack, capsys):
    graph, more, words = BAD[case]
    try:
        code = command(tmp_path / "run", written(tmp_path, graph), "--iterations=2", *more)
    except SystemExit as stopped:
        code = stopped.code
    *progress, said = capsys.readouterr().err.splitlines()
    assert code in (1, 2) and all("so far" in line for line in progress), progress
    assert said.startswith("train_tpm.py: ") and said.endswith("."), said
    own = said.removeprefix("train_tpm.py: ").replace(str(tmp_path), "")
    assert len(own) <= 300, (len(own), own)
    for word in words:
        assert word in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "where no file can be read"),
        ("{", "is not JSON"),
        ('{"nodes": [], "links": []}', "as the editor saves it"),
        ("[1]", "holds no nodes"),
        ('{"3": {"class_type": "KSampler", "inputs": {"model": ["9", 0]}}}', "not in the file"),
    ],
)
def test_a_file_that_is_no_workflow(text, words, tmp_path, capsys):
    path = tmp_path / "w.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit):
        command(tmp_path / "run", path)
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_no_workflow_is_named(tmp_path, capsys):
    assert command(tmp_path / "run", "", "--iterations=2") == 1
    assert "backbone.workflow is empty" in capsys.readouterr().err.splitlines()[-1]


def test_the_named_one_of_two_samplers_is_trained(tmp_path, pack):
    second = graphs.node("VAEDecode", samples=["again", 0], vae=["loader", 2])
    graph = {**changed(TWO, "again", steps=6), "shown": second}
    found = parse([*SMALL, f"--backbone.workflow={written(tmp_path, graph)}", "--backbone.node=10"])
    assert found[0].steps == 6
    assert loaded(tmp_path, graph, node="10").sampler_id == "10"


def test_a_prompt_that_the_encoder_refuses_is_named_with_its_node(backbone):
    with pytest.raises(
        ValueError, match=r"node \d+ \(CLIPTextEncode\) of .* 'xylophone'"
    ) as caught:
        backbone.encode(["a xylophone"])
    assert "\n" not in str(caught.value)
