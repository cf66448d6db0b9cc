"""A run goes on where its files have moved, and not where they have changed."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from async_timestep.training.data import identity
from async_timestep.training.data.identity import difference, fingerprint, identities, place
from async_timestep.training.grpo.resume import refuse_other
from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import train
from async_timestep.training.run.config import Config, as_used
from async_timestep.training.run.distributed import World
from async_timestep.training.run.folder import RunFolder, RunFolderError
from async_timestep.training.run.settings import binding, config_sha256, parse, place_names
from async_timestep.training.tiny.backbone import WEIGHTS

SMALL = [
    "--preset=tiny", "--backbone.precision=fp32",
    "--policy.width=16", "--policy.heads=2", "--policy.layers=1",
    "--grpo.num_generations=4", "--grpo.minibatch_size=2", "--grpo.prompts_per_iteration=1",
    "--steps=2", "--iterations=4",
    "--data.validation_prompts=2", "--log.validate_every=2", "--log.checkpoint_every=1",
    "--log.samples_every=0", "--log.best=false", "--rewards.batch=4", "--threads=1",
]  # fmt: skip


class Cut(Exception):
    pass


def run(out: Path, *more: str, resume: bool = False, cut: int = 0) -> None:
    config = parse([*SMALL, *more])[0]
    folder = RunFolder(out, config.log.keep)
    folder.create(resume)

    def log(kind: str, record: dict) -> None:
        if kind == "checkpoint" and record["iteration"] == cut:
            raise Cut

    train(load_training(config, World()), folder, resume, log)


def left(out: Path) -> list:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    files = [(out / f"{name}.safetensors").read_bytes() for name in ("tpm", "tpm_last")]
    return [lines, files, (out / "validation.jsonl").read_bytes()]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """straight: a whole run; cut: one that ended after its second checkpoint; a/: the weights, b/:
    where they are moved to."""
    folder = tmp_path_factory.mktemp("moved")
    for name in ("a", "b"):
        shutil.copytree(WEIGHTS, folder / name)
    words = [
        f"a red circle above a {c} star on a dark plain background"
        for c in ("blue", "cyan", "green", "yellow")
    ]
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("\n".join(words))
    run(folder / "straight", *at(folder, "a"))
    with pytest.raises(Cut):
        run(folder / "cut", *at(folder, "a"), cut=2)
    return folder


def at(folder: Path, name: str) -> list[str]:
    return [
        f"--backbone.path={folder / name}",
        "--data.set=file",
        f"--data.train={folder / name}.txt",
    ]


def test_moved_weights_and_prompts_resume_to_the_bit(begun, tmp_path):
    shutil.copytree(begun / "cut", tmp_path / "r")
    shutil.move(begun / "a", begun / "elsewhere")
    try:
        run(tmp_path / "r", *at(begun, "b"), resume=True)
    finally:
        shutil.move(begun / "elsewhere", begun / "a")
    assert left(tmp_path / "r") == left(begun / "straight")


def test_the_embedded_weights_are_known_in_a_folder(begun):
    here = identities(parse(SMALL)[0])
    there = identities(parse([*SMALL, f"--backbone.path={begun / 'b'}"])[0])
    assert here == there and len(here["backbone.path"]["files"]) == 3


@pytest.mark.parametrize("file", ["transformer", "vae"])
def test_one_other_weight_is_refused_by_its_file(begun, tmp_path, file):
    shutil.copytree(begun / "cut", tmp_path / "r")
    shutil.copytree(begun / "b", tmp_path / "weights")
    path = tmp_path / "weights" / f"{file}.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors.values())).flatten()
    first[0] = torch.nextafter(first[0].float(), torch.tensor(9.0)).to(first.dtype) + 2**-6
    save_file(tensors, path)
    more = ["--data.set=file", f"--data.train={begun / 'b.txt'}"]
    with pytest.raises(
        RunFolderError, match=rf"backbone.path .*whose {file}.safetensors"
    ) as caught:
        run(tmp_path / "r", f"--backbone.path={tmp_path / 'weights'}", *more, resume=True)
    assert "\n" not in str(caught.value)
    before = RunFolder(begun / "cut").load()
    after = RunFolder(tmp_path / "r").load()
    assert before["iteration"] == after["iteration"] == 2


def test_the_same_place_with_other_weights_is_refused_too(begun, tmp_path):
    now = identities(parse([*SMALL, f"--backbone.path={begun / 'a'}"])[0])
    before = copy.deepcopy(now)
    before["backbone.path"]["files"]["text.safetensors"] = "0" * 64
    assert difference(before["backbone.path"], now["backbone.path"]) == (
        "whose text.safetensors has another content"
    )


class Held:
    """What refuse_other looks at."""

    def __init__(self, config: Config, places: dict):
        self.config, self.places = as_used(config), places
        self.prompts = self.validation = self
        self.sha256 = "p"


def old_state(config: Config, **changed) -> dict:
    """A checkpoint of the trainer before places and ranges: names alone, as they were written."""
    settings = {**binding(config), **place_names(config), "data.folder": "data"}
    settings |= {"rewards.weights": {"scene": 1, "noise": 0}, "policy.omega_range": [0.5, 1.5]}
    settings |= {"data.train": "", "data.validation": "", **changed}
    return {"settings": settings, "prompts_sha256": "p", "validation_sha256": "p"}


def test_an_old_checkpoint_still_resumes_by_its_names(begun):
    config = parse([*SMALL, f"--backbone.path={begun / 'a'}"])[0]
    parts = Held(config, identities(config))
    refuse_other(old_state(config), parts)
    refuse_other(old_state(config, steps=[2]), parts)
    refuse_other(old_state(config, **{"data.folder": "was/elsewhere"}), parts)
    with pytest.raises(RunFolderError, match="backbone.path is .* had 'other'"):
        refuse_other(old_state(config, **{"backbone.path": "other"}), parts)
    with pytest.raises(RunFolderError, match="grpo.epsilon is 0.2.*had 0.3"):
        refuse_other(old_state(config, **{"grpo.epsilon": 0.3}), parts)


def test_a_noise_of_weight_zero_may_be_written_or_not():
    plain = parse([*SMALL, "--rewards.weights={scene: 1.0}"])[0]
    written = parse([*SMALL, "--rewards.weights={noise: 0, scene: 1}"])[0]
    negative = parse([*SMALL, "--rewards.weights={noise: -1, scene: 1}"])[0]
    assert config_sha256(plain) == config_sha256(written) == config_sha256(as_used(plain))
    assert config_sha256(negative) != config_sha256(plain)
    listed = parse([*SMALL, "--steps=[2]", "--rewards.weights={scene: 1.0}"])[0]
    assert config_sha256(listed) == config_sha256(plain)
    whole = parse([*SMALL, "--rewards.weights={scene: 1.0}", "--backbone.guidance=3"])[0]
    assert config_sha256(whole) == config_sha256(plain)
    in_code = Config(**{**vars(plain)})
    in_code.policy.omega_range = [0.5, 1.5]
    assert config_sha256(in_code) == config_sha256(plain)


def test_the_hash_knows_hub_ids_and_no_local_place(begun):
    base = parse(SMALL)[0]
    moved = parse([*SMALL, f"--backbone.path={begun / 'b'}"])[0]
    other = parse([*SMALL, "--rewards.clip_model=openai/clip-vit-base-patch32"])[0]
    assert config_sha256(base) == config_sha256(moved) != config_sha256(other)


# --- other places


def write_pipeline(folder: Path, value: float) -> Path:
    """A folder in diffusers layout."""
    (folder / "transformer").mkdir(parents=True)
    (folder / "tokenizer").mkdir()
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "transformer": ["d", "T"], "tokenizer": ["t", "C"]})
    )
    (folder / "transformer" / "config.json").write_text('{"layers": 2, "_name_or_path": "x"}')
    save_file({"w": torch.full((4,), value)}, folder / "transformer" / "model.safetensors")
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 1}')
    return folder


def test_a_pipeline_is_its_parts(tmp_path):
    one = place(str(write_pipeline(tmp_path / "one", 1.0)))
    names = {"transformer/config.json", "transformer/model.safetensors", "tokenizer/vocab.json"}
    assert set(one["files"]) == {"model_index.json", *names}
    two = write_pipeline(tmp_path / "two", 1.0)
    # what another program left there, and what another version wrote
    (two / "sd35.safetensors").write_bytes(b"single file")
    (two / "transformer" / "model.fp16.safetensors").write_bytes(b"variant")
    (two / "transformer" / "pytorch_model.bin").write_bytes(b"not read")
    (two / "transformer" / "config.json").write_text('{ "_name_or_path": "y", "layers": 2 }')
    (two / "README.md").write_text("card")
    assert difference(one, place(str(two))) == ""
    three = place(str(write_pipeline(tmp_path / "three", 2.0)))
    assert difference(one, three) == "whose transformer/model.safetensors has another content"
    (two / "tokenizer" / "vocab.json").unlink()
    assert difference(one, place(str(two))) == "which lacks tokenizer/vocab.json"
    assert "that was not there" in difference(place(str(two)), one)


def test_a_hub_id_is_itself_and_is_compared_where_its_files_are_here(tmp_path, monkeypatch):
    snapshot = write_pipeline(tmp_path / "snapshot", 1.0)
    copied = str(write_pipeline(tmp_path / "copy", 1.0))
    monkeypatch.setattr(identity, "cached", lambda repository, names: None)
    absent = place("someone/model")
    assert difference(absent, place("someone/model")) == ""
    assert "cannot be compared with someone/model" in difference(absent, place(copied))
    monkeypatch.setattr(identity, "cached", lambda repository, names: snapshot)
    assert difference(place("someone/model"), place(copied)) == ""
    assert place("someone/model")["hub"] == "someone/model" and not place(copied)["hub"]


def test_a_large_file_is_known_by_its_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "WHOLE_FILE", 1000)
    monkeypatch.setattr(identity, "BLOCK", 16)
    data = bytes(range(256)) * 8  # 2,048 bytes, of which 64 blocks of 16 are half
    path = tmp_path / "w.bin"

    def of(changed: bytes) -> str:
        path.write_bytes(changed)
        return fingerprint(path)

    own = of(data)
    assert own == of(data) != of(data + b"x")  # size
    for at_byte in (0, 15, 2047, 2033):  # the first and the last block
        assert own != of(data[:at_byte] + b"\xff\xfe"[at_byte % 2 :][:1] + data[at_byte + 1 :])
    assert own != of(bytes(255 - b for b in data))
    monkeypatch.setattr(identity, "WHOLE_FILE", 10_000)
    whole = of(data)
    assert all(whole != of(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]) for i in range(2048))


def test_what_is_not_scored_with_need_not_be_there(tmp_path):
    config = parse([*SMALL, f"--rewards.hps_path={tmp_path / 'gone.pt'}"])[0]
    assert set(identities(config)) == {"backbone.path"}
    file = tmp_path / "hps.pt"
    file.write_bytes(b"weights")
    config.rewards.weights, config.rewards.hps_path = {"hps": 1.0}, str(file)
    config.rewards.hps_tokenizer = str(tmp_path)
    found = identities(config)
    assert list(found["rewards.hps_path"]["files"]) == ["HPS_v2_compressed.pt"]
    moved = file.rename(tmp_path / "other_name.pt")
    config.rewards.hps_path = str(moved)
    assert identities(config)["rewards.hps_path"] == found["rewards.hps_path"]


# --- nobody's settings are changed


@pytest.mark.parametrize("what", ["build", "dry_run", "evaluate"])
def test_the_caller_s_config_stays(what, capsys):
    from rich.progress import Progress

    from async_timestep.training.evaluation.paired import load_measurement
    from async_timestep.training.grpo.dry_run import dry_run

    config = parse([*SMALL, "--rewards.weights={scene: 1.0}"])[0]
    config.rewards.weights = {"scene": 1.0}  # without noise, which a run adds
    before = copy.deepcopy(config)
    if what == "build":
        assert "noise" in load_training(config, World()).config.rewards.weights
    elif what == "dry_run":
        dry_run(load_training(config, World()), 1.0)
    else:
        config.data.evaluation_prompts = before.data.evaluation_prompts = 2
        assert "noise" in load_measurement(config, 0, Progress(disable=True)).config.rewards.weights
    assert config == before
