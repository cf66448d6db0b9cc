"""A reward of the user's own in the three commands, on the embedded model, and in the guide."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import SMALL as EVALUATED
from evaluations import rows
from PIL import Image
from reward_plugins import BLUE, own, random_images
from safetensors.torch import load_file
from small_model import small_model

from async_timestep.training.data.identity import identities
from async_timestep.training.data.needed_files import is_here, needs, read_table
from async_timestep.training.evaluation.command import main as evaluate
from async_timestep.training.evaluation.command import options
from async_timestep.training.evaluation.paired import load_measurement
from async_timestep.training.grpo.command import main as train
from async_timestep.training.rewards import RewardError
from async_timestep.training.run.console import Report
from async_timestep.training.run.settings import config_sha256, parse, place_names
from async_timestep.training.search.command import main as search

CPU = torch.device("cpu")
PROMPTS = ["a cat", "z", "q b"]
GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "rewards.md").read_text("utf-8")
TRAINED = [
    "--preset=tiny", "--backbone.precision=fp32",
    "--policy.width=16", "--policy.heads=2", "--policy.layers=1",
    "--grpo.num_generations=4", "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=1",
    "--steps=2", "--iterations=2", "--data.validation_prompts=2", "--log.validate_every=2",
    "--log.checkpoint_every=1", "--log.samples_every=0", "--rewards.batch=3", "--threads=1",
]  # fmt: skip
JUDGE = """
from async_timestep.training.tiny.score import score_images

def score(images, prompts):
    assert images.shape[0] == len(prompts) <= 3 and images.dtype.is_floating_point
    return score_images(images, prompts)["reward"]
"""


@pytest.fixture
def images() -> torch.Tensor:
    return random_images()


def last_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if "so far" not in line]
    return lines[-1]


# --- the three commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """runs/built_in by the scene judge, runs/plugin by a file that asks the same judge."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "judge.py").write_text(JUDGE)
    plugin = ["--rewards.weights={mine: 1.0}", f"--rewards.plugin={folder / 'judge.py'}"]
    assert (
        train([*TRAINED, "--rewards.weights={scene: 1.0}", "--out", str(folder / "built_in")]) == 0
    )
    assert train([*TRAINED, *plugin, "--out", str(folder / "plugin")]) == 0
    return folder


def learned(out: Path) -> dict[str, bytes]:
    tensors = load_file(out / "tpm_last.safetensors")
    return {name: value.numpy().tobytes() for name, value in tensors.items()}


def records(out: Path, name: str) -> list[dict]:
    text = (out / "metrics.jsonl").read_text().replace(f'"{name}"', '"the reward"')
    found = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found]


def test_a_run_by_the_same_judge_learns_the_same_bits(trained):
    assert learned(trained / "plugin") == learned(trained / "built_in")
    text = (trained / "plugin" / "metrics.jsonl").read_text()
    assert '"mine"' in text and '"scene"' not in text
    assert records(trained / "plugin", "mine") == records(trained / "built_in", "scene")


def cut(trained: Path, out: Path) -> Path:
    """The run as it was after its first iteration."""
    shutil.copytree(trained / "plugin", out)
    (out / "checkpoints" / "000002.pt").unlink()
    (out / "checkpoints" / "latest").write_text("000001.pt")
    for name in ("tpm.safetensors", "tpm_last.safetensors", "README.md"):
        (out / name).unlink(missing_ok=True)
    return out


def test_a_moved_plugin_resumes_to_the_bit(trained, tmp_path):
    shutil.copy(trained / "judge.py", tmp_path / "other_name.py")
    out = cut(trained, tmp_path / "r")
    moved = f"--rewards.plugin={tmp_path / 'other_name.py'}"
    assert train(["--resume", "--out", str(out), moved]) == 0
    assert learned(out) == learned(trained / "plugin")


