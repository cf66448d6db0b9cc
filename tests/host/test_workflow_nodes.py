"""What a user's workflow may hold: each of the sampler nodes, other samplers and schedulers, a
LoRA, weights in fp8, a ControlNet. The latents are those of the nodes themselves, to the bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from workflow_files import (
    FAMILY,
    RandomText,
    add_folder,
    by_the_nodes,
    custom_graph,
    family_graph,
    family_loader,
    file_graph,
    generators,
    loaded,
    module_of,
)  # fmt: skip

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import nodes
from async_timestep.harness import graphs
from async_timestep.harness.tiny_models import SD15, scrambled
from async_timestep.tpm.policies import Constant
from async_timestep.training.grpo.rollout import Actor, log_probs, rollout
from async_timestep.training.run.config import PolicyConfig

DEVIATION, SEED, STEPS, CFG = 0.5, 5, 3, 2.0


def sampled(backbone, prompt: str, deviation: float, steps: int = 4) -> torch.Tensor:
    noise = torch.randn(backbone.latent.shape, generator=torch.manual_seed(SEED))
    sigmas = backbone.sigmas(steps)
    return backbone.sample(backbone.encode([prompt]), noise, sigmas, Constant(deviation))


def same_and_not_idle(backbone, prompt: str, wanted: torch.Tensor, steps: int = 4) -> None:
    assert bool(wanted.isfinite().all())
    assert torch.equal(sampled(backbone, prompt, DEVIATION, steps), wanted)
    assert not torch.equal(sampled(backbone, prompt, 0.0, steps), wanted)


# --- the sampler nodes, on the embedded model


def advanced() -> dict:
    """KSampler (Advanced) over its whole schedule."""
    stock = graphs.stock()["sampler"]["inputs"]
    own = {slot: stock[slot] for slot in stock if slot not in ("seed", "denoise")}
    return graphs.stock() | {
        "sampler": graphs.node(
            "KSamplerAdvanced", **own, add_noise="enable", noise_seed=1, start_at_step=0,
            end_at_step=10000, return_with_leftover_noise="disable",
        )
    }  # fmt: skip


def ours() -> dict:
    """Async Timestep KSampler with a deviation of its own, which gives way to the policy."""
    return graphs.async_ksampler(deviation=0.9)


def ours_advanced() -> dict:
    graph, plain = ours(), advanced()["sampler"]["inputs"]
    own = {slot: graph["sampler"]["inputs"][slot] for slot in ("preset", "deviation_scale")}
    inputs = {**plain, **own, "deviation": ["scale", 0]}
    return graph | {"sampler": graphs.node("AsyncTimestepKSamplerAdvanced", **inputs)}


def custom() -> dict:
    """SamplerCustom: sampler and sigmas connected, guidance and texts on the node."""
    graph = custom_graph()
    graph["sampler"] = graphs.node(
        "SamplerCustom", model=["loader", 0], add_noise=True, noise_seed=1, cfg=3.0,
        positive=["positive", 0], negative=["negative", 0], sampler=["euler", 0],
        sigmas=["schedule", 0], latent_image=["latent", 0],
    )  # fmt: skip
    return {name: node for name, node in graph.items() if name not in ("guider", "noise")}


GRAPHS = {
    "KSampler": graphs.stock,
    "KSamplerAdvanced": advanced,
    "SamplerCustom": custom,
    "SamplerCustomAdvanced": custom_graph,
    "AsyncTimestepKSampler": ours,
    "AsyncTimestepKSamplerAdvanced": ours_advanced,
}


def embedded(**sampling) -> torch.Tensor:
    demo = nodes.NODE_CLASS_MAPPINGS["AsyncTimestepDemoLoader"].execute().args[:2]
    latent = torch.zeros(1, 16, 16, 16)
    return by_the_nodes(demo, latent, graphs.PROMPT, SEED, DEVIATION, **sampling)


@pytest.mark.parametrize("name", list(GRAPHS))
def test_every_sampler_node_is_found_and_sampled(name, tmp_path, pack):
    backbone = loaded(tmp_path, GRAPHS[name]())
    assert backbone.class_type == name and backbone.guidance == 3.0
    same_and_not_idle(backbone, graphs.PROMPT, embedded())


@pytest.mark.parametrize(
    ("sampler", "scheduler", "steps"),
    [("heun", "karras", 4), ("dpmpp_2m", "beta", 6), ("uni_pc", "normal", 5),
     ("res_multistep", "sgm_uniform", 4), ("lms", "exponential", 4)],
)  # fmt: skip
def test_other_samplers_and_schedulers(sampler, scheduler, steps, tmp_path, pack):
    own = dict(sampler_name=sampler, scheduler=scheduler, steps=steps)
    backbone = loaded(tmp_path, graphs.stock(**own))
    same_and_not_idle(backbone, graphs.PROMPT, embedded(**own), steps)


@pytest.mark.parametrize("sampler", ["heun", "uni_pc", "dpm_2_ancestral", "dpmpp_2m_sde"])
def test_a_rollout_of_any_sampler(sampler, tmp_path, pack):
    """One decision for each step but the first, whatever the sampler asks the network in between;
    what the update computes is what was drawn with, and the sampler's own noise is repeated."""
    backbone = loaded(tmp_path, graphs.stock(sampler_name=sampler, scheduler="karras"))
    module, prompts = module_of(backbone), backbone.encode([graphs.PROMPT] * 2)
    found = []
    for _ in range(2):
        actor = Actor(module, PolicyConfig(), generators(2, 9))
        noise = backbone.noise(generators(2))
        found.append(rollout(backbone, actor, prompts, noise, backbone.sigmas(4)))
    (latents, states), (again, _) = found
    assert torch.equal(latents, again) and bool(latents.isfinite().all())
    assert not torch.allclose(latents[0], latents[1], atol=0.1)
    assert states.raw.shape[:2] == (2, 3) and float(states.raw.std()) > 0.01
    assert torch.allclose(log_probs(module, states)[1], states.raw, atol=1e-5)
    assert float((states.t - states.t_star).abs().max()) > 0.01


