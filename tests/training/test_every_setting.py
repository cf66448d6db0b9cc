"""Every field of Config with zero, negative, NaN, infinite, huge, empty and foreign values: one
sentence, or a run that is right. The walk is over the dataclasses, so a new field takes part."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from small_model import small_model

from async_timestep.tpm.checkpoint import load_tpm
from async_timestep.training.grpo.setup import load_training
from async_timestep.training.grpo.trainer import EXPECTED, train
from async_timestep.training.run.config import Config, as_used
from async_timestep.training.run.distributed import World
from async_timestep.training.run.folder import RunFolder
from async_timestep.training.run.ranges import rule_of
from async_timestep.training.run.settings import as_dict, dotted, parse, to_yaml

NAMES = dotted(Config)
FOREIGN = (0, 0.0, -1, -3, -0.5, math.nan, math.inf, -math.inf, 1e30, 10**12, 10**400, "", " ",
           "word", "a\nb", "a\0b", "x" * 5000, None, True, [], [math.nan], [10**12], [0, 0],
           [2.0, 1.0], {}, {"scene": math.nan}, {"": 1.0}, {"scene": 0.0})  # fmt: skip
TYPED = ("0", "-1", ".nan", "1e30", "")  # on the command line, as YAML reads them
SMALL = [
    "--backbone.path", small_model(),
    "--preset=tiny", "--backbone.precision=fp32", "--policy.width=16", "--policy.heads=2",
    "--policy.layers=1", "--grpo.num_generations=2", "--grpo.minibatch_size=1",
    "--grpo.prompts_per_iteration=1", "--steps=2",
    "--iterations=1", "--data.validation_prompts=2", "--log.validate_every=1", "--log.samples=1",
    "--log.samples_every=1", "--rewards.batch=2", "--threads=1",
]  # fmt: skip
MORE = {  # accepted values that the walk would not think of
    "policy.deviation_bound": (1, 0.5),
    "steps": (3, [2], [2, 3], [3, 3, 2]),
    "policy.omega_range": ((1e-9, 10),),
    "grpo.betas": ((0, 0),),
    "rewards.weights": ({"scene": 1}, {"scene": -1e6, "noise": 1e-9}),
}
# of this model
ONE_VALUE = {"backbone.resolution", "backbone.guidance_mode", "policy.heads"}
ONE_VALUE |= {"backbone.workflow", "backbone.node", "backbone.comfyui", "backbone.checkpoint"}
ONE_VALUE |= {"backbone.sampler", "backbone.scheduler"}
# accepted, but no run of seconds: larger than a test may be, or not of the embedded model
NOT_RUN = {
    "backbone.name", "backbone.compile", "data.set", "policy.width", "policy.layers",
    "grpo.num_generations", "grpo.minibatch_size", "grpo.prompts_per_iteration",
    "data.validation_prompts", "iterations",
    "threads", "policy.patch", "policy.registers",
}  # fmt: skip


def owner(name: str) -> tuple[type, str]:
    """The dataclass of a dotted name, and the field."""
    section, _, leaf = name.rpartition(".")
    return (typing.get_type_hints(Config)[section] if section else Config), leaf


def with_value(config: Config, name: str, value: object) -> Config:
    section, _, leaf = name.rpartition(".")
    if not section:
        return replace(config, **{leaf: value})
    return replace(config, **{section: replace(getattr(config, section), **{leaf: value})})


def one_sentence(text: str) -> None:
    assert text.count("\n") == 0 and text.endswith(".") and len(text) < 600, text
    assert "expected" in text or "set " in text, text
    assert "<class" not in text and "Traceback" not in text, text


@pytest.fixture(scope="module")
def small() -> Config:
    return parse(SMALL)[0]


@pytest.fixture(scope="module")
def quick(small, tmp_path_factory) -> Config:
    """With a short list of prompts, which takes no time to make."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    colours = ("blue", "cyan", "green", "yellow")
    texts = [f"a red circle above a {c} star on a dark plain background" for c in colours]
    file.write_text("\n".join(texts))
    return replace(small, data=replace(small.data, set="file", train=str(file)))


