"""The combinations of bench/beside.py: other nodes, each on a tiny model that it can run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from async_timestep.bench.parts import peers_load as load

BESIDE, CALLS, PIXEL = "test_beside.py", "test_other_calls.py", "test_pixel_beside.py"
NOTES = """\
- AsynDM acts where an inpaint mask is 1, not on its grey: under Differential Diffusion the region
  has to reach such pixels, or nothing changes.
- An Async Timestep patch under an AsynDM sampler is refused: both tell the network another time.
- Detail Daemon around AsynDM Sampler does nothing with its default curve: the latents are AsynDM's
  own, bit for bit, because the noise levels of the pixels come from AsynDM's schedule. Only a cut
  of the last step, where all pixels are level again, is heard (test_detail_daemon.py).
- Detail Daemon on top of a Deviation: use the unit *percent*; the two cuts then multiply (10 % and
  4 % give t* = 0.9 x 0.96 t). In the unit *interval* the deviation is a share of the distance from
  its lowered sigma to the step's own, so it is stronger or weaker than without
  (test_detail_daemon.py).
- TokenPerturbationGuidance takes the network's present `forward` for the original one. Called twice
  while its patch is on the network, it shuffles twice, with this pack or without; here the models
  are unloaded before each of its calls.
- Of the Impact Pack only its sampling module was imported (a checkout of 2024-10, whose other
  modules need packages that were not installed); it was called as its detailer calls it.
- Not run: IPAdapter, SageAttention, TensorRT, several GPUs, any real checkpoint."""


@dataclass
class Combo:
    """One row. model, sampler: put the other's node on; guider: what samples; run: all of it."""

    name: str
    setup: load.Setup
    family: str
    model: Callable = lambda model: model
    sampler: Callable = lambda sampler: sampler
    guider: Callable | None = None
    whole: Callable | None = None  # (model, sampler) -> latents, instead of a guider
    base: object = None  # a model without the other's node, where `model` cannot tell
    two_orders: bool = True
    tests: str = ""
    more: dict = field(default_factory=dict)

    def run(self, model, sampler) -> torch.Tensor:
        torch.manual_seed(0)  # some nodes draw from the global generator
        if self.whole is not None:
            return self.whole(model, sampler)
        return sampled(
            self.setup, (self.guider or cfg_guider)(self.setup, model), sampler, **self.more
        )

    def without(self) -> torch.Tensor:
        """The graph without the other's node."""
        import comfy.samplers

        euler = comfy.samplers.sampler_object("euler")
        return sampled(self.setup, cfg_guider(self.setup, self.base or self.setup.model), euler)


def cfg_guider(setup: load.Setup, model):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(setup.positive, setup.negative)
    guider.set_cfg(setup.cfg)
    return guider


def sampled(setup: load.Setup, guider, sampler, latent=None, **more) -> torch.Tensor:
    import comfy.sample

    latent = setup.latent if latent is None else latent
    noise = comfy.sample.prepare_noise(latent, 5)
    sigmas = load.sigmas_of(setup, setup.steps)
    return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=5, **more)


class Shelf:
    """Tiny models and other packs' checkouts, each made once."""

    def __init__(self, folder: Path, packs: Path | None):
        self.folder, self.packs = folder, packs
        self.left_out: list[str] = []
        self.versions: list[str] = []
        self.made: dict[str, object] = {}

    def setup(self, family: str, steps: int = 4, cfg: float = 3.0) -> load.Setup:
        """A family of harness/tiny_families.py."""
        from async_timestep.harness import tiny_families

        if family not in self.made:
            self.made[family] = tiny_families.load_family(family, self.folder)
        model, positive, negative, latent = self.made[family]
        return load.Setup(family, model, positive, negative, latent, cfg, steps)

    def checkout(self, name: str):
        """The imported pack, or None with a line in `left_out`."""
        folder = None if self.packs is None else self.packs / name
        if folder is None or not folder.exists():
            self.left_out.append(f"{name}: no checkout at hand.")
            return None
        try:
            module = load.import_checkout(folder, "peer_" + name.lower().replace("-", "_"))
        except Exception as error:  # noqa: BLE001
            self.left_out.append(f"{name}: its import fails here ({error}).")
            return None
        self.versions.append(f"{name} {load.commit(folder)}")
        return module


def node_of(module, name: str):
    """A node class of a pack, of either API."""
    if hasattr(module, "NODE_CLASS_MAPPINGS"):
        return module.NODE_CLASS_MAPPINGS[name]
    import asyncio

    async def nodes():
        return await (await module.comfy_entrypoint()).get_node_list()

    for node in asyncio.run(nodes()):
        if node.GET_SCHEMA().node_id == name:
            return node
    raise KeyError(name)


def call(node, **inputs):
    """A node's first output, with its own defaults where `inputs` is silent."""
    if hasattr(node, "FUNCTION") and hasattr(node, "INPUT_TYPES"):
        spec = node.INPUT_TYPES()
        for name, kind in {**spec["required"], **spec.get("optional", {})}.items():
            if name not in inputs and len(kind) > 1 and "default" in kind[1]:
                inputs[name] = kind[1]["default"]
            elif name not in inputs and isinstance(kind[0], list):
                inputs[name] = kind[0][0]
        return getattr(node(), node.FUNCTION)(**inputs)[0]
    for given in node.define_schema().inputs:
        if given.id not in inputs and getattr(given, "default", None) is not None:
            inputs[given.id] = given.default
    return node.execute(**inputs)[0]


