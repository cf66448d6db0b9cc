"""A run folder that was damaged or touched: said in a sentence, and nothing in it is lost."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from small_model import small_model

from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.training.grpo import command as train_command
from async_timestep.training.run.content import CONTENT, content_sha256, is_whole
from async_timestep.training.run.folder import RunFolder, RunFolderError
from async_timestep.training.run.lock import is_at
from async_timestep.training.run.settings import parse

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "--backbone.path", small_model(),
    "--preset=tiny", "--backbone.precision=fp32", "--grpo.lr=1e-3", "--grpo.num_generations=4",
    "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=1", "--steps=2",
    "--data.validation_prompts=4",
    "--log.samples_every=0", "--log.samples=0", "--log.best=false", "--log.checkpoint_every=1",
    "--threads=1", "--iterations=3", "--grpo.lr_schedule=constant",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of three iterations with two checkpoints."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train_command.main([*SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(out: Path, capsys, *more: str) -> tuple[int, str]:
    """(exit code, the last line on stderr)."""
    code, text = resumed(out, capsys, *more)
    return code, text.strip().splitlines()[-1]


def resumed(out: Path, capsys, *more: str) -> tuple[int, str]:
    """(exit code, all of stderr)."""
    capsys.readouterr()
    try:
        code = train_command.main(["--resume", "--out", str(out), *more])
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().err


def places_of_tensors(path: Path) -> list[tuple[int, int]]:
    """(start, length) in the file of every tensor's values."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if "/data/" in entry.filename and entry.file_size:
                with open(path, "rb") as file:
                    file.seek(entry.header_offset + 26)
                    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                found.append((entry.header_offset + 30 + name + extra, entry.file_size))
    return found


# --- checkpoints


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_flipped_bit_is_found_and_the_newest_whole_checkpoint_named(run, share):
    path = run / "checkpoints" / "000003.pt"
    places = places_of_tensors(path)
    start, length = places[round(share * (len(places) - 1))]
    data = bytearray(path.read_bytes())
    data[start + length // 2] ^= 4
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["iteration"] == 3, "torch itself does not mind"
    with pytest.raises(RunFolderError, match="000003.pt is damaged.*000002.pt is whole"):
        RunFolder(run).load()


def test_a_refused_run_is_left_as_it_was_and_goes_on_as_the_sentence_says(run, capsys):
    path = run / "checkpoints" / "000003.pt"
    path.write_bytes(path.read_bytes()[:500])
    before = contents(run)
    code, sentence = resume(run, capsys)
    assert code == 1 and "000003.pt cannot be read" in sentence and "000002.pt is whole" in sentence
    assert before == contents(run)
    (run / "checkpoints" / "latest").write_text("000002.pt")
    assert resume(run, capsys)[0] == 0


@pytest.mark.parametrize("name", ["../config.yaml", "/etc/hostname", "", "a\0b", "3.pt"])
def test_only_a_checkpoint_is_opened_as_one(run, capsys, name):
    (run / "checkpoints" / "latest").write_text(name)
    code, sentence = resume(run, capsys)
    assert code == 1 and f"latest says {name!r}" in sentence and "000003.pt is whole" in sentence


OLDER = {
    "module": "lacks module",
    "optimizer": "lacks optimizer",
    "seconds": "has seconds None",
    "prompts_sha256": "lacks prompts_sha256",
}


@pytest.mark.parametrize("gone", OLDER)
def test_a_checkpoint_of_another_version_is_one_sentence(run, capsys, gone):
    """Without a hash, as an older trainer wrote them."""
    path = run / "checkpoints" / "000003.pt"
    state = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in state.items() if k not in (gone, CONTENT)}, path)
    code, sentence = resume(run, capsys, "--iterations", "4")
    assert code == 1 and OLDER[gone] in sentence and "000002.pt is whole" in sentence


def test_a_checkpoint_without_the_optimizers_state_is_refused(run, capsys):
    path = run / "checkpoints" / "000003.pt"
    state = torch.load(path, weights_only=True)
    state["optimizer"]["state"] = {}
    torch.save({k: v for k, v in state.items() if k != CONTENT}, path)
    code, sentence = resume(run, capsys, "--iterations", "4")
    assert code == 1 and "an optimizer without its state" in sentence


@pytest.mark.parametrize("gone", ["optimizer", "module", "best", "iteration"])
def test_a_checkpoint_that_lacks_something_is_refused(run, gone):
    path = run / "checkpoints" / "000003.pt"
    state = torch.load(path, weights_only=True)
    del state[gone]
    torch.save(state, path)
    with pytest.raises(RunFolderError, match="000003.pt .*000002.pt is whole"):
        RunFolder(run).load()


