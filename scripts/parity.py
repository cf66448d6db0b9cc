"""Are our reward modules the published packages? Prints the largest difference of each.

    python scripts/parity.py [--keep]

Makes the old environment that image-reward and hpsv2 need in .host/packages-venv, writes random
weights in the published layout at the published size (2 GB each; ImageReward 447 M parameters,
HPSv2 986 M), scores the same images and prompts with the packages (through reward_worker.py) and
with training/rewards, and compares tokens, pixels and scores. The CLIP score and PickScore are
compared with the older transformers, on a small model. Needs 12 GB of memory, 4 GB of disk and no
network beyond the packages; about five minutes on one CPU core. --keep leaves .host/parity.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from async_timestep.harness.comfy_server import PATIENCE
from async_timestep.harness.host import HOST, ROOT, TEST, TORCH, ensure_host
from async_timestep.harness.venvs import install, interpreter, make_venv, say

PACKAGES = [
    "image-reward==1.5",
    "hpsv2==1.2.0",
    "clip-anytorch==2.6.0",  # image-reward imports it without asking for it
    "transformers==4.55.4",  # the last minor version that image-reward can be imported with
    "diffusers==0.39.0",
    "huggingface-hub==0.36.2",
    "tokenizers==0.21.4",
    "timm==0.6.13",
    "fairscale==0.4.13",
    "datasets>=3.6,<4",
    "setuptools<81",  # clip imports pkg_resources
    *TORCH[:2],
]
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def ensure_packages() -> Path:
    """The interpreter of .host/packages-venv with the packages and hpsv2's missing file."""
    venv = HOST / "packages-venv"
    python, marker = interpreter(venv), venv / ".complete"
    if python.exists() and marker.exists() and marker.read_text() == "\n".join(PACKAGES):
        return python
    say("Installing image-reward and hpsv2 into .host/packages-venv ...")
    make_venv(venv, HOST / "packages.log")
    install(python, PACKAGES, HOST / "packages.log")
    site = next(path for path in venv.rglob("site-packages") if path.is_dir())
    shutil.copy(site / "clip" / VOCABULARY, site / "hpsv2" / "src" / "open_clip" / VOCABULARY)
    marker.write_text("\n".join(PACKAGES))
    return python


def start(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen:
    """Starts the worker, and waits until it says that it listens."""
    with open(log, "wb") as out:
        worker = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    waiting = time.monotonic() + PATIENCE
    while "listens" not in log.read_text(errors="replace"):
        if worker.poll() is not None or time.monotonic() > waiting:
            worker.kill()
            raise SystemExit(f"The reward worker did not start; see {log}")
        time.sleep(0.2)
    return worker


def main(arguments: list[str]) -> int:
    tree, python = ensure_host(TEST)
    packages = ensure_packages()
    folder = HOST / "parity"
    folder.mkdir(parents=True, exist_ok=True)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    stage = [str(ROOT / "scripts" / "parity_stages.py"), str(folder)]
    clip = str(tree / "comfy" / "sd1_tokenizer")  # CLIP's tokens, which every ComfyUI has
    worker = None
    try:
        subprocess.run([str(python), *stage, "write", clip], env=offline, check=True)
        subprocess.run([str(packages), *stage, "packages", clip], env=offline, check=True)
        say("Scoring with the packages ...")
        serve = [str(packages), str(ROOT / "training" / "reward_worker.py"), "--device", "cpu"]
        worker = start(serve, HOST / "reward_worker.log", offline)
        subprocess.run([str(python), *stage, "worker", clip], env=offline, check=True)
        worker.terminate()  # its memory is needed
        worker.wait()
        say("Scoring with training/rewards ...")
        return subprocess.run([str(python), *stage, "own", clip], env=offline).returncode
    finally:
        if worker and worker.poll() is None:
            worker.kill()
        if "--keep" not in arguments:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