@pytest.fixture(scope="module")
def loaded(quick):
    """Model and rewards, for the runs whose settings are not theirs."""
    return load_training(quick, World())


def test_the_walk_is_over_all_of_them():
    assert len(NAMES) > 60
    for name in NAMES:
        rule = rule_of(*owner(name))
        assert rule is not None and rule.expected, name


@pytest.mark.parametrize("name", NAMES)
def test_in_code_a_value_is_refused_in_one_sentence_or_has_one_form(small, name):
    rule = rule_of(*owner(name))
    refused = 0
    for value in (*FOREIGN, *rule.ends):
        try:
            config = with_value(small, name, value)
        except ValueError as error:
            one_sentence(str(error))
            assert name in str(error)
            refused += 1
            continue
        found = dict(leaves(as_dict(config)))[name]
        assert found == found and found not in (math.inf, -math.inf)
        assert as_dict(as_used(config))  # checked once more where a run begins
    assert refused >= 8  # nothing takes every kind of value


def leaves(values: dict, prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict) and prefix + name != "rewards.weights":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.mark.parametrize("name", NAMES)
def test_on_the_command_line_too(small, name, capsys):
    for word in TYPED:
        try:
            config = parse([*SMALL, f"--{name}={word}"])[0]
        except SystemExit as stopped:
            text = capsys.readouterr().err
            assert stopped.code == 2
            one_sentence(text.removesuffix("\n").removeprefix("train_tpm.py: "))
            assert name in text
        else:
            value = word if isinstance(getattr_of(config, name), str) else yaml.safe_load(word)
            value = float(word) if word == "1e30" and not isinstance(value, str) else value
            assert as_dict(config) == as_dict(with_value(small, name, value))


def getattr_of(config: Config, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_RUN])
def test_what_is_accepted_runs(quick, loaded, name, tmp_path):
    """Every accepted end of a range, zero and choice through an iteration, two validations, a grid
    and the files: right, or ended by one sentence."""
    cls, leaf = owner(name)
    kind = typing.get_type_hints(cls)[leaf]
    values = [*rule_of(cls, leaf).ends, *FOREIGN, *MORE.get(name, ())]
    values += typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else []
    values += [True, False] if kind is bool else []
    tried = [as_dict(quick)]  # that one runs in every other test here
    for value in values:
        try:
            config = with_value(quick, name, value)
        except ValueError:
            continue
        if as_dict(config) not in tried:
            tried.append(as_dict(config))
            run(config, loaded, name, tmp_path / str(len(tried)))
    assert len(tried) > 1 or name in ONE_VALUE


def run(config: Config, loaded, name: str, out: Path) -> None:
    own = name.startswith("backbone.") or name in (
        "rewards.weights", "rewards.batch", "rewards.plugin", "device"
    )  # fmt: skip
    if not name.startswith(("log.", "data.")):
        config = with_value(config, "log.samples_every", 0)  # a grid is of no interest there
    folder = RunFolder(out, config.log.keep)
    try:
        parts = load_training(config, World(), *(() if own else (loaded.backbone, loaded.rewards)))
        folder.create(False)
        ended = train(parts, folder, False, lambda kind, record: None)
    except EXPECTED as error:
        assert "\n" not in str(error) and str(error).endswith("."), str(error)
        return
    finally:
        torch.set_num_threads(1)
    assert ended == "" or config.max_hours
    for file in ("metrics.jsonl", "validation.jsonl"):
        if (out / file).exists():
            for line in (out / file).read_text().splitlines():
                json.loads(line, parse_constant=lambda word: pytest.fail(f"{name}: {word}"))
    if not ended:
        module, meta = load_tpm(out / "tpm_last.safetensors")
        assert meta.iterations == 1
        assert all(bool(v.isfinite().all()) for v in module.state_dict().values())


