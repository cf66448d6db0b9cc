"""ComfyUI, the nodes and the trainer in one process have one copy of every module of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from async_timestep.harness.host import ensure_tree

ROOT = Path(__file__).resolve().parents[2]
INSIDE = """
import asyncio, json, sys
folder, tree = sys.argv[1:3]
sys.argv, sys.path[:0] = ["main.py", "--cpu"], [tree]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
assert asyncio.run(nodes.load_custom_node(folder))
host = nodes
sys.path.append(folder + "/training")
import async_timestep
from async_timestep.nodes.run import hook, warnings
from async_timestep.tpm.policies import Policy, Preset
from async_timestep.training.grpo import result, rollout, setup
import nodes
print(json.dumps({
    "modules": [(name, id(m), getattr(m, "__file__", None)) for name, m in sys.modules.items()],
    "package": async_timestep.__name__,
    "nodes": nodes is host and nodes.__file__.startswith(tree),
    "policy": hook.Policy is Policy and issubclass(rollout.Actor, Policy),
    "source": warnings.source_of(Preset("auto"), "flux1_dev"),
}))
"""
ROOMS = ("nodes", "tpm", "asyndm", "maps", "report", "training", "harness")


def copies(modules: list[tuple[str, int, str | None]]) -> dict[str, set[int]]:
    """File of ours -> the module objects that were made of it."""
    found = {}
    for _, number, file in modules:
        path = Path(file or "/")
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
            found.setdefault(str(path), set()).add(number)
    return found


def test_one_copy_where_comfyui_has_loaded_the_folder_first(tmp_path):
    """By its own loader, under a name of its own, before the trainer begins."""
    script = tmp_path / "inside.py"
    script.write_text(INSIDE)
    done = subprocess.run(
        [sys.executable, script, str(ROOT), str(ensure_tree())], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    made = copies(found["modules"])
    assert len(made) > 60 and all(len(modules) == 1 for modules in made.values()), made
    assert found["package"] != "async_timestep", "the name that ComfyUI gave"
    assert found["nodes"] and found["policy"]
    assert found["source"][0] and found["source"][1] is True


def test_one_copy_under_our_own_name(pack):
    """In this process, where ComfyUI, the hook and the trainer are loaded too."""
    from async_timestep.tpm import policies
    from async_timestep.training.grpo import setup
    from async_timestep.training.grpo.rollout import Actor

    assert issubclass(Actor, pack("nodes.run.hook").Policy)
    assert pack("tpm.policies") is policies
    names = [(name, id(m), getattr(m, "__file__", None)) for name, m in sys.modules.items()]
    made = copies(names)
    assert len(made) > 60 and setup.__file__ in made
    assert all(len(modules) == 1 for modules in made.values()), made
