"""Prints, as JSON, what of ComfyUI's own is another object after the pack was imported and used.

    python tests/floor/untouched.py COMFYUI_FOLDER     on the CPU, in a process of its own

Looked at: every function and class of every module of ComfyUI, what can be called in the classes,
lists of names, constant tables; and torch.nn, which packs like to patch too.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOST = {"app", "comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths"}
HOST |= {"latent_preview", "node_helpers", "nodes", "server"}
TORCH = ("torch.nn.functional", "torch.nn.modules.module", "torch.nn.modules.linear")


def snapshot() -> dict[str, object]:
    """Name -> object. The objects are kept, so that no other can get the id of one."""
    found: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in HOST or name in TORCH:
            for key, value in list(vars(module).items()):
                found |= one(f"{name}.{key}", value)
    return found


def one(name: str, value) -> dict[str, object]:
    if isinstance(value, type):
        parts = {f"{name}.{k}": v for k, v in vars(value).items() if is_code(v)}
        return {name: value, **parts}
    if isinstance(value, (list, tuple, set)) and all(isinstance(v, str) for v in value):
        return {name: tuple(value)}
    if isinstance(value, dict) and name.rsplit(".", 1)[1].isupper():
        return {f"{name}[{k!r}]": v for k, v in value.items()}
    return {name: value} if callable(value) else {}


def is_code(value) -> bool:
    return callable(value) or isinstance(value, (staticmethod, classmethod, property))


def changed(before: dict[str, object]) -> list[str]:
    """Names that are gone, new in a module that was there, or another object."""
    after = snapshot()
    same = {k for k in before if k in after and equal(before[k], after[k])}
    modules = {name.rsplit(".", 1)[0] for name in before}
    new = {k for k in after if k not in before and k.rsplit(".", 1)[0] in modules}
    return sorted((before.keys() - same) | new)


def equal(a, b) -> bool:
    return a == b if isinstance(a, tuple) else a is b


def load_pack():
    """The pack and all its nodes, as ComfyUI loads them."""
    spec = importlib.util.spec_from_file_location(
        "pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    sys.modules["pack"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [node.GET_SCHEMA() for node in asyncio.run(nodes_of(module))]


async def nodes_of(module):
    return await (await module.comfy_entrypoint()).get_node_list()


def use_pack() -> list[str]:
    """A deviation, one in a region by words, and AsynDM. Returns what is left on the model."""
    import comfy.sample

    names = ("run.hook", "demo", "region_mask", "run.asyndm")
    hook, demo, region, asyndm = (sys.modules[f"pack.nodes.{name}"] for name in names)
    policies = sys.modules["pack.tpm.policies"]
    model, clip = demo.load_demo_model(), demo.load_demo_clip()
    text = "a red circle above a blue star on a dark rough background"
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in (text, ""))
    words = region.region_mask("words", clip, text, "rough")
    latent = torch.zeros(1, 16, 16, 16)
    noise, seen = comfy.sample.prepare_noise(latent, 1), []

    def run(patched, sampler, **more):
        sigmas = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0])
        seen.append(
            comfy.sample.sample_custom(
                patched, noise, 3.0, sampler, sigmas, positive, negative, latent, disable_pbar=True
            )
        )

    euler = comfy.samplers.sampler_object("euler")
    run(model, euler)
    run(hook.attach(model, policies.Constant(0.5))[0], euler)
    run(hook.attach(model, policies.Constant(0.5), region=words)[0], euler)
    run(model, asyndm.asyndm_sampler(words, 0.5, "euler", 0.0)[0])
    assert all(not torch.equal(seen[0], other) for other in seen[1:]), "a run had no effect"
    run(model, euler)
    assert torch.equal(seen[0], seen[-1]), "something stays on the model"
    return left_on(model.model)


def left_on(base) -> list[str]:
    """Replaced methods and hooks on a loaded model, its sampling and its network."""
    parts = [base, base.model_sampling, *base.diffusion_model.modules()]
    left = [f"{type(p).__name__}.{k}" for p in parts for k in vars(p) if is_method(p, k)]
    hooked = [m for m in base.diffusion_model.modules() if m._forward_hooks | m._forward_pre_hooks]
    return left + [f"hook on {type(module).__name__}" for module in hooked]


def is_method(owner, name: str) -> bool:
    return callable(vars(owner)[name]) and callable(getattr(type(owner), name, None))


if __name__ == "__main__":
    tree = sys.argv[1]
    sys.path.insert(0, tree)
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    import comfy.model_base
    import comfy.samplers
    import nodes  # noqa: F401  with it all that ComfyUI loads before the packs

    torch.set_grad_enabled(False)
    result = {}
    for name in ("comfy_api.latest", "comfy.ldm.modules.attention", "comfy.sample"):
        importlib.import_module(name)
    start = snapshot()
    result["looked_at"] = len(start)
    result["nodes"] = [schema.node_id for schema in load_pack()]
    result["after_import"] = changed(start)
    result["left_on_the_model"] = use_pack()
    result["after_sampling"] = changed(start)
    # the comparison sees what other packs do
    comfy.samplers.KSAMPLER_NAMES.append("a_sampler")
    comfy.samplers.SCHEDULER_HANDLERS["a_scheduler"] = comfy.samplers.SCHEDULER_HANDLERS["simple"]
    comfy.model_base.BaseModel.apply_model = lambda *args: None
    comfy.samplers.sampling_function = lambda *args: None
    result["after_patches"] = changed(start)
    print(json.dumps(result))
