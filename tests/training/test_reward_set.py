"""Rewards together: what stops a run and with which words, and the worker process."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from multiprocessing.connection import Client
from pathlib import Path

import plain_rewards as plain
import pytest
import torch

from async_timestep.training.rewards import PAPER, RewardError, RewardSet, load_rewards, own_reward
from async_timestep.training.run.config import RewardsConfig

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
PROMPTS = ["a cat", "z", "q b"]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RewardsConfig:
    return plain.write_files(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 45, 70, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", PAPER)
def test_an_image_that_is_not_finite_stops(config, images, name):
    broken = images.clone()
    broken[1, 0, 0, 0] = float("nan")
    rewards = RewardSet([own_reward(name, config, CPU)], {name: 1.0})
    with pytest.raises(RewardError, match=rf"{name} failed: Image 1 .*not finite"):
        rewards(broken, PROMPTS)


class Fixed:
    """A reward of given values, or one that raises."""

    def __init__(self, name: str, values):
        self.names, self.values = (name,), values

    def __call__(self, images, prompts):
        if isinstance(self.values, Exception):
            raise self.values
        return {self.names[0]: torch.tensor(self.values)[: len(prompts)]}


def test_a_set_names_what_failed(images):
    good = Fixed("good", [1.0, 2.0, 3.0])
    scores = RewardSet([good], {"good": 1.0}, batch=16)(images, PROMPTS)
    assert scores["good"].tolist() == [1.0, 2.0, 3.0]
    rewards = RewardSet([good, Fixed("bad", [0.0, float("inf"), 0.0])], {"good": 1.0, "bad": 0.0})
    with pytest.raises(RewardError, match=r"reward bad gave inf for the prompt 'z'"):
        rewards(images, PROMPTS)
    rewards = RewardSet([good, Fixed("bad", KeyError("lost"))], {"good": 1.0, "bad": 1.0})
    with pytest.raises(RewardError, match=r"reward bad failed: 'lost'"):
        rewards(images, PROMPTS)


def test_load_rewards_takes_the_four_and_refuses_others(config, images):
    scores = load_rewards(dataclasses.replace(config, batch=2), CPU)(images, PROMPTS)
    assert tuple(scores) == PAPER
    alone = own_reward("clip", config, CPU)(images, PROMPTS)["clip"]
    torch.testing.assert_close(scores["clip"], alone, atol=1e-5, rtol=1e-5)
    for weights, words in (({"noise": 0.0}, "all 0"), ({"beauty": 1.0}, "names 'beauty'")):
        with pytest.raises(ValueError, match=words):
            load_rewards(RewardsConfig(weights=weights), CPU)


SERVER = """
import os, sys
from async_timestep.training.reward_worker import serve

def load(settings):
    if settings["hps_version"] == "v2.1":
        raise FileNotFoundError("no such weights")

    def score(prompts, images):
        if "die" in prompts:
            os._exit(3)
        if "fail" in prompts:
            raise RuntimeError("out of memory")
        if "short" in prompts:
            return {name: [1.0] for name in settings["names"]}
        return {
            "image_reward": [float(image[0, 0, 0]) for image in images],
            "hps": [image.sum() / 7 + len(text) for image, text in zip(images, prompts)],
        }

    return score