@pytest.mark.parametrize("steps", [2, 1000])
def test_the_ends_of_steps_have_a_grid_that_falls(loaded, steps):
    sigmas = loaded.backbone.sigmas(steps)
    assert len(sigmas) == steps + 1 and bool((sigmas.diff() < 0).all())


def test_a_config_that_was_changed_is_checked_where_a_run_begins(small):
    config = parse(SMALL)[0]
    config.grpo.epsilon = -0.2
    with pytest.raises(
        ValueError, match="grpo.epsilon is -0.2, expected a number from 1e-06 to 10"
    ):
        load_training(config, World())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"grpo": {"num_generations": 6, "minibatch_size": 4}},
            ("grpo.num_generations is 6", "grpo.minibatch_size 4"),
        ),
        ({"policy": {"width": 64, "heads": 5}}, ("policy.width is 64", "policy.heads 5")),
        ({"backbone": {"resolution": 128}}, ("backbone.resolution is 128", "tiny", "64")),
        ({"backbone": {"guidance_mode": "embedded"}}, ("guidance_mode", "flux1_dev", "cfg")),
        ({"policy": {"actions": "omega"}, "steps": [2, 4]}, ("omega", "steps [2, 4]", "both")),
    ],
)
def test_settings_that_do_not_go_together_are_both_named(changed, words):
    hints = typing.get_type_hints(Config)
    with pytest.raises(ValueError) as caught:
        Config(**{k: hints[k](**v) if isinstance(v, dict) else v for k, v in changed.items()})
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data.validation_prompts=0"], ("prompts is 0", "validate_every is 1", "to 0")),
        (["--data.validation_prompts=1"], ("validation_prompts is 1", "needs 2")),
        (["--data.validation_prompts=0", "--log.validate_every=0"], ("samples_every is 1", "to 0")),
    ],
)
def test_too_few_validation_prompts(more, words):
    with pytest.raises(ValueError) as caught:
        load_training(parse([*SMALL, *more])[0], World())
    for word in words:
        assert word in str(caught.value)


def test_a_validation_file_of_one_line(tmp_path):
    texts = [f"a red circle above a {c} star on a dark plain background" for c in ("blue", "cyan")]
    (tmp_path / "train.txt").write_text("\n".join(texts))
    (tmp_path / "check.txt").write_text(texts[0].replace("star", "square"))
    files = [
        "--data.set=file",
        f"--data.train={tmp_path / 'train.txt'}",
        f"--data.validation={tmp_path / 'check.txt'}",
    ]
    with pytest.raises(ValueError, match=r"check.txt, which gives 0, but log.validate_every is 1"):
        load_training(parse([*SMALL, *files])[0], World())


def test_no_validation_at_all_is_a_run(quick, loaded, tmp_path):
    config = with_value(quick, "data.validation_prompts", 0)
    config = with_value(with_value(config, "log.validate_every", 0), "log.samples_every", 0)
    run(config, loaded, "data.validation_prompts", tmp_path / "r")
    assert (tmp_path / "r" / "tpm.safetensors").exists()


@pytest.mark.parametrize("wanted", ["nonsense", "cuda:99", "meta", "word:1"])
def test_a_device_that_is_not_there(wanted):
    with pytest.raises(ValueError, match=f"device is '{wanted}', which this torch cannot use"):
        load_training(parse([*SMALL, f"--device={wanted}"])[0], World())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_one(tmp_path, capsys):
    from async_timestep.training.grpo.command import main

    assert main([*SMALL, "--device=cuda", "--out", str(tmp_path / "r")]) == 1
    *progress, error = capsys.readouterr().err.splitlines()
    assert all("so far" in line for line in progress)
    assert "device is 'cuda'" in error and "here are cpu" in error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...\nx"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't "
            "allocate memory: you tried to allocate 4611686018427387904 bytes."
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_names_what_to_lower(error, tmp_path, capsys, monkeypatch):
    from async_timestep.training.grpo import command as train_command

    def full(*_):
        raise error

    monkeypatch.setattr("async_timestep.training.grpo.trainer.train", full)
    assert train_command.main([*SMALL, "--out", str(tmp_path / "r")]) == 1
    text = capsys.readouterr().err.splitlines()[-1]  # a bar may stand above it
    assert text.startswith("train_tpm.py: Memory ran out") and text.endswith(".")
    for word in (
        "backbone.batch",
        "backbone.decode_batch (16)",
        "rewards.batch (2)",
        "grpo.num_generations (2)",
    ):
        assert word in text


