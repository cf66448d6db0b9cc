"""The training run on the embedded model: resume to the bit, nothing lost, ranks, refusals."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_model import small_model
from two_ranks import on_two_ranks

from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.tpm.learned import grid_warning
from async_timestep.training.grpo.result import announcement
from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import steps_of, train
from async_timestep.training.grpo.update import TrainingStopped
from async_timestep.training.grpo.validation import Validation
from async_timestep.training.rewards import RewardSet
from async_timestep.training.run.distributed import World, gather, give_up, shard
from async_timestep.training.run.folder import RunFolder, RunFolderError
from async_timestep.training.run.settings import parse

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("kills", ROOT / "bench" / "kill_and_resume.py")
kills = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kills)
TRAIN = "grpo.command"
FAST = ("--backbone.precision=fp32", "--backbone.path", small_model())  # bf16 is slow on some


def settings(*more: str, iterations: int = 4):
    config, _ = parse([*kills.SMALL, *FAST, f"--iterations={iterations}", *more])
    return config


def run(out: Path, *more: str, iterations: int = 4, resume: bool = False):
    """A run in this process: (records by kind, the parts)."""
    config = settings(*more, iterations=iterations)
    folder, seen = RunFolder(out, config.log.keep), {}
    folder.create(resume)
    parts = load_training(config, World())
    if not resume:
        folder.text("config.yaml", "")
    train(parts, folder, resume, lambda kind, record: seen.setdefault(kind, []).append(record))
    return seen, parts


def same(a: Path, b: Path) -> None:
    """Everything that a run leaves is bit-identical, but for the seconds."""
    expected, found = kills.result(a), kills.result(b)
    for name in expected:
        assert found[name] == expected[name], name


def test_a_run_learns_something_and_its_file_loads(tmp_path):
    seen, parts = run(tmp_path / "r")
    assert [r["iteration"] for r in seen["iteration"]] == [1, 2, 3, 4]
    record = seen["iteration"][-1]
    assert record["grad_norm"] > 0 and record["optimizer_steps"] >= 1 and record["idle"] == ""
    assert {r["steps"] for r in seen["iteration"]} == {2, 3}  # K is drawn from the list
    first = seen["iteration"][0]  # the head starts at exactly 0, and has to leave it at once
    assert first["grad_norm"] > 1e-3 and first["change"] > 1e-5
    assert len(record["rewards"]["scene"][0]) == 4 and "noise" in record["rewards"]
    start = load_training(settings(), World()).module.state_dict()
    moved = [k for k, v in parts.module.state_dict().items() if not torch.equal(v, start[k])]
    assert len(moved) == len(start)
    module, meta = load_tpm(tmp_path / "r" / "tpm_last.safetensors")
    assert all(torch.equal(v, module.state_dict()[k]) for k, v in parts.module.state_dict().items())
    assert meta.model_family == "tiny" and meta.iterations == 4 and meta.rewards == ("scene",)
    assert len(meta.config_sha256) == 64 and meta.prompts_sha256 == parts.prompts.sha256
    assert meta.steps == 3 and len(meta.grids) == 2  # steps is [2, 3]
    for steps in (2, 3):
        assert grid_warning(meta, parts.backbone.sigmas(steps).tolist()) is None
    assert "2 steps" not in grid_warning(meta, parts.backbone.sigmas(4).tolist())[:40]
    assert (tmp_path / "r" / "README.md").read_text().count("tiny")


def test_a_run_that_cannot_learn_stops_and_says_why(tmp_path):
    few = ["--grpo.lr=1e-12", "--grpo.patience=2"]
    with pytest.raises(TrainingStopped, match="last 2 iterations changed nothing.*grpo.lr"):
        run(tmp_path / "r", *few, iterations=8)
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2
    # gone on with, it counts on from where it was
    with pytest.raises(TrainingStopped, match="last 5 iterations"):
        run(tmp_path / "r", few[0], "--grpo.patience=5", iterations=8, resume=True)
    assert (tmp_path / "r" / "checkpoints" / "latest").read_text() == "000005.pt"
    with pytest.raises(TrainingStopped, match="After 8 iterations the TPM is what it was"):
        run(tmp_path / "r", few[0], "--grpo.patience=0", iterations=8, resume=True)
    assert not list((tmp_path / "r").glob("*.safetensors"))


def test_rewards_that_tell_no_image_from_another_stop_the_run(tmp_path, monkeypatch):
    def equal(rewards, images, prompts):
        return {"scene": torch.ones(len(images)), "noise": torch.rand(len(images))}

    monkeypatch.setattr(RewardSet, "__call__", equal)
    with pytest.raises(TrainingStopped, match="2 iterations changed nothing.*the same reward"):
        run(tmp_path / "r", "--grpo.patience=2")


def test_a_start_that_no_validation_beats_is_no_result(tmp_path, monkeypatch):
    inner = Validation.run

    def worse_and_worse(self, world, module):
        scores.append(-float(len(scores)))
        return {**inner(self, world, module), "objective": scores[-1]}

    scores: list[float] = []
    monkeypatch.setattr(Validation, "run", worse_and_worse)
    out = tmp_path / "r"
    run(out)
    assert (out / "tpm_last.safetensors").exists() and not (out / "tpm.safetensors").exists()
    assert "no validation was better than D = 0" in announcement(out)
    monkeypatch.setattr(Validation, "run", inner)
    run(tmp_path / "last", "--log.best=false")
    assert announcement(tmp_path / "last").startswith("Done: ")


def test_resume_is_bit_identical(tmp_path):
    run(tmp_path / "straight", iterations=6)
    with pytest.raises(KeyError, match="cut"):
        interrupted(tmp_path / "cut", at=4)
    run(tmp_path / "cut", iterations=6, resume=True)
    same(tmp_path / "straight", tmp_path / "cut")


def interrupted(out: Path, at: int) -> None:
    """A run that ends in the middle of its loop, after the checkpoint of an iteration."""
    config = settings(iterations=6)
    folder = RunFolder(out, config.log.keep)
    folder.create(False)

    def log(kind: str, record: dict) -> None:
        if kind == "checkpoint" and record["iteration"] == at:
            raise KeyError("cut")

    train(load_training(config, World()), folder, False, log)


def test_killed_with_sigkill_and_resumed(tmp_path, warm):
    """The short form of bench/kill_and_resume.py."""
    warm.start(TRAIN, ["--help"]).wait()  # imports; the kills' moments go by how long a run takes
    assert kills.compare(
        2, 8, seed=1, folder=tmp_path, start=lambda words: warm.start(TRAIN, [*words, *FAST])
    )


def test_sigterm_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path, warm):
    out = tmp_path / "r"
    process = warm.start(TRAIN, [*kills.arguments(out, 500, resume=False), *FAST])
    while not (out / "checkpoints" / "latest").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text = process.communicate()[0].decode()
    assert process.returncode == 0, text
    assert "SIGTERM" in text and "--resume" in text
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["iteration"]
    assert (out / "checkpoints" / "latest").read_text() == f"{last:06d}.pt"


def test_max_hours_ends_with_a_checkpoint(tmp_path):
    run(tmp_path / "r", "--max_hours=1e-6")
    assert (tmp_path / "r" / "checkpoints" / "latest").read_text() == "000001.pt"
    assert not (tmp_path / "r" / "tpm.safetensors").exists()


def test_no_run_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("work")
    with pytest.raises(RunFolderError, match="not empty: mine.txt.*another --out"):
        RunFolder(tmp_path).create(resume=False)
    with pytest.raises(RunFolderError, match="no checkpoint"):
        RunFolder(tmp_path).create(resume=True)
    assert (tmp_path / "mine.txt").read_text() == "work"


def test_resume_refuses_other_settings_and_names_them(tmp_path):
    run(tmp_path / "r", iterations=2)
    with pytest.raises(RunFolderError, match=r"grpo\.epsilon is 0\.3.*had 0\.2"):
        run(tmp_path / "r", "--grpo.epsilon=0.3", iterations=2, resume=True)


def test_resume_refuses_other_prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    texts = [f"a red circle above a {c} star on a dark plain background" for c in ("blue", "cyan")]
    file.write_text("\n".join(texts * 1 + [t.replace("star", "square") for t in texts]))
    data = ["--data.set=file", f"--data.train={file}", "--data.validation_prompts=2"]
    run(tmp_path / "r", *data, iterations=1)
    original = file.read_text()
    for colour, kind in (("cyan", "validation"), ("blue", "training")):  # two are held out
        file.write_text(original.replace(colour, "green"))
        with pytest.raises(RunFolderError, match=f"{kind} prompts are not those"):
            run(tmp_path / "r", *data, iterations=1, resume=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(tmp_path):
    """The temporary file of the second checkpoint leads to a device that is always full."""
    folder = RunFolder(tmp_path)
    folder.create(False)
    folder.save({"iteration": 1, "value": torch.arange(3)})
    (folder.checkpoints / f".000002.pt.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(RunFolderError, match="No space left.*--resume") as caught:
        folder.save({"iteration": 2, "value": torch.zeros(100_000)})
    assert "\n" not in str(caught.value)
    assert folder.load()["value"].tolist() == [0, 1, 2]
    assert [p.name for p in folder.checkpoints.glob("*.pt")] == ["000001.pt"]


def test_a_broken_checkpoint_is_one_sentence(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create(False)
    path = folder.save({"iteration": 7, "value": torch.zeros(3)})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFolderError, match="000007.pt cannot be read"):
        folder.load()


def test_the_number_of_steps_is_drawn_evenly_and_by_its_address():
    config = settings("--steps=[4,6,10]")
    drawn = [steps_of(config, i) for i in range(600)]
    assert {k: drawn.count(k) for k in set(drawn)} == pytest.approx(
        {4: 200, 6: 200, 10: 200}, abs=50
    )
    assert drawn == [steps_of(config, i) for i in range(600)]


def test_shards_cover_every_image_once():
    for size in (1, 2, 4, 8):
        parts = [shard(World(r, size), 3, 8) for r in range(size)]
        assert sorted(i for part in parts for i in part) == list(range(24))
        assert {len(part) for part in parts} == {24 // size}
    assert gather(World(), torch.arange(24), 3).tolist() == list(range(24))
    with pytest.raises(ValueError, match="3 ranks"):
        shard(World(0, 3), 1, 16)


RANKS = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0"]


def on_ranks(script: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        [*RANKS, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", *script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def test_two_ranks_equal_one(tmp_path, warm):
    """Same prompts, noises and actions; the batch shapes of the network differ, so kernel noise
    remains: parameters after 4 iterations at lr 1e-3 agree within 2e-4 (they moved by up to 2e-2),
    the rewards of the first iteration within 1e-5."""
    run(tmp_path / "one")
    on_two_ranks(warm, TRAIN, [*kills.arguments(tmp_path / "two", 4, resume=False), *FAST])
    one, two = (
        load_tpm(tmp_path / n / "tpm_last.safetensors")[0].state_dict() for n in ("one", "two")
    )
    start = load_training(settings(), World()).module.state_dict()
    moved = max(float((one[k] - start[k]).abs().max()) for k in one)
    apart = max(float((one[k] - two[k]).abs().max()) for k in one)
    assert apart < 2e-4 < 1e-3 < moved, (apart, moved)
    lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    first = [torch.tensor(json.loads(part[0])["rewards"]["scene"]) for part in lines]
    assert torch.allclose(*first, atol=1e-5)


def test_a_rank_that_dies_ends_the_run_with_its_reason(tmp_path):
    script = tmp_path / "broken.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'training')!r})\n"
        "from async_timestep.training.grpo import command, trainer\n"
        "from async_timestep.training.rewards import RewardError\n"
        "inner = trainer.one_iteration\n"
        "def one_iteration(parts, i):\n"
        "    if parts.world.rank == 1 and i == 1:\n"
        "        raise RewardError('The reward hps failed: its file is gone.')\n"
        "    return inner(parts, i)\n"
        "trainer.one_iteration = one_iteration\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    code, text = on_ranks([str(script), *kills.arguments(tmp_path / "r", 4, resume=False), *FAST])
    assert code != 0
    reason = "rank 1: The reward hps failed: its file is gone."
    assert reason in text
    # torchrun's own report ends with it, and no rank's traceback stands before
    assert text.rstrip("=\n").splitlines()[-1].strip() == f"traceback : {reason}"
    assert "rank 0: another rank ended" in text and "[rank0]: Traceback" not in text
    assert (tmp_path / "r" / "checkpoints" / "latest").exists()


def test_what_ends_a_rank_stands_at_the_end_of_torchrun_s_report(tmp_path, monkeypatch, capsys):
    """torchrun's own code makes the report."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def report() -> str:
        failure = ProcessFailure(1, 4711, 1, str(tmp_path / "error.json"))
        return ChildFailedError("train_tpm.py", {1: failure}).format_msg()

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert "enable traceback" in report()  # what it says when it is told nothing
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    give_up(World(1, 2), "its file is gone.")
    assert capsys.readouterr().err == "rank 1: its file is gone.\n"
    assert report().rstrip("=\n").endswith("traceback : rank 1: its file is gone.")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    give_up(World(1, 2), "without torchrun there is nobody to tell.")


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("--preset=tini", "--preset is 'tini', expected one of"),  # before torch is imported
        ("--backbone.path=/none", "/none"),
    ],
)
def test_a_typo_stands_at_the_end_of_torchrun_s_report(tmp_path, wrong, sentence):
    script = str(ROOT / "training" / "train_tpm.py")
    one = [word.replace("per_node=2", "per_node=1") for word in RANKS]
    done = subprocess.run(
        [*one, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", script, "--preset=tiny",
         "--out", str(tmp_path / "r"), wrong],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0 and not (tmp_path / "r").exists()
    last = done.stderr.rstrip("=\n").splitlines()[-1].strip()
    assert last.startswith("traceback : ") and sentence in last


def test_dry_run_prints_costs_and_writes_nothing(tmp_path, warm):
    out = tmp_path / "r"
    wanted = [*kills.arguments(out, 4, resume=False), *FAST, "--dry_run", "--price_per_hour=2"]
    done = warm.start(TRAIN, wanted)
    assert done.wait() == 0, done.text()
    assert not out.exists()
    for word in ("denoise", "update", "peak memory", "GiB", "training"):
        assert word in done.text()


def test_tensorboard_by_flag_or_a_sentence(tmp_path):
    from async_timestep.training.grpo.train_log import TrainLog
    from async_timestep.training.run.console import Report

    config = settings("--log.tensorboard=true")
    record = {"iteration": 1, "kl": 0.5, "deviation": [0.1], "rewards": {"scene": [[1.0, 3.0]]}}
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(ValueError, match="tensorboard is not installed"):
            TrainLog(Report(), config, tmp_path)
        return
    report = Report()
    report.begin("training", 1)
    with TrainLog(report, config, tmp_path) as console:
        console.log("iteration", record)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("reward/scene")[0].value == 2.0
    assert events.Scalars("iteration/kl")[0].value == 0.5


def test_a_kill_between_a_validation_and_its_checkpoint_leaves_no_second_line(tmp_path):
    run(tmp_path / "straight", iterations=6)

    class Killed(BaseException):
        pass

    config, out = settings(iterations=6), tmp_path / "cut"
    folder = RunFolder(out, config.log.keep)
    folder.create(False)

    def log(kind: str, record: dict) -> None:
        if kind == "validation" and record["iteration"] == 5:
            raise Killed

    with pytest.raises(Killed):
        train(load_training(config, World()), folder, False, log)
    run(out, iterations=6, resume=True)
    same(tmp_path / "straight", out)
