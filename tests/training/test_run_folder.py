"""No start of a run is a dead end: nothing is made before the inputs are known to be good, a folder
without a checkpoint can be started again, and nothing that a user made is lost."""

from __future__ import annotations

import errno
import importlib.util
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from small_model import small_model

from async_timestep.training.grpo import command as train_command
from async_timestep.training.run import folder as run_folder
from async_timestep.training.run.folder import RunFolder, RunFolderError, check_place, write_atomic

SMALL = [
    "--backbone.path", small_model(),
    "--preset=tiny", "--backbone.precision=fp32", "--grpo.lr=1e-3", "--grpo.num_generations=4",
    "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=1", "--steps=2",
    "--data.validation_prompts=4",
    "--log.samples_every=1", "--log.samples=1", "--log.best=false", "--threads=1", "--iterations=1",
]  # fmt: skip


def start(out: Path, *more: str) -> int:
    return train_command.main([*SMALL, "--out", str(out), *more])


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def aborted(out: Path, *names: str) -> None:
    """A folder as a start leaves it that ended before its first checkpoint."""
    for folder in ("checkpoints", "samples"):
        (out / folder).mkdir(parents=True)
    for name in names:
        (out / name).write_text(f"{name} of the first start")


STARTED = ("config.yaml", "prompts.txt", "metrics.jsonl", "validation.jsonl", "samples/000001.png")


# --- nothing is made before the inputs are good

WRONG = [
    (["--backbone.path=/none"], "/none"),
    (["--data.set=file", "--data.train=/none.txt"], "/none.txt"),
    (["--rewards.weights.image_reward=1", "--rewards.image_reward_path=/none.pt"], "/none.pt"),
    (["--rewards.weights.nonsense=1"], "nonsense"),
    (["--rewards.backend=packages", "--rewards.weights.hps=1", "--rewards.address=/none"], "/none"),
]
if importlib.util.find_spec("tensorboard") is None:
    WRONG.append((["--log.tensorboard=true"], "tensorboard"))


@pytest.mark.parametrize("wrong, word", WRONG, ids=[word for _, word in WRONG])
def test_a_start_that_fails_leaves_nothing(tmp_path, capsys, wrong, word):
    out = tmp_path / "deep" / "run"
    assert start(out, *wrong) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("train_tpm.py: ") and word in sentence
    assert not list(tmp_path.iterdir())


def test_after_a_typo_the_corrected_command_runs(tmp_path):
    out = tmp_path / "run"
    assert start(out, "--backbone.path=/none") == 1
    assert start(out) == 0
    assert (out / "checkpoints" / "latest").exists()


def test_a_check_makes_nothing(tmp_path):
    RunFolder(tmp_path / "a" / "b").check(resume=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", ["", "sub/run"])
def test_a_file_in_the_place_of_the_folder_is_refused_before_the_model_is_loaded(
    tmp_path, capsys, monkeypatch, below
):
    monkeypatch.setattr(
        "async_timestep.training.evaluation.paired.load_backbone", lambda *a: pytest.fail("loaded")
    )
    file = tmp_path / "mine"
    file.write_text("work")
    assert start(file / below) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "mine is a file" in sentence and "--out" in sentence
    assert file.read_text() == "work"


def test_a_folder_that_may_not_be_written_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.os, "access", lambda *a: False)  # root may write everywhere
    with pytest.raises(RunFolderError, match="nothing may be written into"):
        check_place(tmp_path / "new")


# --- a folder without a checkpoint


@pytest.mark.parametrize("left", [(), STARTED[:1], STARTED[:2], STARTED])
def test_an_aborted_start_can_be_started_again(tmp_path, left):
    """Also what an older trainer left that made its folders too early: they are empty."""
    aborted(tmp_path, *left)
    before = contents(tmp_path)
    assert start(tmp_path) == 0
    assert (tmp_path / "checkpoints" / "latest").exists()
    found = contents(tmp_path / "aborted_1") if left else {}
    assert found == before and (tmp_path / "aborted_1").exists() == bool(left)
    assert b"of the first start" not in b"".join(
        value for name, value in contents(tmp_path).items() if not name.startswith("aborted_")
    )


def test_a_second_aborted_start_is_put_beside_the_first(tmp_path):
    for number in (1, 2, 3):
        said = RunFolder(tmp_path).create(resume=False)
        assert said == "" if number == 1 else f"aborted_{number - 1}" in said
        (tmp_path / "config.yaml").write_text(str(number))
    assert (tmp_path / "aborted_1" / "config.yaml").read_text() == "1"
    assert (tmp_path / "aborted_2" / "config.yaml").read_text() == "2"