def test_where_no_checkpoint_is_whole_nothing_is_promised(run):
    for path in (run / "checkpoints").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RunFolderError, match="no other one is whole.*another --out"):
        RunFolder(run).load()


def test_a_checkpoint_of_an_older_trainer_has_no_hash(tmp_path):
    state = {"iteration": 1, "value": torch.rand(3)}
    assert is_whole(state) and is_whole({**state, CONTENT: content_sha256(state)})
    folder = RunFolder(tmp_path)
    folder.create(False)
    torch.save(state, folder.checkpoints / "000001.pt")
    assert torch.equal(folder.load()["value"], state["value"])


def test_the_hash_is_of_names_types_shapes_and_values():
    state = {"a": torch.zeros(2, 3), "b": [1, 2.5, None, True, "x"], "c": {"d": torch.ones(())}}
    others = [
        {**state, "a": torch.zeros(3, 2)},
        {**state, "a": torch.zeros(2, 3, dtype=torch.float64)},
        {**state, "b": [1, 2.5, None, 1, "x"]},
        {**state, "b": [1, 2.5, None, True]},
        {**state, "c": {"e": torch.ones(())}},
        {**state, "c": {}},
        {**state, "e": 1},
        {**state, "a": torch.zeros(2, 3, dtype=torch.bfloat16)},
    ]
    hashes = [content_sha256(s) for s in (state, *others)]
    assert len(set(hashes)) == len(hashes)
    copy = {"a": torch.zeros(3, 2).T, "b": list(state["b"]), "c": {"d": torch.ones(())}}
    assert content_sha256(copy) == hashes[0]


# --- records


NO_RECORDS = ("", "{", "[1]", '{"kl": 1}', '{"iteration": "2"}', '{"iteration": true}', "\ufffd")


@pytest.mark.parametrize("line", [*NO_RECORDS, '{"iteration": 1e400}', '{"iteration": -1}'])
def test_a_broken_line_costs_no_other_line(run, line):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    touched = path.read_bytes()
    said = RunFolder(run).truncate("metrics.jsonl", 3)
    assert path.read_text().splitlines() == lines
    assert (run / "metrics.jsonl.damaged_1").read_bytes() == touched
    assert said.startswith("1 of 4 lines of ") and "metrics.jsonl.damaged_1" in said
    assert RunFolder(run).truncate("metrics.jsonl", 3) == ""  # mended: nothing is set aside
    assert not (run / "metrics.jsonl.damaged_2").exists()


def test_what_could_not_be_read_is_said_where_the_run_goes_on(run, capsys):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    code, text = resumed(run, capsys, "--iterations", "4")
    assert code == 0 and "metrics.jsonl.damaged_1" in text
    assert path.read_text().splitlines()[:-1] == lines


def test_a_whole_line_at_the_end_may_lack_its_line_end(run):
    """As some editors save a file."""
    path = run / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text.removesuffix("\n"))
    assert RunFolder(run).truncate("metrics.jsonl", 3) == "" and path.read_text() == text


VALIDATIONS = [
    '{"iteration": 2}', '{"iteration": 2, "metrics": 3, "mean_deviation": 0.1}',
    '{"iteration": 2, "metrics": {"scene": null}, "mean_deviation": 0.1}',
    '{"iteration": 2, "metrics": {"scene": {"mean": NaN, "difference": 0, "error": 0}}, '
    '"mean_deviation": 0.1}',
]  # fmt: skip


@pytest.mark.parametrize("line", VALIDATIONS)
def test_a_validation_that_lacks_what_the_table_needs_is_none(run, capsys, line):
    path = run / "validation.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *rest]) + "\n")
    touched = path.read_bytes()
    code, text = resumed(run, capsys, "--iterations", "4")
    assert code == 0 and "1 of 3 lines of " in text
    assert (run / "validation.jsonl.damaged_1").read_bytes() == touched
    assert path.read_text().splitlines()[:2] == [first, *rest]


def test_a_metric_that_one_validation_lacks_leaves_its_cell_empty(run, capsys):
    path = run / "validation.jsonl"
    path.write_text(path.read_text().replace('"scene"', '"scent"', 1))
    assert resume(run, capsys, "--iterations", "4")[0] == 0
    rows = [line for line in (run / "README.md").read_text().splitlines() if line[:2] == "| "]
    assert rows[0] == "| iteration | scent | noise | scene | mean D |"


def test_what_is_no_line_of_ours_at_the_end_is_not_thrown_away(run):
    path = run / "metrics.jsonl"
    text = path.read_text() + "my own note, without a line end"
    path.write_text(text)
    assert "metrics.jsonl.damaged_1" in RunFolder(run).truncate("metrics.jsonl", 3)
    assert (run / "metrics.jsonl.damaged_1").read_text() == text


