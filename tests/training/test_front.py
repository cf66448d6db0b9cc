"""The first thing that anyone types: no arguments, no packages, an old Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from async_timestep.training.evaluation import command as evaluate_command
from async_timestep.training.grpo import command as train_command
from async_timestep.training.run import choice, installed
from async_timestep.training.run.choice import names_a_model, preset_list, with_preset
from async_timestep.training.run.settings import PRESETS, parse

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("train_tpm.py", "evaluate.py", "prepare.py", "make_tiny.py")
SMALL = [
    "--backbone.precision=fp32",
    "--grpo.num_generations=4",
    "--grpo.minibatch_size=2",
    "--grpo.prompts_per_iteration=1",
    "--steps=2",
    "--data.validation_prompts=4",
    "--log.samples=1",
    "--threads=1",
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return next(p for p in folder.glob("*/python*") if p.stem == "python")


# --- packages and Pythons


@pytest.mark.parametrize("more", [[], ["--preset", "tiny"], ["--help"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_without_packages_one_sentence_with_the_install_line(bare, tmp_path, command, more):
    done = subprocess.run(
        [bare, ROOT / "training" / command, *more], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"{command}: torch, ")
    for words in ("jsonargparse", "rich", "diffusers", "transformers", "pip install -e '.[train]'"):
        assert words in done.stderr
    assert str(ROOT) in done.stderr and not list(tmp_path.iterdir())


def test_the_paper_s_commands_are_printed_by_any_python(bare):
    done = subprocess.run(
        [bare, ROOT / "training" / "paper_runs.py"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 16


def test_what_is_there_is_not_named(monkeypatch, capsys):
    """ComfyUI's environment: torch and transformers, but no jsonargparse and no rich."""
    lacking = ("jsonargparse", "rich", "diffusers")
    monkeypatch.setattr(installed, "find_spec", lambda m: None if m in lacking else m)
    with pytest.raises(SystemExit) as stopped:
        installed.require("train_tpm.py")
    text = capsys.readouterr().err
    assert stopped.value.code == 2
    assert text.startswith("train_tpm.py: jsonargparse, rich and diffusers are missing in ")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--preset=sd35_medium"], "diffusers and transformers are missing"),
        (["--preset=tiny", "--rewards.weights.clip=1"], "transformers is missing"),
        (["--preset=tiny"], ""),
    ],
)
def test_what_only_some_models_need_is_asked_for_by_those(monkeypatch, capsys, arguments, named):
    lacking = ("diffusers", "transformers")
    config = parse(arguments)[0]
    monkeypatch.setattr(installed, "find_spec", lambda m: None if m in lacking else m)
    if not named:
        return installed.require_for("evaluate.py", config)
    with pytest.raises(SystemExit):
        installed.require_for("evaluate.py", config)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("main", [train_command.main, evaluate_command.main])
def test_a_model_without_its_packages_is_one_sentence(monkeypatch, capsys, tmp_path, main):
    monkeypatch.setattr(installed, "find_spec", lambda m: None if m == "diffusers" else m)
    with pytest.raises(SystemExit) as stopped:
        main(["--preset=flux1_dev", "--out", str(tmp_path / "out")])
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and "diffusers is missing" in text and text.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_package_that_is_asked_for_is_in_the_extra():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    extra = text.partition("train = [")[2].partition("\n]")[0]
    for package in {**installed.AT_ONCE, **installed.MODELS}.values():
        assert f'"{package}' in extra or package == "numpy", package  # torch brings numpy


def test_an_old_python_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as stopped:
        installed.require("train_tpm.py", (3, 9, 18))
    text = capsys.readouterr().err
    assert stopped.value.code == 2 and text.count("\n") == 1
    assert "this Python is 3.9.18, expected 3.10 or newer" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_an_old_python_can_read_up_to_that_sentence(command):
    """Its syntax, and that only Python's own and what is meant for it is imported before."""
    before = ("async_timestep.py", "run/installed.py", "run/stopping.py", "run/parts.py")
    for name in (command, *before):
        text = (ROOT / "training" / name).read_text("utf-8")
        body = ast.parse(text, feature_version=(3, 8)).body
        for node in body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
                assert ast.unparse(node.body[0]) == f"require('{command}')"
                break
            if isinstance(node, ast.ImportFrom):
                ours = node.module.rpartition(".")[2] in ("installed", "stopping", "parts")
                assert ours or node.module.split(".")[0] in sys.stdlib_module_names
            if isinstance(node, ast.Import):
                assert {a.name.split(".")[0] for a in node.names} <= sys.stdlib_module_names
        else:
            assert name != command, "require is never called"


def test_the_embedded_model_s_parts_are_found_by_their_first_word(warm, tmp_path):
    done = warm.start("make_tiny", ["scorer", "--help"], cwd=tmp_path)
    assert done.wait() == 0 and "--minutes" in done.text()
    for words, code in ((["--help"], 0), ([], 2), (["encoder"], 2)):
        told = warm.start("make_tiny", words, cwd=tmp_path)
        assert told.wait() == code
        assert ("backbone or unet or scorer or accuracy" in told.text()) == (code == 2), told.text()