def test_an_edited_plugin_is_refused(trained, tmp_path, capsys):
    (tmp_path / "judge.py").write_text(JUDGE.replace("<= 3", "<= 4"))
    out = cut(trained, tmp_path / "r")
    assert train(["--resume", "--out", str(out), f"--rewards.plugin={tmp_path / 'judge.py'}"]) == 1
    sentence = last_line(capsys)
    assert "rewards.plugin is" in sentence and "whose code has another content" in sentence
    assert "another --out" in sentence


def test_a_plugin_that_breaks_on_the_way_ends_the_run_and_it_goes_on(trained, tmp_path, capsys):
    """The file counts its calls beside it and fails once: the run keeps its checkpoint."""
    count = tmp_path / "count"
    text = JUDGE + (
        f"\nplain, count = score, {str(count)!r}\n"
        "def score(images, prompts):\n"
        "    with open(count, 'a+') as file:\n"
        "        file.write('.')\n"
        "        file.seek(0)\n"
        "        if len(file.read()) == 5:\n"
        "            raise RuntimeError('the scorer is away')\n"
        "    return plain(images, prompts)\n"
    )
    (tmp_path / "flaky.py").write_text(text)
    more = ["--rewards.weights={mine: 1.0}", f"--rewards.plugin={tmp_path / 'flaky.py'}"]
    more += ["--log.validate_every=0"]
    out = ["--out", str(tmp_path / "r")]
    assert train([*TRAINED, *more, *out, "--iterations=3"]) == 1
    sentence = last_line(capsys)
    assert re.search(r"mine of .*flaky\.py failed at line \d+: RuntimeError: the scorer", sentence)
    assert train(["--resume", *out]) == 0
    straight = [
        *TRAINED,
        "--iterations=3",
        "--log.validate_every=0",
        "--rewards.weights={scene: 1.0}",
    ]
    assert train([*straight, "--out", str(tmp_path / "straight")]) == 0
    assert learned(tmp_path / "r") == learned(tmp_path / "straight")


def test_evaluate_scores_with_it_and_knows_its_content(tmp_path, capsys):
    (tmp_path / "blue.py").write_text(BLUE)
    few = ["--fixed", "0.5", "--gammas", "--more_steps", "--log.samples=0"]
    few += ["--rewards.weights.blue=1", "--out", str(tmp_path / "r")]
    asked = [*EVALUATED, *few, f"--rewards.plugin={tmp_path / 'blue.py'}"]
    assert evaluate(asked) == 0
    measurement = load_measurement(parse(asked, more=options)[0], 8, Report(shown=False))
    latents = measurement.sampled("evaluation", range(8), 3, None)[0]
    blue = measurement.backbone.decode(latents).numpy()[:, 2].mean((1, 2))
    found = [float(row["blue"]) for row in rows(tmp_path / "r")["D=0"]]
    np.testing.assert_allclose(found, blue, atol=1e-5)
    assert np.std(blue) > 0.01 and "blue" in (tmp_path / "r" / "table.md").read_text()
    (tmp_path / "moved.py").write_text(BLUE)
    assert evaluate([*EVALUATED, *few, f"--rewards.plugin={tmp_path / 'moved.py'}"]) == 0
    (tmp_path / "moved.py").write_text(BLUE + "# edited\n")
    capsys.readouterr()
    assert evaluate([*EVALUATED, *few, f"--rewards.plugin={tmp_path / 'moved.py'}"]) == 1
    assert "other settings" in last_line(capsys) or "--out" in last_line(capsys)


def test_search_asks_it_and_ends_by_its_sentence(tmp_path, capsys):
    (tmp_path / "blue.py").write_text(BLUE)
    small = ["--preset=tiny", "--backbone.precision=fp32", "--threads=1", "--steps=3", "--n=6"]
    small += ["--data.validation_prompts=4", "--prompts=4", "--candidates=4", "--images=60"]
    small += ["--backbone.path", small_model()]
    small += ["--rewards.weights={blue: 1.0}"]
    out = ["--out", str(tmp_path / "s")]
    assert search([*small, *out, f"--rewards.plugin={tmp_path / 'blue.py'}"]) == 0
    assert "blue" in (tmp_path / "s" / "evaluation" / "table.md").read_text()
    (tmp_path / "bad.py").write_text("def score(images, prompts):\n    return [0.0]\n")
    bad = [*small, "--out", str(tmp_path / "t"), f"--rewards.plugin={tmp_path / 'bad.py'}"]
    assert search(bad) == 1
    assert re.search(r"search_schedule.py: The reward blue of .*bad\.py gave", last_line(capsys))


