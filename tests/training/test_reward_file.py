"""The file of a reward of the user's own: what it may give, and every way in which it is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from reward_plugins import BLUE, own, random_images

from async_timestep.training.rewards import RewardError, load_rewards
from async_timestep.training.run.config import RewardsConfig

CPU = torch.device("cpu")
PROMPTS = ["a cat", "z", "q b"]


@pytest.fixture
def images() -> torch.Tensor:
    return random_images()


# --- what it gives


@pytest.mark.parametrize(
    "given",
    [
        "images[:, 2].mean((1, 2))",
        "images[:, 2].mean((1, 2)).numpy()",
        "images[:, 2].mean((1, 2)).tolist()",
        "list(images[:, 2].mean((1, 2)))",
        "tuple(float(image[2].mean()) for image in images)",
    ],
)
def test_numbers_of_any_kind(tmp_path, images, given):
    rewards = own(tmp_path / "p.py", f"def score(images, prompts):\n    return {given}\n", batch=2)
    found = rewards(images, PROMPTS)["mine"]
    assert found.dtype == torch.float32 and found.shape == (3,)
    np.testing.assert_allclose(found, images.numpy()[:, 2].mean((1, 2)), rtol=1e-6)


def test_it_stands_beside_the_built_in_ones_and_cannot_change_their_images(tmp_path, images):
    (tmp_path / "p.py").write_text(
        "def score(images, prompts):\n    return images.zero_().sum((1, 2, 3))\n"
    )
    weights = {"noise": -1.0, "mine": 1.0, "noise_floor": 0.0}
    both = load_rewards(RewardsConfig(weights=weights, plugin=str(tmp_path / "p.py")), CPU)
    kept = images.clone()
    found = both(images, PROMPTS)
    alone = load_rewards(RewardsConfig(weights={"noise": 1.0}), CPU)(kept, PROMPTS)
    assert list(found) == list(weights) and found["mine"].tolist() == [0, 0, 0]
    assert torch.equal(images, kept) and torch.equal(found["noise"], alone["noise"])


def test_a_file_that_was_just_changed_is_read_again_and_nothing_is_left_beside_it(tmp_path, images):
    for number in (1, 2):
        text = f"def score(images, prompts):\n    return [{number}.0] * len(prompts)\n"
        assert own(tmp_path / "p.py", text)(images, PROMPTS)["mine"].tolist() == [number] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["p.py"]


def test_a_plugin_may_hold_classes_and_have_any_suffix(tmp_path, images):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Scorer:\n    level: float\n"
        "    def __call__(self, images, prompts):\n"
        "        return [self.level + len(text) for text in prompts]\n"
        "score = Scorer(0.5)\n"
    )
    assert own(tmp_path / "my reward.txt", text)(images, PROMPTS)["mine"].tolist() == [
        5.5,
        1.5,
        3.5,
    ]


@pytest.mark.parametrize("taken", ["images, prompts, scale=1", "*both", "images, /, prompts"])
def test_any_function_of_two(tmp_path, images, taken):
    text = f"def score({taken}):\n    return [4.0] * 3\n"
    assert own(tmp_path / "p.py", text)(images, PROMPTS)["mine"].tolist() == [4, 4, 4]


# --- what is refused


BAD = {  # the text of score, what stands in the sentence
    "raises": ("    x = 1\n    raise KeyError('lost\\nkey')", r"failed at line 3: KeyError: 'lost"),
    "exits": ("    import sys; sys.exit(3)", r"failed at line 2: SystemExit: 3"),
    "nan": ("    return [0.0, float('nan'), 1.0]", r"gave nan for the prompt 'z'"),
    "inf": ("    return images.sum((1, 2, 3)) / 0", r"gave inf for the prompt 'a cat'"),
    "none": ("    return None", r"gave a NoneType, expected 3 numbers"),
    "words": ("    return ['a', 'b', 'c']", r"gave a list, expected 3 numbers"),
    "ragged": ("    return [[1.0], [2.0, 3.0], []]", r"gave a list, expected 3 numbers"),
    "one": ("    return 1.0", r"shape \(\), expected \(3,\)"),
    "short": ("    return [1.0, 2.0]", r"shape \(2,\), expected \(3,\)"),
    "column": ("    return images.mean((2, 3))[:, :1]", r"shape \(3, 1\), expected \(3,\)"),
    "complex": ("    return [1j, 2j, 3j]", r"complex numbers of shape \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_score_that_fails_is_one_sentence_with_the_file(tmp_path, images, what):
    body, said = BAD[what]
    rewards = own(tmp_path / "bad.py", f"def score(images, prompts):\n{body}\n")
    with pytest.raises(RewardError, match=said) as caught:
        rewards(images, PROMPTS)
    text = str(caught.value)
    assert text.startswith(f"The reward mine of {tmp_path / 'bad.py'} ")
    assert "\n" not in text and text.endswith(".")


WRONG = {  # a file that is no plugin
    "no score": ("x = 1\n", "has no score, expected a Python file with a function score"),
    "a number": ("score = 3\n", "has a score that is 3, expected"),
    "one argument": ("def score(images):\n    return 1\n", "whose score takes (images), expected"),
    "three": ("def score(images, prompts, device):\n    return 1\n", "takes (images, prompts, dev"),
    "named": ("def score(*, images, prompts):\n    return 1\n", "takes (*, images, prompts), exp"),
    "syntax": ("x = 1\ndef score(:\n", "cannot be loaded at line 2: SyntaxError"),
    "import": ("\nimport no_such_module_here\n", "at line 2: ModuleNotFoundError: No module"),
    "raises": ("1 / 0\n", "cannot be loaded at line 1: ZeroDivisionError: division by zero."),
    "empty": ("", "has no score"),
    "binary": ("\0\0", "cannot be loaded"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_is_no_plugin(tmp_path, what):
    text, said = WRONG[what]
    with pytest.raises(ValueError, match=r"^rewards.plugin is .*p\.py, ") as caught:
        own(tmp_path / "p.py", text)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_place_without_a_file(tmp_path):
    for place, kind in ((tmp_path / "none.py", FileNotFoundError), (tmp_path, OSError)):
        with pytest.raises(kind, match=re.escape(f"rewards.plugin is {place}, ")) as caught:
            load_rewards(RewardsConfig(weights={"mine": 1.0}, plugin=str(place)), CPU)
        assert "expected a Python file" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"scene": 1.0, "noise": 0.0}, "names nothing for it"),
        ({"mine": 1.0, "yours": 1.0}, "names 'mine' and 'yours', expected one of them"),
        ({"mine": 1.0, "scene_beauty": 1.0}, "expected scene or scene_ with one of"),
    ],
)
def test_names_that_do_not_fit(tmp_path, weights, said):
    (tmp_path / "p.py").write_text(BLUE)
    with pytest.raises(ValueError, match=said):
        load_rewards(RewardsConfig(weights=weights, plugin=str(tmp_path / "p.py")), CPU)


def test_a_name_that_nothing_knows_points_to_the_plugin():
    with pytest.raises(ValueError, match=r"names 'mine', expected some of .*--rewards\.plugin"):
        load_rewards(RewardsConfig(weights={"mine": 1.0, "clip": 1.0}), CPU)