def test_the_cpu_allocator_speaks_as_it_is_read():
    from async_timestep.training.run.memory import out_of_memory

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    from async_timestep.training.grpo import command as train_command

    def wrong(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("async_timestep.training.grpo.trainer.train", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        train_command.main([*SMALL, "--out", str(tmp_path / "r")])


def test_memory_that_runs_out_in_a_reward_is_not_the_reward_s_fault():
    from async_timestep.training.rewards import RewardSet

    class Full:
        names = ("full",)

        def __call__(self, images, prompts):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(torch.OutOfMemoryError):
        RewardSet([Full()], {"full": 1.0})(torch.rand(1, 3, 8, 8), ["a"])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_reward_set_takes_one_image_or_more(batch):
    from async_timestep.training.rewards import RewardSet
    from async_timestep.training.rewards.noise import NoiseReward

    with pytest.raises(ValueError, match="rewards.batch is"):
        RewardSet([NoiseReward()], {"noise": 1.0}, batch)
    with pytest.raises(ValueError, match="names 'lost', expected some of noise"):
        RewardSet([NoiseReward()], {"noise": 1.0, "lost": 1.0})
    with pytest.raises(ValueError, match="noise meter"):
        NoiseReward(("loudness",))


@pytest.mark.parametrize("price", ["nan", ".nan", ".inf", "-1", "", "free"])
def test_a_price_that_is_none(price, tmp_path, capsys):
    from async_timestep.training.grpo.command import main

    more = ["--dry_run", f"--price_per_hour={price}", "--out", str(tmp_path / "r")]
    try:
        code = main([*SMALL, *more])
    except SystemExit as stopped:  # what is no number to the parser
        code = stopped.code
    *progress, text = capsys.readouterr().err.splitlines()
    assert code in (1, 2) and all("so far" in line for line in progress)
    assert "--price_per_hour" in text and "expected a number" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grpo: {lr: 1e-5}\n", None),  # a string to plain YAML
        ("steps: [4, 1]\n", "steps is [4, 1]"),
        ("grpo: {clip: 0.1}\ngrpo: {lr: 1.0e-4}\n", "line 2 names grpo a second time"),
        ("grpo:\n  clip: 0.1\n  clip: 0.2\n", "line 3 names grpo.epsilon a second time"),
        ("- 1\n", "no settings by name"),
        ("grpo: {clip: [\n", "is not YAML"),
        ("", "no settings by name"),
        ("# nothing\n", "no settings by name"),
        ("grpo:\n", "line 1: grpo is empty"),
        ("grpo: 5\n", "line 1: grpo is '5'"),
        ("grpo: [1]\n", "line 1: grpo is a list"),
        ("iterations: ten\n", "iterations is ten, expected a whole number from 1"),
        ("backbone: {path: }\n", "backbone.path is"),
    ],
)
def test_traps_of_yaml(text, words, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    if words is None:
        config = parse([*SMALL, f"--config={path}"])[0]
        assert config.grpo.lr in (1e-5, 1e-4)
        return
    with pytest.raises(SystemExit):
        parse([*SMALL, f"--config={path}"])
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_setting_has_one_form_however_it_was_written():
    config = Config(grpo=dataclasses.replace(Config().grpo, lr=1, betas=[0, 0.5]))
    assert isinstance(config.grpo.lr, float) and config.grpo.betas == (0.0, 0.5)
    assert "lr: 1.0" in to_yaml(config)