serve(sys.argv[1], load)
"""


@pytest.fixture
def worker(tmp_path):
    """A config for a real worker process with made-up models; it is stopped afterwards."""
    address = str(tmp_path / "w.sock")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, address],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "training")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "listens" in process.stdout.readline()  # the file is there before it listens
        weights = {"hps": 1.0, "image_reward": 0.5}
        yield RewardsConfig(backend="packages", address=address, weights=weights)
    finally:
        process.kill()
        process.communicate()


def test_the_worker_scores_what_it_is_sent(worker, images):
    prompts = ["a", "\u00fcber \U0001f431", ""]
    scores = load_rewards(worker, CPU)(images, prompts)
    bytes8 = (images * 255).round()
    assert torch.equal(scores["image_reward"], bytes8[:, 0, 0, 0])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    torch.testing.assert_close(scores["hps"], bytes8.sum((1, 2, 3)) / 7 + lengths)
    again = load_rewards(worker, CPU)  # a second trainer, or rank, with the same settings
    assert torch.equal(again(images, prompts)["hps"], scores["hps"])
    other = dataclasses.replace(worker, weights={"hps": 1.0})
    with pytest.raises(RewardError, match="other reward settings"):
        load_rewards(other, CPU)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("die", "stopped answering"),
        ("fail", "failed: RuntimeError: out of memory"),
        ("short", "gave 1 scores of hps, expected 2"),
    ],
)
def test_a_worker_that_fails_stops_the_run(worker, images, prompt, words):
    rewards = load_rewards(worker, CPU)
    with pytest.raises(RewardError, match=words) as caught:
        rewards(images[:2], ["a", prompt])
    assert "\n" not in str(caught.value)


def test_a_worker_that_cannot_load_says_so(worker):
    with pytest.raises(RewardError, match="FileNotFoundError: no such weights"):
        load_rewards(dataclasses.replace(worker, hps_version="v2.1"), CPU)


def test_no_worker_is_one_sentence(tmp_path):
    nobody = RewardsConfig(backend="packages", address=str(tmp_path / "nobody.sock"))
    with pytest.raises(RewardError, match="No reward worker listens.*reward_worker.py"):
        load_rewards(nobody, CPU)


def test_the_message_names_a_worker_that_is_there_and_says_what_it_needs():
    """In the registry's archive as well: it is a file of training/, and its page lists the
    packages that `make parity` installs."""
    from async_timestep.training import reward_worker
    from async_timestep.training.rewards import packages

    named = packages.START.split("`")[1].split()
    assert named[0] == "python" and (ROOT / named[1]) == Path(reward_worker.__file__)
    parity = (ROOT / "scripts" / "parity.py").read_text()
    wanted = re.findall(r'^    "([\w-]+[=<>][^"]*)"', parity, re.M)
    assert len(wanted) > 8
    for package in wanted:
        assert package in reward_worker.__doc__, package


SOCKETS = pytest.mark.skipif(sys.platform == "win32", reason="it has no sockets at paths")


@SOCKETS
@pytest.mark.parametrize("kind", ["file", "folder", "link", "datagrams", "in use"])
def test_the_worker_removes_nothing_but_the_socket_of_a_dead_one(tmp_path, kind):
    from async_timestep.training.reward_worker import free

    path, held = tmp_path / "w.sock", []
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "mine").write_text("mine")
        path.symlink_to(tmp_path / "mine")
    else:
        style = socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM
        held.append(socket.socket(socket.AF_UNIX, style))
        held[0].bind(str(path))
        if kind == "in use":
            held[0].listen()
    said = free(str(path))
    assert said.endswith(".") and str(path) in said and "--address" in said
    assert path.exists() or path.is_symlink()
    for one in held:
        one.close()
    script = [sys.executable, str(ROOT / "training" / "reward_worker.py"), "--address", str(path)]
    if kind in ("file", "folder", "link"):
        done = subprocess.run(script, capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr and path.exists()


@SOCKETS
def test_the_socket_of_a_worker_that_was_killed_gives_way(tmp_path):
    from async_timestep.training.reward_worker import free

    path = tmp_path / "w.sock"
    assert free(str(path)) == ""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.close()
    assert path.exists() and free(str(path)) == "" and not path.exists()


def test_the_worker_runs_no_code_of_a_weight_file(tmp_path):
    from async_timestep.training.reward_worker import WeightsOnly

    class Foreign:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"a": Foreign()}, tmp_path / "w.pt")
    with pytest.raises(pickle.UnpicklingError):
        WeightsOnly(torch).load(tmp_path / "w.pt", map_location="cuda")
    assert not (tmp_path / "ran").exists()
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    assert WeightsOnly(torch).load(tmp_path / "w.pt")["a"].tolist() == [1.0, 1.0]
    assert WeightsOnly(torch).ones(2).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("sent", [b"\x80\x04.", b"[]", b"{}", b"null", b"{", b"\xff" * 100])
def test_the_worker_outlives_who_is_no_trainer(worker, images, sent):
    client = Client(worker.address)
    client.send_bytes(sent)
    assert "error" in json.loads(client.recv_bytes())
    client.close()
    assert set(load_rewards(worker, CPU)(images[:1], ["a"])) == {"hps", "image_reward"}


def test_the_worker_starts_as_a_script_and_finds_no_file_of_ours_in_a_package_s_place():
    """training/rewards has a clip.py, training/ a config.py; `import clip` means the package."""
    script = ROOT / "training" / "reward_worker.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--address" in done.stdout
    code = (
        "import runpy, sys\n"
        "script, folder = sys.argv[1:]\n"
        "sys.argv = [script, '--help']\n"
        "try:\n"
        "    runpy.run_path(script, run_name='__main__')\n"
        "except SystemExit:\n"
        "    print(folder in sys.path)\n"
    )
    command = [sys.executable, "-c", code, str(script), str(script.parent)]
    env = {**os.environ, "PYTHONPATH": str(script.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
