"""Workflows to train on, and the tiny families behind nodes that such a workflow can have."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import folder_paths
import nodes
from async_timestep.harness import graphs
from async_timestep.harness.tiny_models import conditioning
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig
from async_timestep.training.backbones import load_backbone
from async_timestep.training.run.config import BackboneConfig

SMALL = [
    "--preset=workflow", "--policy.width=16", "--policy.heads=2", "--policy.layers=1",
    "--grpo.num_generations=4", "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=2",
    "--grpo.lr_schedule=constant", "--grpo.lr=0.01", "--log.samples_every=0", "--threads=1",
    "--device=cpu",
]  # fmt: skip
SCENES = [
    "--data.set=scenes", "--rewards.weights={scene: 1.0}", "--data.validation_prompts=4",
    "--log.validate_every=1", "--log.checkpoint_every=1",
]  # fmt: skip
FAMILY = "TestFamilyLoader"


def written(folder: Path, graph: dict, name: str = "workflow.json") -> str:
    """The graph as a file; its ids become numbers, as an export has them."""
    numbers = {name: str(i) for i, name in enumerate(graph, start=3)}
    out = {}
    for own, node in graph.items():
        inputs = {
            slot: [numbers[value[0]], value[1]] if isinstance(value, list) else value
            for slot, value in node["inputs"].items()
        }
        out[numbers[own]] = {**node, "inputs": inputs}
    path = folder / name
    path.write_text(json.dumps(out))
    return str(path)


def loaded(folder: Path, graph: dict, **more):
    """The graph as a backbone."""
    config = BackboneConfig(name="workflow", workflow=written(folder, graph), **more)
    return load_backbone(config, torch.device("cpu"))


def scored(folder: Path) -> list[str]:
    """Settings of a run on prompts of a file, scored by their brightness: images of random weights
    differ in the sixth digit."""
    (folder / "prompts.txt").write_text("\n".join(f"a cat number {i}" for i in range(12)))
    (folder / "bright.py").write_text(
        "def score(images, prompts):\n    return images.flatten(1).double().mean(1) * 1e6\n"
    )
    return [
        "--data.set=file", f"--data.train={folder / 'prompts.txt'}",
        "--rewards.weights={bright: 1.0}", f"--rewards.plugin={folder / 'bright.py'}",
        "--data.validation_prompts=0", "--log.validate_every=0",
    ]  # fmt: skip


def add_folder(monkeypatch, kind: str, folder: Path) -> None:
    """One more of ComfyUI's folders of a kind, for one test; what it remembers of folders too."""
    kinds = dict(folder_paths.folder_names_and_paths)
    paths, suffixes = kinds[kind]
    kinds[kind] = ([*paths, str(folder)], suffixes)
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})


def custom_graph(prompt: str = graphs.PROMPT, steps: int = 4, cfg: float = 3.0) -> dict:
    """The embedded model in SamplerCustomAdvanced, with a guider, a scheduler and RandomNoise."""
    graph = graphs.base(prompt)
    return {
        **graph,
        "schedule": graphs.node(
            "BasicScheduler", model=["loader", 0], scheduler="simple", steps=steps, denoise=1.0
        ),
        "guider": graphs.node(
            "CFGGuider", model=["loader", 0], positive=["positive", 0],
            negative=["negative", 0], cfg=cfg,
        ),
        "euler": graphs.node("KSamplerSelect", sampler_name="euler"),
        "noise": graphs.node("RandomNoise", noise_seed=1),
        "sampler": graphs.node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
            sampler=["euler", 0], sigmas=["schedule", 0], latent_image=["latent", 0],
        ),
    }  # fmt: skip


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def module_of(backbone, actions: str = "deviation") -> TimestepPredictionModule:
    """A small TPM whose head is not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        module = TimestepPredictionModule(
            TPMConfig(
                latent_channels=backbone.latent_channels, pooled_dim=backbone.pooled_dim,
                pooled_split=backbone.pooled_split, width=16, layers=1, heads=2, actions=actions,
            )
        )  # fmt: skip
        torch.nn.init.normal_(module.raw.weight, std=0.5)
    return module


class RandomText:
    """In a CLIP's place: every text has conditioning of its own of the family's widths, and where
    the family's encoder gives a mask of its tokens, one that is all ones."""

    def __init__(self, width: int, pooled: int | None, tokens: int = 7, masked: bool = False):
        self.width, self.pooled, self.tokens, self.masked = width, pooled, tokens, masked

    def tokenize(self, text: str):
        return sum(ord(c) * (i + 1) for i, c in enumerate(text))

    def encode_from_tokens_scheduled(self, tokens):
        [[cond, extra]] = conditioning(tokens, self.width, self.pooled, self.tokens)
        if self.masked:
            extra["attention_mask"] = torch.ones(1, self.tokens, dtype=torch.long)
        return [[cond, extra]]