# --- what changes the model


@pytest.fixture
def sd35(model_files, tmp_path, monkeypatch):
    """(the name of SD3.5's file in models/diffusion_models, its text encoder)"""
    file, text = model_files["sd35"], RandomText(64, 2048)
    add_folder(monkeypatch, "diffusion_models", file.parent)
    empty = (None, None, None, torch.zeros(1, 16, 8, 8))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, family_loader(empty, text))
    return file.name, text


def of_sd35(model, text) -> torch.Tensor:
    latent = torch.zeros(1, 16, 8, 8)
    return by_the_nodes((model, text), latent, "a dog", SEED, DEVIATION, steps=STEPS, cfg=CFG)


def test_a_model_in_fp8(sd35, tmp_path):
    name, text = sd35
    graph = file_graph(name, steps=STEPS, cfg=CFG)
    graph["unet"]["inputs"]["weight_dtype"] = "fp8_e4m3fn"
    load = nodes.NODE_CLASS_MAPPINGS["UNETLoader"]().load_unet
    model = load(name, "fp8_e4m3fn")[0]
    kinds = {parameter.dtype for parameter in model.model.diffusion_model.parameters()}
    assert torch.float8_e4m3fn in kinds
    wanted = of_sd35(model, text)
    same_and_not_idle(loaded(tmp_path, graph), "a dog", wanted, STEPS)
    assert not torch.equal(of_sd35(load(name, "default")[0], text), wanted)


def test_a_lora(sd35, tmp_path, monkeypatch):
    name, text = sd35
    (tmp_path / "loras").mkdir()
    add_folder(monkeypatch, "loras", tmp_path / "loras")
    load = nodes.NODE_CLASS_MAPPINGS["UNETLoader"]().load_unet
    plain = load(name, "default")[0]
    state, rng = {}, torch.Generator().manual_seed(1)
    for key, weight in plain.model.diffusion_model.state_dict().items():
        if key.endswith("mlp.fc1.weight"):
            part = f"diffusion_model.{key.removesuffix('.weight')}"
            state[f"{part}.lora_up.weight"] = torch.randn(weight.shape[0], 4, generator=rng) * 0.2
            state[f"{part}.lora_down.weight"] = torch.randn(4, weight.shape[1], generator=rng)
    save_file(state, tmp_path / "loras" / "mine.safetensors")
    graph = file_graph(name, steps=STEPS, cfg=CFG)
    own = dict(lora_name="mine.safetensors", strength_model=0.7)
    graph["lora"] = graphs.node("LoraLoaderModelOnly", model=["unet", 0], **own)
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    add = nodes.NODE_CLASS_MAPPINGS["LoraLoaderModelOnly"]().load_lora_model_only
    wanted = of_sd35(add(load(name, "default")[0], **own)[0], text)
    same_and_not_idle(loaded(tmp_path, graph), "a dog", wanted, STEPS)
    assert not torch.equal(of_sd35(plain, text), wanted)


def controlnet() -> comfy.controlnet.ControlNet:
    """A ControlNet of the tiny SD1.5's shape: ComfyUI's class and network, random weights."""
    plan = {name: value for name, value in SD15.items() if name != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(
        **{**plan, "transformer_depth": [1], "hint_channels": 3},
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    network.load_state_dict({k: v.float() for k, v in scrambled(network, 6).items()})
    cpu = torch.device("cpu")
    return comfy.controlnet.ControlNet(network.eval(), load_device=cpu)


def test_a_controlnet(families, tmp_path, monkeypatch):
    tiny, text, net = families["sd15"], RandomText(768, 768), controlnet()

    class Loader:
        RETURN_TYPES, FUNCTION, CATEGORY = ("CONTROL_NET",), "load", ""
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def load(self):
            return (net,)

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, FAMILY, family_loader(tiny, text))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "TestControlLoader", Loader)
    own = dict(strength=0.8, start_percent=0.0, end_percent=1.0)
    side = tiny[3].shape[-1] * 8
    graph = family_graph(steps=STEPS, cfg=CFG) | {
        "net": graphs.node("TestControlLoader"),
        "image": graphs.node("EmptyImage", width=side, height=side, batch_size=1, color=0x80C040),
        "apply": graphs.node(
            "ControlNetApplyAdvanced", positive=["positive", 0], negative=["negative", 0],
            control_net=["net", 0], image=["image", 0], **own,
        ),
    }  # fmt: skip
    graph["sampler"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
    mapping = nodes.NODE_CLASS_MAPPINGS
    image = mapping["EmptyImage"]().generate(side, side, 1, 0x80C040)[0]

    def controlled(positive, negative):
        apply = mapping["ControlNetApplyAdvanced"]().apply_controlnet
        return apply(positive, negative, net, image, **own)

    run = dict(steps=STEPS, cfg=CFG)
    loaded_pair = (tiny[0], text)
    wanted = by_the_nodes(loaded_pair, tiny[3], "a dog", SEED, DEVIATION, controlled, **run)
    same_and_not_idle(loaded(tmp_path, graph), "a dog", wanted, STEPS)
    plain = by_the_nodes(loaded_pair, tiny[3], "a dog", SEED, DEVIATION, **run)
    assert not torch.allclose(plain, wanted, rtol=1e-3)
