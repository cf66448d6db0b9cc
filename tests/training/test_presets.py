"""Every preset and overlay is settings of Config, and says what the paper says."""

from __future__ import annotations

import re
import shlex

import pytest
import yaml

from async_timestep.training.paper_runs import paper_runs, shown
from async_timestep.training.run import config as settings_module
from async_timestep.training.run.config import Config
from async_timestep.training.run.settings import PRESETS, parse

OVERLAYS = ("paper_strict", "leave_one_out", "joint", "follow_time")
NAMES = sorted(path.stem for path in PRESETS.glob("*.yaml"))
BASES = [name for name in NAMES if name not in OVERLAYS]
PAPER = {
    "sd35_medium": (15, 1e-5, "cfg"),
    "flux1_dev": (10, 2e-5, "embedded"),
    "sd35_medium_lifted": (15, 1e-5, "cfg"),
    "flux1_dev_lifted": (10, 2e-5, "embedded"),
}


def resolved(*arguments: str) -> Config:
    return parse(list(arguments))[0]


def leaves(values: dict, prefix: str = ""):
    for name, value in values.items():
        if isinstance(value, dict) and name != "weights":
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def setting(config: Config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
    return list(config) if isinstance(config, tuple) else config


def test_the_presets_are_the_ones_meant():
    assert {*PAPER, "tiny", *OVERLAYS} <= set(NAMES)


@pytest.mark.parametrize("overlay", ["", *OVERLAYS])
@pytest.mark.parametrize("base", BASES)
def test_every_key_of_preset_and_overlay_arrives(base, overlay):
    files = [PRESETS / f"{base}.yaml"] + ([PRESETS / f"{overlay}.yaml"] if overlay else [])
    more = ("--config", str(files[1])) if overlay else ()
    config = resolved("--preset", base, *more)
    wanted = {}
    for file in files:  # the overlay is laid over the preset
        wanted |= dict(leaves(yaml.safe_load(file.read_text())))
    assert wanted
    for name, value in wanted.items():
        assert setting(config, name) == value, name


@pytest.mark.parametrize("name", NAMES)
def test_a_comment_says_what_it_is(name):
    lines = (PRESETS / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    if name != "tiny":
        assert lines[1].startswith("# Source: ")
        assert lines[0].startswith("# Overlay") == (name in OVERLAYS)


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_settings(name):
    steps, lr, mode = PAPER[name]
    c = resolved("--preset", name)
    assert (c.steps, c.grpo.lr, c.backbone.guidance_mode) == (steps, lr, mode)
    assert (c.backbone.precision, c.backbone.guidance, c.backbone.resolution) == ("fp16", 5.0, 512)
    g = c.grpo
    assert (
        g.num_generations,
        g.minibatch_size,
        g.prompts_per_iteration,
        g.epsilon,
        g.max_grad_norm,
    ) == (16, 4, 1, 0.2, 1.0)
    assert (c.iterations, c.seed, c.data.seed, c.data.evaluation_prompts) == (4000, 42, 42, 2048)
    assert c.rewards.weights == {"image_reward": 1, "hps": 1, "clip": 1, "pick": 1}
    assert c.policy.deviation_bound == (1.0 if name.endswith("lifted") else 0.5)
    assert c.backbone.name == name.removesuffix("_lifted")


def test_lifted_is_the_same_but_for_the_bound():
    for model in ("sd35_medium", "flux1_dev"):
        plain, lifted = resolved("--preset", model), resolved("--preset", f"{model}_lifted")
        assert plain != lifted
        lifted.policy.deviation_bound = plain.policy.deviation_bound
        assert plain == lifted


def departures() -> set[str]:
    """The settings whose description says "departs", with their section."""
    found = set()
    sections = {f.type: f.name for f in Config.__dataclass_fields__.values()}
    for cls, section in sections.items():
        doc = getattr(getattr(settings_module, cls, None), "__doc__", None) or ""
        for name, text in re.findall(r"^        (\w+): (.*(?:\n {12}.*)*)", doc, re.M):
            if "departs" in text:
                found.add(f"{section}.{name}")
    return found


def test_paper_strict_turns_off_all_that_departs():
    overlay = dict(leaves(yaml.safe_load((PRESETS / "paper_strict.yaml").read_text())))
    assert {"policy.raw_cap", "grpo.prompts_per_iteration", "log.best"} <= departures()
    assert departures() <= set(overlay)
    for base in BASES:
        c = resolved("--preset", base, "--config", str(PRESETS / "paper_strict.yaml"))
        assert c.policy.raw_cap is None and c.policy.global_conditioning is False
        g = c.grpo
        assert (g.prompts_per_iteration, g.importance_sampling_level, g.lr_schedule) == (
            1,
            "trajectory",
            "constant",
        )
        assert (g.kl_skip, g.scale_rewards, g.group_noise, c.log.best) == (
            0,
            "group",
            "independent",
            False,
        )


def test_a_left_out_reward_is_measured_and_not_trained_on():
    overlay = str(PRESETS / "leave_one_out.yaml")
    weights = resolved("--preset", "flux1_dev", "--config", overlay).rewards.weights
    assert weights == {"image_reward": 1, "hps": 1, "clip": 1, "pick": 0}
    weights = resolved("--preset", "flux1_dev", "--rewards.weights.clip", "0").rewards.weights
    assert weights == {"image_reward": 1, "hps": 1, "clip": 0, "pick": 1}


@pytest.mark.parametrize("text", ["grpo:\n  learning_rate: 1.0\n", "stepz: 3\n", "steps: many\n"])
def test_a_wrong_overlay_is_refused(tmp_path, capsys, text):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        resolved("--preset", "sd35_medium", "--config", str(tmp_path / "o.yaml"))
    assert stopped.value.code == 2
    assert text.split(":")[-2].split()[-1] in capsys.readouterr().err


@pytest.mark.parametrize("strict", [False, True])
def test_the_eight_runs_of_the_paper(strict, monkeypatch):
    monkeypatch.chdir(PRESETS.parents[1])  # the overlay's path is relative
    runs = paper_runs("my runs", "my data", strict)
    assert len(runs) == len({run.name for run in runs}) == 8
    seen = set()
    for run in runs:
        assert run.train[0] == "training/train_tpm.py"
        assert run.evaluate[0] == "training/evaluate.py"

        def more(parser):
            parser.add_argument("--out")
            parser.add_argument("--tpm", nargs="+")

        config, rest = parse(list(run.train[1:]), more=more)
        assert rest.out == f"my runs/{run.name}" and config.data.folder == "my data"
        assert (config.policy.raw_cap is None) == strict
        seen.add((config.backbone.name, config.data.set, config.policy.deviation_bound))
        evaluated, rest = parse(list(run.evaluate[1:]), more=more)
        assert rest.tpm == [f"my runs/{run.name}/tpm.safetensors"]
        assert evaluated.data.evaluation_prompts == {"coco": 2048, "t2i": 0}[config.data.set]
        evaluated.data.evaluation_prompts = config.data.evaluation_prompts
        assert evaluated == config
    assert len(seen) == 8
    lines = [shlex.split(line) for line in shown(runs).splitlines()]
    assert lines == [["python", *part] for run in runs for part in (run.train, run.evaluate)]