class RandomDecoder:
    """In a VAE's place: a fixed mixture of the channels, enlarged eight times."""

    def decode(self, latent):
        rng = torch.Generator().manual_seed(1)
        mixture = torch.randn(latent.shape[1], 3, generator=rng)
        images = torch.einsum("bc...,cd->b...d", latent.float().sigmoid(), mixture.softmax(0))
        return images.repeat_interleave(8, -2).repeat_interleave(8, -3)


def family_loader(family: tuple, text: RandomText) -> type:
    """A loader node for a tiny family: its MODEL, and text and decoder of its shapes."""

    class Loader:
        RETURN_TYPES = ("MODEL", "CLIP", "VAE", "LATENT")
        FUNCTION = "load"
        CATEGORY = ""

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def load(self):
            return family[0], text, RandomDecoder(), {"samples": torch.zeros_like(family[3])}

    return Loader


def family_graph(prediction: str = "", **sampling) -> dict:
    """Such a family in a stock KSampler; prediction: what its network predicts, where the weights
    do not tell."""
    graph = graphs.stock(**sampling)
    graph["loader"] = graphs.node(FAMILY)
    graph["sampler"]["inputs"]["latent_image"] = ["loader", 3]
    del graph["latent"]
    if prediction:
        graph["prediction"] = graphs.node(
            "ModelSamplingDiscrete", model=["loader", 0], sampling=prediction, zsnr=False
        )
        graph["sampler"]["inputs"]["model"] = ["prediction", 0]
    return graph


def file_graph(unet_name: str, **sampling) -> dict:
    """The same with its MODEL from a file of models/diffusion_models."""
    graph = family_graph(**sampling)
    graph["unet"] = graphs.node("UNETLoader", unet_name=unet_name, weight_dtype="default")
    graph["sampler"]["inputs"]["model"] = ["unet", 0]
    return graph


def by_the_nodes(
    loaded: tuple,
    latent: torch.Tensor,
    prompt: str,
    noise_seed: int,
    deviation: float,
    between=lambda *texts: texts,
    **sampling,
) -> torch.Tensor:
    """The latents of a graph with Deviation (`custom`) -> Async Timestep -> KSampler, by its node
    classes alone. loaded: (MODEL, CLIP). latent: (B, C, ...) of zeros. between: what (positive,
    negative) go through on their way to the sampler."""
    (model, clip), mapping = loaded, nodes.NODE_CLASS_MAPPINGS
    policy = mapping["AsyncTimestepDeviation"].execute(
        preset="custom", deviation=deviation, start_percent=0.0, end_percent=1.0,
        unit="interval", mode="conditioning",
    ).args[0]  # fmt: skip
    patched = (
        mapping["AsyncTimestepModel"]
        .execute(model=model, preset="auto", deviation_scale=1.0, deviation=policy)
        .args[0]
    )
    texts = between(*(mapping["CLIPTextEncode"]().encode(clip, text)[0] for text in (prompt, "")))
    settings = {**graphs.SAMPLING, **sampling}
    out = mapping["KSampler"]().sample(
        patched, noise_seed, *settings.values(), *texts, {"samples": latent}
    )
    return out[0]["samples"]
