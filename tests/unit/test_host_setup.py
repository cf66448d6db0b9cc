"""The scripts behind the Makefile in a fresh clone, up to the commands that they start: every
target, with COMFYUI_PATH and COMFYUI_PYTHON given or not. No network, nothing is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDER = Path(__file__).with_name("recorded_setup.py")
BOTH = ("COMFYUI_PATH", "COMFYUI_PYTHON")
TARGETS = {
    "demo": "demo.py",
    "test": "pytest",
    "floor": "pytest",
    "host": None,
    "serve": "main.py",
    "bench": "-m bench rollout_cost",
    "parity": "parity_stages.py",
    "newest": "pytest",
}
OWN = {"parity": "packages-venv", "newest": "newest-venv"}  # environments beside the host's


class Clone:
    """The scripts and what they import, in a folder with spaces, without a .host."""

    def __init__(self, folder: Path):
        self.root, self.log = folder / "a fresh clone", folder / "started.jsonl"
        for room in ("harness", "scripts", "bench"):
            shutil.copytree(ROOT / room, self.root / room)
        (self.root / "training").mkdir()
        for name in ("pyproject.toml", "__init__.py", "training/async_timestep.py"):
            shutil.copy(ROOT / name, self.root / name)
        self.host, self.asked = self.root / ".host", folder
        self.python = (
            self.host / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        )

    def run(self, script: str, *arguments: str, **given) -> subprocess.CompletedProcess:
        """Started from another folder than the clone, with these variables and no others."""
        env = {k: v for k, v in os.environ.items() if k not in BOTH}
        env |= {name: str(value) for name, value in given.items()}
        self.log.unlink(missing_ok=True)
        command = [sys.executable, RECORDER, self.log, self.root / "scripts" / f"{script}.py"]
        return subprocess.run(
            [*command, *arguments], env=env, cwd=self.asked, capture_output=True, text=True
        )

    def started(self) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def installs(self) -> list[list[str]]:
        return [one["command"] for one in self.started() if "install" in one["command"]]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.fixture
def comfyui(tmp_path):
    """make(name, requirements): a ComfyUI of the user's, which nothing may be installed into."""
    spec = importlib.util.spec_from_file_location("recorded_setup", RECORDER)
    argv, sys.argv = sys.argv, ["", "", ""]
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    sys.argv = argv

    def make(name: str = "my ComfyUI", requirements: str = "numpy>=1\n") -> Path:
        recorder.make_tree(tmp_path / name, requirements)
        return tmp_path / name

    return make