HELP = """
import runpy, sys
sys.argv[:] = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    heavy = {"torch", "numpy", "PIL", "transformers", "diffusers", "datasets", "matplotlib"}
    print("loaded:", *sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    "words", ["train_tpm.py", "evaluate.py", "evaluate.py --suite asyndm"], ids=lambda words: words
)
def test_help_loads_nothing_that_takes_seconds(words):
    command, *more = words.split()
    done = subprocess.run(
        [sys.executable, "-c", HELP, (ROOT / "training" / command).as_posix(), *more, "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown, _, loaded = done.stdout.rpartition("loaded:")
    assert loaded == "\n" and "--grpo.lr" in shown
    assert not more or {"--judge_model", "seg", "asyndm"} <= set(re.findall(r"[\w-]+", shown))


# --- no preset


def overlay(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "arguments", [[], ["--iterations", "10"], ["--out", "x"], ["--backbone.path=y"], ["--dry_run"]]
)
def test_without_a_model_tiny_is_taken_and_it_is_said(arguments):
    said = []
    assert with_preset(arguments, said.append) == ["--preset", "tiny", *arguments]
    assert said == [f"Presets:\n{preset_list()}\n{choice.TAKEN}"]
    assert "No --preset was given: taking tiny, the embedded model" in choice.TAKEN


@pytest.mark.parametrize(
    "arguments",
    [
        ["--preset", "flux1_dev"],
        ["--preset=nonsense"],
        ["--preset"],
        ["--help"],
        ["-h"],
        ["--backbone.name=flux1_dev"],
        ["--backbone.name", "tiny"],
        ["--backbone={name: tiny}"],
    ],
)
def test_a_model_that_is_named_is_kept(arguments):
    said = []
    assert with_preset(arguments, said.append) == arguments and not said


def test_a_file_of_settings_that_names_a_model_is_a_preset_of_its_own(tmp_path):
    whole = overlay(tmp_path, "backbone: {name: sd35_medium}\nsteps: 15\n")
    assert names_a_model(["--config", whole]) and names_a_model([f"--config={whole}"])
    config, rest = parse(with_preset(["--config", whole], print))
    assert (config.backbone.name, config.policy.width, rest.preset) == ("sd35_medium", 256, None)


def test_a_file_that_names_none_is_laid_over_tiny(tmp_path):
    part = overlay(tmp_path, "grpo: {lr: 0.5}\n")
    config, rest = parse(with_preset(["--config", part, "--iterations=10"], lambda text: None))
    assert (config.grpo.lr, config.iterations, config.policy.width) == (0.5, 10, 64)
    assert rest.preset == "tiny"


@pytest.mark.parametrize("text", ["backbone: [", "- 1\n", "backbone: 3\n", None])
def test_a_file_that_cannot_be_read_is_refused_where_settings_are_read(tmp_path, text, capsys):
    path = tmp_path / "wrong.yaml"
    if text is not None:
        path.write_text(text)
    said = []
    arguments = with_preset(["--config", str(path)], said.append)
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2 and not said


def test_the_list_has_one_good_line_for_every_preset():
    lines = preset_list().splitlines()
    bases = [
        p
        for p in PRESETS.glob("*.yaml")
        if "name" in yaml.safe_load(p.read_text()).get("backbone", {})
    ]
    assert [line.split()[0] for line in lines] == sorted(p.stem for p in bases)
    told = [line.split(maxsplit=1)[1] for line in lines]
    assert len(set(told)) == len(told)
    for line in told:
        assert 40 < len(line) <= 98 and line[0].isupper() and line.endswith(".")
        assert "yaml" not in line and "#" not in line


def test_no_arguments_train_the_embedded_model(tmp_path, warm):
    """As a user's own process, in an empty folder; then once more, and resumed without --out."""
    own = [*SMALL, "--iterations=1", "--log.checkpoint_every=1", "--grpo.lr=1e-3"]
    train = [sys.executable, str(ROOT / "training" / "train_tpm.py")]

    first = subprocess.run([*train, *own], capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    lines = first.stderr.splitlines()
    assert lines[0] == "Presets:" and "\n".join(lines[1:7]) == preset_list()
    assert lines[7] == choice.TAKEN and lines[8] == "starting; 0:00:00 so far"
    assert "Traceback" not in first.stderr
    assert (tmp_path / "runs" / "tiny" / "tpm_last.safetensors").exists()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again = warm.start("grpo.command", own, cwd=tmp_path)
    assert again.wait() == 1
    refusal = again.text().splitlines()[-1]
    assert "runs/tiny holds a run" in refusal
    go_on = refusal.rpartition(": ")[2]
    assert go_on == "python training/train_tpm.py --resume --out runs/tiny"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    resumed = warm.start("grpo.command", ["--resume"], cwd=tmp_path)  # without --out
    assert resumed.wait() == 0, resumed.text()
    assert "Presets" not in resumed.text()


def test_no_arguments_evaluate_the_embedded_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = ["--data.evaluation_prompts=2", "--fixed=0.5"]
    assert evaluate_command.main([*SMALL, *more]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"Presets:\n{preset_list()}\n{choice.TAKEN}\n")
    assert "No --tpm or --schedule was given" in told.err
    assert (tmp_path / "runs" / "evaluation_tiny" / "table.md").exists()
    assert "Wrote table.md" in told.out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "evaluate.py --suite asyndm --help"),
        (["--suite", "asyndm", "--help"], 0, "--asyndm ASYNDM"),
        (["--suite=asyndm", "--help"], 0, "between\nasterisks: a *cat* beside a *dog*"),
        (["--suite", "other"], 2, "choose from 'asyndm'"),
    ],
)
def test_evaluate_names_the_suite_and_hands_over_to_it(tmp_path, arguments, code, said):
    command = [sys.executable, ROOT / "training" / "evaluate.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