@pytest.mark.parametrize("command", [train, evaluate, search])
def test_a_missing_file_is_told_before_anything_is_made(command, tmp_path, capsys):
    more = ["--rewards.weights.mine=1", f"--rewards.plugin={tmp_path / 'none.py'}"]
    asked = ["--preset=tiny", "--threads=1", *more, "--out", str(tmp_path / "r")]
    assert command(asked) == 1
    sentence = last_line(capsys)
    assert f"rewards.plugin is {tmp_path / 'none.py'}, where there is no file" in sentence
    assert not list((tmp_path / "r").glob("*")) if (tmp_path / "r").exists() else True


def test_a_run_without_one_is_known_as_before(tmp_path):
    plain = parse(TRAINED)[0]
    assert "rewards.plugin" not in {**identities(plain), **place_names(plain)}
    (tmp_path / "p.py").write_text(BLUE)
    more = ["--rewards.weights.mine=1", f"--rewards.plugin={tmp_path / 'p.py'}"]
    with_one = parse([*TRAINED, *more])[0]
    assert config_sha256(with_one) != config_sha256(plain)
    assert list(identities(with_one)["rewards.plugin"]["files"]) == ["code"]


def test_prepare_lists_it(tmp_path):
    config = parse([*TRAINED, f"--rewards.plugin={tmp_path / 'p.py'}"])[0]
    (need,) = [need for need in needs(config, read_table()) if need.setting == "rewards.plugin"]
    assert need.name == "p.py" and not is_here(need)
    (tmp_path / "p.py").write_text(BLUE)
    assert is_here(need)


# --- the two examples of the guide


def example(name: str) -> str:
    (found,) = [c for c in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if f'"""{name}' in c]
    return found


def test_the_example_with_a_library(tmp_path, images):
    """Where the library is installed it scores; elsewhere its own sentence says what to install."""
    if find_spec("pyiqa") is None:
        with pytest.raises(
            ValueError, match=r"quality\.py, which cannot be loaded.*pip install pyiqa"
        ):
            own(tmp_path / "quality.py", example("quality.py"))
        return
    import pyiqa

    big = torch.nn.functional.interpolate(images, (64, 64))
    found = own(tmp_path / "quality.py", example("quality.py"), batch=2)(big, PROMPTS)["mine"]
    torch.testing.assert_close(found, -pyiqa.create_metric("piqe", device="cpu")(big).float())


class Scorer(BaseHTTPRequestHandler):
    """Mean of a PNG's red pixels plus the length of its prompt; 500 for the prompt 'fail'."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = []
        for text, png in zip(asked["prompts"], asked["images"], strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
            scores.append(float(pixels[..., 0].mean()) + len(text))
        body = json.dumps({"scores": scores}).encode()
        self.send_response(500 if "fail" in asked["prompts"] else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def test_the_example_with_a_server(tmp_path, images):
    server = HTTPServer(("127.0.0.1", 0), Scorer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/score"
    text = example("served.py").replace("http://127.0.0.1:8000/score", address)
    assert address in text
    try:
        rewards = own(tmp_path / "served.py", text, batch=2)
        found = rewards(images, PROMPTS)["mine"]
        with pytest.raises(RewardError, match=r"served\.py failed at line \d+: HTTPError: HTTP Er"):
            rewards(images, ["a", "fail", "b"])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    pixels = np.round(images.numpy()[:, 0].astype(np.float64) * 255)
    np.testing.assert_allclose(found, pixels.mean((1, 2)) + [5, 1, 3], atol=0.01)
    with pytest.raises(RewardError, match=r"served\.py failed at line \d+: URLError"):
        rewards(images, PROMPTS)  # the server is gone
