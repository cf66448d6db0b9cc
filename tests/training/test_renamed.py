"""Settings that had another name are read everywhere, with the value of today, and said once."""

from __future__ import annotations

import pytest
import yaml

from async_timestep.training.run.config import Config
from async_timestep.training.run.renamed import (
    RENAMED,
    VALUES,
    current_arguments,
    current_nested,
)
from async_timestep.training.run.settings import as_dict, binding, canonical, dotted, flat, parse

OLD = {  # as a run of an older trainer has them
    "group": 8,
    "minibatch": 2,
    "prompts": 3,
    "clip": 0.3,
    "grad_clip": 2.0,
    "ratio": "mean",
    "scale": "iteration",
    "noise": "shared",
}
NEW = {
    "num_generations": 8,
    "minibatch_size": 2,
    "prompts_per_iteration": 3,
    "epsilon": 0.3,
    "max_grad_norm": 2.0,
    "importance_sampling_level": "mean",
    "scale_rewards": "batch",
    "group_noise": "shared",
}


def found(config: Config) -> dict:
    return {name: getattr(config.grpo, name) for name in NEW}


def test_the_table_is_of_names_that_are_there_and_of_such_that_are_not():
    names = set(dotted(Config))
    assert set(RENAMED.values()) <= names and not set(RENAMED) & names
    assert set(VALUES) <= names and len(set(RENAMED.values())) == len(RENAMED)
    assert {name.removeprefix("grpo.") for name in RENAMED} == set(OLD)


@pytest.mark.parametrize("joined", [True, False])
def test_on_the_command_line(joined, capsys):
    words = []
    for name, value in OLD.items():
        words += [f"--grpo.{name}={value}"] if joined else [f"--grpo.{name}", str(value)]
    assert found(parse(["--preset=tiny", *words])[0]) == NEW
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "grpo.clip is now grpo.epsilon" in said
    assert all(old in said and new in said for old, new in RENAMED.items())


@pytest.mark.parametrize("dotted_keys", [True, False])
def test_in_a_file(tmp_path, capsys, dotted_keys):
    path = tmp_path / "mine.yaml"
    values = {f"grpo.{k}": v for k, v in OLD.items()} if dotted_keys else {"grpo": OLD}
    path.write_text(yaml.safe_dump(values))
    assert found(parse(["--preset=tiny", f"--config={path}"])[0]) == NEW
    assert "grpo.scale is now grpo.scale_rewards" in capsys.readouterr().err
    assert found(parse([], base=path)[0]) == NEW  # as a resumed run's config.yaml is read


def test_names_of_today_are_not_talked_about(capsys):
    words = [f"--grpo.{name}={value}" for name, value in NEW.items()]
    assert found(parse(["--preset=tiny", *words])[0]) == NEW
    assert capsys.readouterr().err == ""
    assert current_arguments(["--out", "group", "--resume", "-1"]) == [
        "--out",
        "group",
        "--resume",
        "-1",
    ]
    assert current_arguments(["--data.column", "iteration"])[1] == "iteration"
    assert current_nested({"rewards": {"weights": {"noise": 1}}, "x": 3}) == {
        "rewards": {"weights": {"noise": 1}},
        "x": 3,
    }


def test_old_and_new_in_one_file_are_one_setting_twice(tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text("grpo:\n  clip: 0.1\n  epsilon: 0.2\n")
    with pytest.raises(SystemExit):
        parse(["--preset=tiny", f"--config={path}"])
    assert "line 3 names grpo.epsilon a second time" in capsys.readouterr().err


def test_a_checkpoint_of_an_older_trainer_binds_to_the_same_settings():
    config = parse(["--preset=tiny", *(f"--grpo.{n}={v}" for n, v in NEW.items())])[0]
    old = flat(as_dict(config))
    for name, value in OLD.items():
        del old[RENAMED[f"grpo.{name}"]]
        old[f"grpo.{name}"] = value
    now = binding(config)
    assert {k: v for k, v in canonical(old).items() if k in now} == now
    assert binding(parse(["--preset=tiny"])[0]) != now


def test_a_mistake_in_an_old_name_s_value_names_the_setting_of_today(capsys):
    with pytest.raises(SystemExit):
        parse(["--preset=tiny", "--grpo.clip=-1"])
    assert "grpo.epsilon is -1" in capsys.readouterr().err
