"""A run folder that was damaged or touched: said in a sentence, and nothing in it is lost."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from small_run import SMALL, contents, resume, resumed

from async_timestep.training.grpo import command as train_command
from async_timestep.training.run.content import CONTENT, content_sha256, is_whole
from async_timestep.training.run.folder import RunFolder, RunFolderError
from async_timestep.training.run.settings import parse


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