def test_what_a_run_goes_back_behind_is_kept(run, capsys):
    """The validation at its first end is none of a run that goes on from an earlier checkpoint."""
    (run / "checkpoints" / "latest").write_text("000002.pt")
    before = contents(run)
    code, text = resumed(run, capsys, "--iterations", "4")
    assert code == 0 and "1 of 2 lines of " in text
    assert (run / "validation.jsonl.before_1").read_bytes() == before["validation.jsonl"]
    assert not (run / "metrics.jsonl.before_1").exists()  # iteration 3 is made again
    made = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in made] == [1, 2, 3, 4]


def test_half_a_line_at_the_end_is_what_a_kill_leaves(run, capsys):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines) + '\n{"iteration": 4, "k')
    code, text = resumed(run, capsys, "--iterations", "4")
    assert code == 0 and path.read_text().splitlines()[:-1] == lines
    assert "cannot be read" not in text and not list(run.glob("*.damaged_*"))


# --- settings


@pytest.mark.parametrize("name", ["a[1]", "a*b", "~x", "with blank", "ü"])
def test_a_run_brings_its_own_settings_whatever_it_is_called(finished, tmp_path, name):
    out = Path(shutil.copytree(finished, tmp_path / name))
    base = train_command.settings_of_run(["--resume", "--out", str(out)])
    config = parse(["--resume"], more=train_command.options, base=base)[0]
    assert config.iterations == 3 and config.grpo.num_generations == 4 and config.grpo.lr == 1e-3


@pytest.mark.parametrize("damage", ["gone", "a folder", "empty"])
def test_without_its_settings_a_run_is_not_gone_on_with(run, capsys, damage):
    """A default preset would take their place, with other rewards and files."""
    (run / "config.yaml").unlink()
    if damage == "a folder":
        (run / "config.yaml").mkdir()
    elif damage == "empty":
        (run / "config.yaml").write_text("")
    code, sentence = resume(run, capsys)
    assert code == 2 and "config.yaml" in sentence and "settings" in sentence
    if damage == "gone":
        assert resume(run, capsys, *SMALL)[0] == 0  # given as they were


# --- after the end


def contents(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}


@pytest.mark.parametrize("more", [(), ("--iterations", "2"), ("--threads", "1")])
def test_a_finished_run_is_left_alone(run, capsys, more):
    (run / "README.md").write_text("edited by hand")
    (run / "tpm.safetensors").unlink()  # as where nothing was better than D = 0
    before = contents(run)
    code, sentence = resume(run, capsys, *more)
    assert code == 0 and sentence.startswith(f"Nothing is left to do in {run}")
    assert contents(run) == before


def test_what_a_kill_at_the_very_end_left_out_is_written(run, capsys):
    wanted = contents(run)
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        (run / name).unlink()
    assert resume(run, capsys)[0] == 0
    found = contents(run)
    assert found.keys() == wanted.keys()
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        assert found[name] == wanted[name]