@pytest.fixture
def whole(tmp_path):
    """COMFYUI_PYTHON: this interpreter, to which every package of the tests is there."""
    from async_timestep.harness.host import TEST

    for package in [*TEST, "numpy"]:
        name = re.match(r"[\w.-]+", package).group()
        info = tmp_path / "site" / f"{name.replace('-', '_')}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    return {"COMFYUI_PYTHON": sys.executable, "PYTHONPATH": tmp_path / "site"}


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("path", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_in_a_fresh_clone(clone, comfyui, whole, target, path, python):
    tree = comfyui() if path else clone.host / "ComfyUI"
    given = {"COMFYUI_PATH": tree} if path else {}
    given |= whole if python else {}
    done = clone.run(target, **given)
    assert done.returncode == 0, done.stderr
    wanted = Path(sys.executable) if python else clone.python
    if target == "newest":  # it needs no ComfyUI
        wanted = clone.host / OWN[target] / clone.python.relative_to(clone.host / "venv")
    started = clone.started()
    if target == "test":  # beside the floor suite the trainer is tested with the newest packages
        newest = str(clone.host / "newest-venv" / clone.python.relative_to(clone.host / "venv"))
        tests = [one for one in started if one["command"][1:3] == ["-m", "pytest"]]
        started = [one for one in tests if one["command"][0] != newest]
        assert len(tests) == 3 and len(started) == 2
    last = started[-1] if started else {}
    if target == "host":
        assert done.stdout == f"COMFYUI_PATH={tree}\nCOMFYUI_PYTHON={wanted}\n"
    else:
        assert last["command"][0] == str(wanted) and TARGETS[target] in " ".join(last["command"])
    if target in ("demo", "test", "floor", "bench"):  # what these start asks for the host again
        own = clone.host / "ComfyUI-floor" if target in ("test", "floor") else tree
        assert (last["COMFYUI_PATH"], last["COMFYUI_PYTHON"]) == (str(own), str(wanted))
    host = [one for one in clone.installs() if one[0] == str(clone.python)]
    times = 0 if python or target == "newest" else 1 if target in ("demo", "host", "serve") else 2
    assert [one[-1] for one in host if "-r" in one] == [str(tree / "requirements.txt")] * times
    beside = [one for one in clone.installs() if one not in host]
    assert {Path(one[0]).parents[1].name for one in beside} == {
        OWN[name] for name in OWN if name == target or (name, target) == ("newest", "test")
    }
    cloned = [one["command"][-1] for one in clone.started() if one["command"][0] == "git"]
    assert len(cloned) == (not path and target != "newest") + (target in ("test", "floor"))
    if path:
        assert sorted(os.listdir(tree)) == sorted(os.listdir(comfyui("other"))), "nothing was added"


def test_a_second_run_starts_nothing_new(clone):
    for script in ("test", "demo", "host"):
        assert clone.run(script).returncode == 0
        assert bool(clone.installs()) == (script == "test")


def test_a_path_from_where_one_stands(clone, comfyui):
    tree = comfyui()
    for given in ("my ComfyUI", "./my ComfyUI/", f"{tree}/", "../" * 30 + str(tree)[1:]):
        assert f"COMFYUI_PATH={tree}\n" in clone.run("host", COMFYUI_PATH=given).stdout, given
        clone.run("demo", COMFYUI_PATH=given)
        assert clone.started()[-1]["COMFYUI_PATH"] == str(tree), "demo.py runs in the clone"


def sentence(done: subprocess.CompletedProcess, *parts: str) -> None:
    """It ended with one sentence that says all this."""
    assert done.returncode == 1
    lines = [
        line
        for line in done.stderr.splitlines()
        if line != "Setting up ComfyUI (only the first time) ..."
    ]
    assert len(lines) == 1 and lines[0].endswith(".") and ". " not in lines[0].replace("...", "")
    assert all(part in lines[0] for part in parts), lines[0]


def test_a_path_that_is_no_comfyui(clone, comfyui, tmp_path):
    gone = tmp_path / "gone"
    sentence(clone.run("demo", COMFYUI_PATH=gone), f"COMFYUI_PATH is {gone}", "no main.py")
    for part in ("main.py", "comfy", "requirements.txt"):
        tree = comfyui(f"without {part}")
        os.replace(tree / part, tmp_path / f"taken {part}")
        sentence(clone.run("demo", COMFYUI_PATH=tree), f"COMFYUI_PATH is {tree}", f"no {part};")
    assert not clone.started() and not clone.host.exists()


@pytest.mark.parametrize(
    ("target", "lacking"),
    [
        ("host", ["numpy"]),
        ("serve", ["numpy"]),
        ("demo", ["numpy", "matplotlib"]),
        ("test", ["numpy", "pytest", "hypothesis"]),
        ("floor", ["pytest"]),
        ("bench", ["numpy", "diffusers"]),
        ("parity", ["numpy", "diffusers"]),
    ],
)
def test_an_interpreter_without_the_packages(clone, comfyui, tmp_path, target, lacking):
    venv.create(tmp_path / "bare one", with_pip=False)
    bare = tmp_path / "bare one" / clone.python.relative_to(clone.host / "venv")
    done = clone.run(target, COMFYUI_PATH=comfyui(), COMFYUI_PYTHON=bare)
    sentence(done, f"COMFYUI_PYTHON is {bare}, which lacks ", *lacking, "pip install")
    assert "numpy>=1" in done.stderr and "torchsde" not in done.stderr
    assert not clone.installs()


def test_what_a_comfyui_can_start_without_is_not_asked_for(clone, comfyui):
    lines = ["numpy>=1 # always", "", "none-such; sys_platform == 'x'"]
    lines += ["#non essential dependencies:", "none-other"]
    tree = comfyui(requirements="\n".join(lines))
    given = {"COMFYUI_PATH": tree, "COMFYUI_PYTHON": sys.executable}
    assert clone.run("serve", **given).returncode == 0
    given["COMFYUI_PATH"] = comfyui("another", "numpy\nnone-such>=3\n")
    sentence(clone.run("serve", **given), "lacks none-such;", "none-such>=3")


def test_an_interpreter_that_is_none(clone, comfyui, tmp_path):
    tree, text = comfyui(), tmp_path / "text"
    text.write_text("nothing")
    for given in (tmp_path / "gone", text, tmp_path, "no-such-python"):
        done = clone.run("demo", COMFYUI_PATH=tree, COMFYUI_PYTHON=given)
        sentence(done, f"COMFYUI_PYTHON is {given}, which is no program")
    text.chmod(0o755)
    done = clone.run("demo", COMFYUI_PATH=tree, COMFYUI_PYTHON="./text")
    sentence(done, f"COMFYUI_PYTHON is {text}, which runs no Python code")


def test_an_interpreter_by_its_name_or_from_where_one_stands(clone, comfyui, tmp_path):
    """The link of a virtual environment stays: the file behind it has none of the packages."""
    (tmp_path / "bin").mkdir()
    link = tmp_path / "bin" / "my-python"
    link.symlink_to(sys.executable)
    tree, path = comfyui(requirements=""), f"{link.parent}{os.pathsep}{os.environ['PATH']}"
    for given in ("bin/my-python", "my-python"):
        done = clone.run("host", COMFYUI_PATH=tree, COMFYUI_PYTHON=given, PATH=path)
        assert done.stdout.endswith(f"COMFYUI_PYTHON={link}\n"), (given, done.stderr)


def test_two_hosts_in_turn_have_each_its_own_packages(clone, comfyui):
    """What was installed for one is not taken to be there after the other's has replaced it."""
    one, two = comfyui("one", "numpy>=1\n"), comfyui("two", "numpy>=2\n")
    for tree, fresh in ((one, True), (two, True), (one, True), (one, False)):
        assert clone.run("test", "--lint", COMFYUI_PATH=tree).returncode == 0
        found = [install[-1] for install in clone.installs() if "-r" in install]
        assert found == [str(tree / "requirements.txt")] * (2 if fresh else 0)


def test_an_install_that_failed_is_done_again(clone, comfyui):
    tree = comfyui()
    done = clone.run("host", COMFYUI_PATH=tree, FAILS="-r")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Command failed (1)" in done.stderr and str(clone.host / "host.log") in done.stderr
    assert clone.run("host", COMFYUI_PATH=tree).returncode == 0 and len(clone.installs()) == 2


@pytest.mark.parametrize("fails", ["", "-r"])
def test_nothing_grows_outside_the_clone(clone, comfyui, fails):
    """Each environment is gigabytes, and uv's own cache would keep all of them once more."""
    tree = comfyui()
    for target, given in (("host", {"COMFYUI_PATH": tree}), ("newest", {})):
        done = clone.run(target, **given, FAILS=fails)
        assert done.returncode == bool(fails)
        (install,) = [one for one in clone.installs() if "uv" in one[:3]]
        cache = Path(install[install.index("--cache-dir") + 1])
        assert cache.parent == clone.host and not cache.exists()


def test_a_disk_without_room_is_named(clone, comfyui):
    tree = comfyui()
    done = clone.run("host", COMFYUI_PATH=tree, FREE=431_000_000)
    assert f"{clone.host} has 0.4 GB free, and an environment with torch takes up to 8 GB" in (
        done.stderr
    )
    assert done.returncode == 0 and len(clone.installs()) == 2, "it is tried all the same"
    shutil.rmtree(clone.host)
    assert "GB free" not in clone.run("host", COMFYUI_PATH=tree, FREE=9_000_000_000).stderr


@pytest.mark.parametrize("broken", ["without pip", "without an interpreter"])
def test_an_environment_that_was_left_half_made_is_made_again(clone, comfyui, broken):
    tree = comfyui()
    assert clone.run("host", COMFYUI_PATH=tree).returncode == 0
    if broken == "without pip":  # venv ended before it came to pip, and so before any marker
        for marker in clone.python.parents[1].glob(".host-*"):
            marker.unlink()
        clone.python.write_text("")
    else:  # the Python that it is a link to is gone
        clone.python.unlink()
    assert clone.run("host", COMFYUI_PATH=tree).returncode == 0
    assert any(one["command"][1:3] == ["-m", "venv"] for one in clone.started())
    assert len(clone.installs()) == 2


def test_a_folder_in_the_place_of_our_comfyui_is_kept(clone):
    models = clone.host / "ComfyUI" / "models"
    models.mkdir(parents=True)
    done = clone.run("host")
    sentence(done, f"{models.parent} has no main.py", "move it away")
    assert models.exists()


def test_the_pack_that_serve_loads_is_this_clone_s(clone, comfyui, tmp_path):
    """Also where .host came from another clone, or this one was moved."""
    tree, link = comfyui(), clone.host / "base" / "custom_nodes" / "async-timestep"
    link.parent.mkdir(parents=True)
    for there in (None, tmp_path / "gone", tmp_path):
        if there:
            link.unlink()
            link.symlink_to(there, target_is_directory=True)
        assert clone.run("serve", COMFYUI_PATH=tree).returncode == 0
        assert link.resolve() == clone.root
    assert tmp_path.exists()


def test_the_newest_front_end_is_whole_or_not_there(tmp_path, monkeypatch):
    """Fetched once; where the registry gives none, there is one sentence and nothing is left."""
    from async_timestep.harness import front_end

    asked, host = [], tmp_path / ".host"

    def refuses(command, log):
        asked.append(command)
        (Path(command[command.index("--target") + 1]) / "half").touch()
        raise SystemExit("Command failed (1)")

    def gives(command, log):
        asked.append(command)
        pages = Path(command[command.index("--target") + 1], "comfyui_frontend_package", "static")
        pages.mkdir(parents=True)
        (pages / "index.html").touch()

    monkeypatch.setattr(front_end, "HOST", host)
    monkeypatch.setattr(front_end, "run", refuses)
    with pytest.raises(SystemExit, match="Command failed"):
        front_end.ensure_front_end()
    assert list(host.iterdir()) == []
    monkeypatch.setattr(front_end, "run", gives)
    for _ in range(2):
        assert (front_end.ensure_front_end() / "index.html").exists()
    assert len(asked) == 2 and asked[0][-1] == f"{front_end.PACKAGE}=={front_end.VERSION}"
    assert [path.name for path in host.iterdir()] == [f"front-end-{front_end.VERSION}"]
