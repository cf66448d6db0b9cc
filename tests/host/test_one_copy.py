"""ComfyUI, the nodes and the trainer in one process have one copy of every module of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from async_timestep.scripts.host import ensure_tree

ROOT = Path(__file__).resolve().parents[2]
INSIDE = """
import asyncio, json, sys
from importlib import import_module
folder, tree, loader = sys.argv[1:4]
sys.argv, sys.path[:0] = ["main.py", "--cpu"], [tree]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
host = nodes
if loader == "comfyui":
    assert asyncio.run(nodes.load_custom_node(folder))
sys.path.append(folder + "/training")
import async_timestep
from async_timestep.training.grpo import result, rollout, setup
from async_timestep.nodes.run import hook, warnings
from async_timestep.tpm.policies import Policy, Preset
import nodes
files = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None) or ""
    if file.startswith(folder + "/") and "/.host/" not in file:
        files.setdefault(file, []).append((name, id(module)))
print(json.dumps({
    "copies": {f: n for f, n in files.items() if len({i for _, i in n}) > 1},
    "files": len(files),
    "package": async_timestep.__name__,
    "nodes": nodes is host and nodes.__file__.startswith(tree),
    "policy": hook.Policy is Policy and issubclass(rollout.Actor, Policy),
    "source": warnings.source_of(Preset("auto"), "flux1_dev"),
    "bare": [n for n in sys.modules if n.partition(".")[0] in ("tpm", "asyndm", "training")],
}))
"""


@pytest.mark.parametrize("loader", ["comfyui", "training"])
def test_one_copy_of_every_module(tmp_path, loader):
    """comfyui: its own loader has taken the folder from custom_nodes before the trainer begins."""
    script = tmp_path / "inside.py"
    script.write_text(INSIDE)
    done = subprocess.run(
        [sys.executable, script, str(ROOT), str(ensure_tree()), loader],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["copies"] == {} and found["files"] > 60 and found["bare"] == []
    assert (found["package"] == "async_timestep") == (loader == "training")
    assert found["nodes"] and found["policy"]
    assert found["source"][0] and found["source"][1] is True


def test_the_tests_themselves_have_one(pack):
    from async_timestep.tpm import policies
    from async_timestep.training.grpo.rollout import Actor

    assert issubclass(Actor, pack("nodes.run.hook").Policy)
    assert pack("tpm.policies") is policies
    assert not {"tpm", "asyndm", "training"} & set(sys.modules)