def test_a_finished_run_goes_on_with_more_iterations(run, tmp_path, capsys):
    """To the bits of a run that was longer from the start; what the first end wrote is kept."""
    (run / "README.md").write_text("edited by hand")
    before = contents(run)
    code, text = resumed(run, capsys, "--iterations", "5")
    assert code == 0 and "config.yaml.before_1" in text
    assert parse(["--config", str(run / "config.yaml")])[0].iterations == 5
    aside = run / "result_000003"
    for name in ("README.md", "tpm.safetensors", "tpm_last.safetensors"):
        assert (aside / name).read_bytes() == before[name]
    assert (run / "config.yaml.before_1").read_bytes() == before["config.yaml"]
    assert (run / "metrics.jsonl").read_bytes().startswith(before["metrics.jsonl"])
    straight = tmp_path / "straight"
    assert train_command.main([*SMALL, "--iterations", "5", "--out", str(straight)]) == 0
    weights = [load_tpm(out / "tpm_last.safetensors")[0].state_dict() for out in (run, straight)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert load_tpm(run / "tpm_last.safetensors")[1].iterations == 5
    assert resume(run, capsys)[1].startswith("Nothing is left to do")  # config.yaml knows


def test_the_printed_command_goes_on_whatever_the_folder_is_called(tmp_path, capsys):
    """A shell reads it as it is printed; the hours count in all, so it takes the limit off."""
    out = tmp_path / "br[ab] it's"
    assert train_command.main([*SMALL, "--max_hours", "1e-9", "--out", str(out)]) == 0
    printed = capsys.readouterr().err.strip().splitlines()[-1].partition("go on with: ")[2]
    words = shlex.split(printed)
    assert words[:2] == ["python", "training/train_tpm.py"] and words[-1] == str(out)
    assert train_command.main(words[2:]) == 0
    assert load_tpm(out / "tpm_last.safetensors")[1].iterations == 3


def linear(out: Path, *more: str) -> int:
    small = [word for word in SMALL if "lr_schedule" not in word]
    return train_command.main([*small, "--grpo.lr_schedule=linear", "--out", str(out), *more])


def test_where_the_rate_has_fallen_to_0_a_new_run_begins_from_the_tpm(tmp_path, capsys):
    out, new = tmp_path / "br[ab] 'n'", tmp_path / "new"
    assert linear(out, "--iterations", "2") == 0
    code, sentence = resume(out, capsys, "--iterations", "4")
    assert code == 1 and "iterations is 4" in sentence and "had 2" in sentence
    assert "--init" in sentence
    how = resume(out, capsys)[1]
    file = shlex.split(how.removesuffix("."))[-1]
    assert how.startswith("Nothing is left") and file == str(out / "tpm_last.safetensors")
    assert linear(new, "--iterations", "2", "--init", file) == 0
    settings = (new / "config.yaml").read_text()
    assert settings.startswith("# begun from ") and parse(["--config", str(new / "config.yaml")])
    first = json.loads((new / "validation.jsonl").read_text().splitlines()[0])
    last = json.loads((out / "validation.jsonl").read_text().splitlines()[-1])
    assert first["iteration"] == 0 and first["metrics"] == last["metrics"]


WRONG_INIT = {
    "none.safetensors was not found": ["--init", "none.safetensors"],
    "has width 64 and policy.width is 32": ["--policy.width=32"],
    "has deviation_bound 0.5 and policy.deviation_bound is 1.0": ["--policy.deviation_bound=1.0"],
    "has actions 'deviation' and policy.actions is 'both'": ["--policy.actions=both", "--steps=3"],
    "--init and --resume were both given": ["--resume"],
}


@pytest.mark.parametrize("sentence", WRONG_INIT)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_a_tpm_that_a_run_cannot_begin_from(finished, tmp_path, capsys, sentence, dry):
    own = ["--init", str(finished / "tpm_last.safetensors"), "--policy.deviation_bound=0.5"]
    capsys.readouterr()
    assert linear(tmp_path / "other", *own, *WRONG_INIT[sentence], *dry) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence in said and said.endswith(".")
    assert not (tmp_path / "other").exists()


# --- two at once


def test_two_trainers_do_not_share_a_folder(run, capsys):
    with RunFolder(run).only_here():
        code, sentence = resume(run, capsys, "--iterations", "4")
        assert code == 1 and f"{run} is in use: process " in sentence
    assert resume(run, capsys, "--iterations", "4")[0] == 0
    assert not (run / ".lock").exists()


def test_a_killed_trainer_leaves_no_lock_behind(run, capsys):
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT / 'training')!r})\n"
        "from async_timestep.training.run.lock import locked\n"
        "from pathlib import Path\n"
        "with locked(Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    lock = run / ".lock"
    other = subprocess.Popen(
        [sys.executable, "-c", code, lock],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "True\n"
    with (
        pytest.raises(RunFolderError, match=f"process {other.pid} on "),
        RunFolder(run).only_here(),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert lock.exists()
    assert resume(run, capsys, "--iterations", "4")[0] == 0 and not lock.exists()


def test_a_lock_that_was_removed_is_none(tmp_path):
    """Whoever opened it before its holder removed it has a file that nobody else finds."""
    path = tmp_path / ".lock"
    with open(path, "a+") as removed:
        assert is_at(path, removed.fileno())
        path.unlink()
        assert not is_at(path, removed.fileno())
        path.touch()
        assert not is_at(path, removed.fileno())


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunFolderError, match=r"\.lock could not be written"):
        with RunFolder(tmp_path).only_here():
            pass


def test_a_start_beside_a_start_moves_nothing_aside(tmp_path, capsys):
    """The first has no checkpoint yet, so its files look like those of an aborted start."""
    out = tmp_path / "run"
    with RunFolder(out).only_here():
        RunFolder(out).create(False)
        (out / "config.yaml").write_text("of the first\n")
        capsys.readouterr()
        assert train_command.main([*SMALL, "--out", str(out)]) == 1
        assert "is in use" in capsys.readouterr().err
        assert (out / "config.yaml").read_text() == "of the first\n"

    assert not list(out.glob("aborted_*"))