def core_caches(shelf: Shelf) -> Iterator[Combo]:
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

    tests = f"{BESIDE}, {PIXEL}: test_a_cache..."
    for name, node, threshold in (
        ("EasyCache", EasyCacheNode, 0.8),
        ("LazyCache", LazyCacheNode, 0.5),
    ):
        setup = shelf.setup("flux", steps=10, cfg=1.0)
        yield Combo(
            f"{name} (core)",
            setup,
            "Flux",
            tests=tests,
            model=lambda m, n=node, t=threshold: n.execute(m, t, 0.0, 1.0, False)[0],
        )


def core_compile(shelf: Shelf) -> Iterator[Combo]:
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    yield Combo(
        "TorchCompileModel (core, inductor)",
        shelf.setup("sd35_dual"),
        "SD3.5",
        model=lambda m: TorchCompileModel.execute(m, "inductor")[0],
        tests=f"{PIXEL}: test_a_compiled_network...",
    )


def core_lora(shelf: Shelf) -> Iterator[Combo]:
    """A file as trainers write it: the time embedder, a modulation and an attention."""
    from safetensors.torch import save_file

    import folder_paths
    import nodes

    layers = {
        "sd35_dual": (
            "SD3.5",
            (
                "t_embedder.mlp.0",
                "joint_blocks.0.x_block.adaLN_modulation.1",
                "joint_blocks.0.x_block.attn.qkv",
            ),
        ),
        "sdxl": ("SDXL", ("time_embed.0", "input_blocks.1.0.emb_layers.1", "out.2")),
    }
    folder_paths.add_model_folder_path("loras", str(shelf.folder))
    for family, (label, names) in layers.items():
        setup, state = shelf.setup(family), {}
        weights = setup.model.model.diffusion_model.state_dict()
        rng = torch.Generator().manual_seed(6)
        for name in names:
            weight = weights[f"{name}.weight"]
            rows, columns = weight.shape[0], weight[0].numel()
            up = torch.randn(rows, 2, generator=rng) * 0.3 * float(weight.std())
            down = torch.randn(2, columns, generator=rng)
            key = f"diffusion_model.{name}"
            state[f"{key}.lora_up.weight"] = up.reshape(rows, 2, *[1] * (weight.ndim - 2))
            state[f"{key}.lora_down.weight"] = down.reshape(2, *weight.shape[1:])
            state[f"{key}.alpha"] = torch.tensor(2.0)
        file = f"tiny_lora_{family}.safetensors"
        save_file(state, shelf.folder / file)
        yield Combo(
            "LoraLoader (core), a LoRA file",
            setup,
            label,
            model=lambda m, f=file: nodes.LoraLoaderModelOnly().load_lora_model_only(m, f, 0.8)[0],
            tests=f"{CALLS}, {PIXEL}: test_a_weight_patch",
        )


def core_controlnet(shelf: Shelf) -> Iterator[Combo]:
    """An SD3 ControlNet in its published layout, read by the core's own loader."""
    from diffusers import SD3ControlNetModel
    from safetensors.torch import save_file

    import folder_paths
    import nodes
    from async_timestep.harness.in_process import pack
    from async_timestep.harness.tiny_models import scrambled

    network = SD3ControlNetModel(
        num_layers=1,
        attention_head_dim=64,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=128,
        pooled_projection_dim=2048,
        pos_embed_max_size=16,
        sample_size=16,
    )
    state = {k: v for k, v in scrambled(network, 9).items() if k != "pos_embed.pos_embed"}
    state["pos_embed.pos_embed"] = network.state_dict()["pos_embed.pos_embed"].half()
    save_file(state, shelf.folder / "tiny_control.safetensors")
    folder_paths.add_model_folder_path("controlnet", str(shelf.folder))
    control = nodes.ControlNetLoader().load_controlnet("tiny_control.safetensors")[0]
    setup = shelf.setup("sd3")
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(7))
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(
        setup.positive,
        setup.negative,
        control,
        hint,
        0.8,
        0.0,
        1.0,
        vae=pack("nodes.demo").load_demo_vae(),
    )

    def guider(setup, model):
        made = cfg_guider(setup, model)
        made.set_conds(positive, negative)
        return made

    yield Combo(
        "ControlNet (core), a tiny SD3 file",
        setup,
        "SD3",
        guider=guider,
        tests=f"{BESIDE}, {PIXEL}: test_a_controlnet_sees...",
    )


def core_fp8(shelf: Shelf) -> Iterator[Combo]:
    import folder_paths
    import nodes

    setup = shelf.setup("sd35_dual")
    folder_paths.add_model_folder_path("diffusion_models", str(shelf.folder))
    stored = nodes.UNETLoader().load_unet("tiny_sd35_dual.safetensors", "fp8_e4m3fn")[0]
    loaded = load.Setup(**{**vars(setup), "model": stored})
    yield Combo("Load Diffusion Model (core), fp8_e4m3fn", loaded, "SD3.5", base=setup.model)


CORE = (core_caches, core_fp8, core_lora, core_controlnet, core_compile)