@pytest.mark.parametrize(
    "mine",
    ["notes.txt", "samples/best.png", "checkpoints/keep.bin", "tpm.safetensors", "README.md",
     "aborted_by_me", ".notes.tmp", "samples/more/000001.png"],
)  # fmt: skip
def test_a_folder_with_other_files_is_refused_and_kept(tmp_path, capsys, mine):
    aborted(tmp_path, *STARTED)
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).write_text("work")
    before = contents(tmp_path)
    for more in ([], ["--resume"]):
        assert start(tmp_path, *more) == 1
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert "--out" in sentence
        assert contents(tmp_path) == before
        if not more:
            top = mine if not mine.startswith("samples/more") else "samples/more"
            assert f"{top} is there" in sentence


def test_resume_without_a_checkpoint_names_a_command_that_works(tmp_path, capsys, monkeypatch):
    out = tmp_path / "my run"
    with monkeypatch.context() as full:
        full.setattr(run_folder.RunFolder, "save", no_room)
        assert start(out) == 1
    before = contents(out)
    assert {"config.yaml", "metrics.jsonl", "validation.jsonl"} <= before.keys()
    capsys.readouterr()
    assert train_command.main(["--resume", "--out", str(out)]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert contents(out) == before and "before its first checkpoint" in sentence
    words = shlex.split(sentence.rpartition("again: ")[2])
    assert words[:2] == ["python", "training/train_tpm.py"]
    assert train_command.main(words[2:]) == 0
    assert contents(out / "aborted_1") == before
    config = (out / "config.yaml").read_bytes()
    assert config == before["config.yaml"]  # the same settings


def no_room(self, state: dict) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["none", "empty"])
def test_resume_of_nothing_says_what_is_there(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    assert train_command.main(["--resume", "--out", str(tmp_path / name)]) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert {"none": "does not exist", "empty": "no checkpoint to resume from"}[name] in sentence
    assert "without --resume" in sentence and not list((tmp_path / "empty").iterdir())


# --- a full disk


def full_at(monkeypatch, ending: str) -> None:
    """The disk is full when a file of that name is to be moved to its place."""
    real = os.replace

    def replace(source, target) -> None:
        if str(target).endswith(ending):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize(
    "ending, resumed",
    [
        ("config.yaml", False),
        ("prompts.txt", False),
        ("000001.png", False),
        (".pt", False),
        ("latest", True),
        ("tpm_last.safetensors", True),
        ("tpm.safetensors", True),
        ("README.md", True),
    ],
)
def test_a_disk_that_is_full_at_any_file_is_no_dead_end(
    tmp_path, capsys, monkeypatch, ending, resumed
):
    """One sentence, whose advice works once there is room."""
    with monkeypatch.context() as full:
        full_at(full, ending)
        assert start(tmp_path) == 1
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "No space left" in sentence and ending in sentence
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]
    if resumed:
        assert "go on with --resume" in sentence
    else:
        assert "give the same command again" in sentence and "--resume" not in sentence
    assert start(tmp_path, *(["--resume"] if resumed else [])) == 0
    assert (tmp_path / "README.md").exists() and (tmp_path / "tpm_last.safetensors").exists()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1


def test_a_file_system_that_is_really_full(tmp_path, capsys):
    """64 kB hold the settings and the first lines, but no checkpoint."""
    out = tmp_path / "small"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(out)]
    try:
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("needs the right to mount a file system")
    except OSError:
        pytest.skip("needs a mount command")
    try:
        assert start(out, "--log.samples_every=0") == 1
        sentence = capsys.readouterr().err.splitlines()[-1]
        assert "No space left" in sentence and "give the same command again" in sentence
        assert (out / "config.yaml").exists() and not list((out / "checkpoints").iterdir())
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        assert start(out, "--log.samples_every=0") == 0
        assert (out / "tpm_last.safetensors").exists() and (out / "aborted_1").is_dir()
    finally:
        subprocess.run(["umount", str(out)], check=False)


def test_what_others_write_is_not_told_to_resume(tmp_path, monkeypatch):
    """Evaluations and benches write by the same function and know no --resume."""
    full_at(monkeypatch, "table.md")
    with pytest.raises(RunFolderError) as caught:
        write_atomic(tmp_path / "table.md", b"x")
    assert "give the same command again" in str(caught.value)
    assert "resume" not in str(caught.value) and "checkpoint" not in str(caught.value)


def test_only_the_trainer_s_own_temporary_files_are_cleared(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(False)
    folder.save({"iteration": 1})
    mine = [tmp_path / ".notes.tmp", tmp_path / "samples" / ".a.tmp", tmp_path / "sub" / ".1.2.tmp"]
    mine += [tmp_path / ".notes.txt.7.tmp", tmp_path / "samples" / ".cover.png.7.tmp"]
    own = [tmp_path / ".config.yaml.77.tmp", tmp_path / "checkpoints" / ".000002.pt.1234.tmp"]
    own += [tmp_path / ".metrics.jsonl.damaged_2.77.tmp", tmp_path / ".config.yaml.before_1.7.tmp"]
    (tmp_path / "sub").mkdir()
    for path in mine + own:
        path.write_text("x")
    folder.create(True)
    assert all(path.exists() for path in mine) and not any(path.exists() for path in own)
