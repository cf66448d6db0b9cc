"""The model card of a run folder, and the arithmetic of --dry_run."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from async_timestep.tpm.metadata import TPMMeta
from async_timestep.tpm.network import TPMConfig
from async_timestep.training.backbones import flux, sd35
from async_timestep.training.data.prompts import PromptList
from async_timestep.training.grpo.card import model_card
from async_timestep.training.grpo.cost import PHASES, estimate, table
from async_timestep.training.run.config import Config
from async_timestep.training.run.settings import parse, to_yaml

META = TPMMeta(
    network=TPMConfig(latent_channels=16, pooled_dim=2048),
    model_family="sd35_medium",
    steps=3,
    sigmas=(1.0, 0.75, 0.5, 0.0),
    base_model="stabilityai/stable-diffusion-3.5-medium",
    license="stabilityai-community",
    git_commit="abc123",
    prompts_sha256="f" * 64,
    guidance=5.0,
    rewards=("image_reward", "hps"),
    iterations=4000,
    config_sha256="e" * 64,
)
PROMPTS = PromptList(("a", "b"), ("", ""), "COCO 2014 captions_train2014.json")
TABLE = "| iteration | hps |\n|---|---|\n| 4000 | 0.2770 |"


def front(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_the_card_holds_what_a_reader_needs():
    settings = to_yaml(parse(["--preset", "sd35_medium"])[0])
    card = model_card(META, TABLE, settings, PROMPTS)
    head = front(card)
    assert head["license_name"] == "stabilityai-ai-community" and head["license"] == "other"
    assert head["base_model"] == META.base_model == sd35.SD35.hub_id
    assert head["library_name"] == "comfyui" and "sd35_medium" in head["tags"]
    for text in (
        TABLE, "models/tpm", "TPM Loader", "`abc123`", "f" * 64, "e" * 64, "ImageReward, HPSv2",
        "3 steps of Euler, guidance 5", "1, 0.75, 0.5, 0", "(2 prompts)", "CC BY 4.0",
        "below 1 M USD", "hf upload YOUR_NAME/YOUR_REPOSITORY . --include tpm.safetensors",
    ):  # fmt: skip
        assert text in card, text
    block = re.search(r"```yaml\n(.*?)```", card, re.S)
    assert yaml.safe_load(block[1]) == yaml.safe_load(settings)


@pytest.mark.parametrize(
    "family, base_model, licence, note",
    [
        ("flux1_dev", flux.Flux.hub_id, "other", "no commercial use"),
        ("tiny", "async-timestep embedded demo model", "apache-2.0", "Apache-2.0"),
        ("new", "someone/new", "unknown", "licence (theirs) applies"),
    ],
)
def test_every_base_model_has_its_licence(family, base_model, licence, note):
    meta = replace(META, model_family=family, base_model=base_model, license="theirs")
    card = model_card(meta, TABLE, "steps: 3\n", "scenes, training combinations")
    head = front(card)
    assert head["license"] == licence and note in card
    assert head.get("base_model") == (flux.Flux.hub_id if family == "flux1_dev" else None)
    assert "this repository's own grammar" in card
    assert "Stability" not in card


def test_a_fine_tune_is_named_and_foreign_prompts_are_left_to_the_publisher():
    card = model_card(replace(META, base_model="me/tuned"), TABLE, "a: 1", "mine.txt")
    assert front(card)["base_model"] == "me/tuned"
    assert "mine.txt, whose licence you know best" in card
    assert "CC BY" not in card and "MIT" not in card


def test_a_tpm_for_several_step_counts_names_them():
    meta = replace(META, grids=((1.0, 0.5, 0.0), META.sigmas))
    assert "2 or 3 steps of Euler" in model_card(meta, TABLE, "a: 1", PROMPTS)


# --- cost

SECONDS = dict(encode=0.1, denoise=2.8, tpm=0.26, decode=0.4, score=0.6, update=0.52)


def run(**fields) -> Config:
    config = Config(steps=15, iterations=4000)
    config.data.set = "coco"
    for name, value in fields.items():
        part, _, leaf = name.partition("_")
        setattr(getattr(config, part), leaf, value)
    return config


def test_an_estimate_by_hand():
    """2 images at 15 steps were measured, 16 of one prompt are an iteration."""
    found = estimate(run(), SECONDS, images=2, steps=15)
    assert found.iteration == pytest.approx(
        {"encode": 0.1, "denoise": 22.4, "tpm": 2.08, "decode": 3.2, "score": 4.8, "update": 4.16}
    )
    assert found.iteration_seconds == pytest.approx(36.74)
    image = 1.4 + 0.13 + 0.2 + 0.3 + 0.1
    assert found.validation == pytest.approx(128 * image)
    assert found.validations == 22  # at 0, 200, ..., 3800, 4000, and D = 0 once
    total = 4000 * 36.74 + 22 * 128 * image + 20 * 2 * 8 * image
    assert found.training_hours == pytest.approx(total / 3600)
    assert found.evaluation_hours == pytest.approx(2048 * image / 3600)
    text = table(found, 3.5)
    assert f"training: {total / 3600:.1f} h, costs {total / 3600 * 3.5:.2f}" in text
    assert "Measured: one rollout (2 images, 15 steps)" in text and "Extrapolated" in text
    assert "evaluation of one configuration, 2,048 prompts: 1.2 h" in text
    assert "costs" not in table(found)


def test_other_step_counts_scale_by_evaluations_and_decisions():
    config = run()
    config.steps = [4, 8]
    found = estimate(config, SECONDS, images=2, steps=4)
    plain = estimate(replace(config, steps=4), SECONDS, images=2, steps=4)
    assert found.iteration["denoise"] == pytest.approx(1.5 * plain.iteration["denoise"])
    for phase in ("tpm", "update"):
        assert found.iteration[phase] == pytest.approx(5 / 3 * plain.iteration[phase])
    for phase in ("encode", "decode", "score"):
        assert found.iteration[phase] == pytest.approx(plain.iteration[phase])


@given(st.integers(1, 8), st.integers(1, 4), st.sampled_from([1, 2, 4, 8]))
def test_ranks_share_all_but_the_update_and_the_prompts(images, prompts, ranks):
    config = run(grpo_prompts_per_iteration=prompts)
    one = estimate(config, SECONDS, images, 15)
    many = estimate(config, SECONDS, images, 15, ranks)
    for phase in ("denoise", "tpm", "decode", "score"):
        assert many.iteration[phase] == pytest.approx(one.iteration[phase] / ranks)
    assert many.iteration["encode"] == one.iteration["encode"] == pytest.approx(0.1 * prompts)
    # the small update was of `images` on each rank, so its seconds count for more images
    assert many.iteration["update"] == pytest.approx(one.iteration["update"] / ranks)
    assert many.validation == pytest.approx(one.validation / ranks)


def test_the_number_of_evaluation_prompts():
    count = {}
    for which, asked in (("coco", 2048), ("coco", 0), ("t2i", 2048), ("t2i", 0), ("t2i", 9)):
        config = run(data_set=which, data_evaluation_prompts=asked)
        count[which, asked] = estimate(config, SECONDS, 2, 15).evaluation_prompts
    assert list(count.values()) == [2048, 202_654, 2400, 2400, 9]
    found = estimate(run(data_set="file", data_evaluation_prompts=0), SECONDS, 2, 15)
    assert found.evaluation_hours is None and "evaluation: not known" in table(found)


def test_without_validation_and_grids_only_the_iterations_count():
    config = run(log_validate_every=0, log_samples_every=0)
    found = estimate(config, SECONDS, 2, 15)
    assert found.validations == 0
    assert found.training_hours == pytest.approx(4000 * found.iteration_seconds / 3600)


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_that_was_not_measured_is_refused(phase):
    for value in (None, math.nan, -1.0, math.inf):
        seconds = {k: v for k, v in {**SECONDS, phase: value}.items() if v is not None}
        with pytest.raises(ValueError, match=f"The phase {phase} took"):
            estimate(run(), seconds, 2, 15)
    with pytest.raises(ValueError, match="1 steps"):
        estimate(run(), SECONDS, 2, 1)
