"""The paper's four rewards on tiny random files in the published layouts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import plain_rewards as plain
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision import transforms
from transformers import CLIPModel

from async_timestep.harness.published_layout import hps_shapes, image_reward_shapes
from async_timestep.training.rewards import PAPER, own_reward
from async_timestep.training.rewards.hps import clean
from async_timestep.training.rewards.images import padded_as_float, resized_as_pil
from async_timestep.training.run.config import RewardsConfig

CPU = torch.device("cpu")
PROMPTS = ["a cat", "z", "Cat q b " * 20]
BICUBIC = transforms.InterpolationMode.BICUBIC
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RewardsConfig:
    return plain.write_files(tmp_path_factory.mktemp("rewards"))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """(3, 3, 45, 70) float32; neither square nor on the grid of 8 bits."""
    return torch.rand(3, 3, 45, 70, generator=torch.Generator().manual_seed(0))


def picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().movedim(0, -1).numpy())


def published_transform(image: torch.Tensor, size: int) -> torch.Tensor:
    steps = [transforms.Resize(size, BICUBIC), transforms.CenterCrop(size), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])(picture(image))


def clip_ids(text: str) -> list[int]:
    """Ids of words that are letters or 'cat', between the start and the end token."""
    inner = [plain.CLIP.index(word + "</w>") for word in text.lower().split()]
    last = len(plain.CLIP) - 1
    return [last - 1, *inner[: plain.LENGTH - 2], last]


def test_image_reward_is_the_published_formula(config, images):
    scores = own_reward("image_reward", config, CPU)(images, PROMPTS)["image_reward"]
    state = torch.load(config.image_reward_path, weights_only=True)
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        words = [plain.BERT.index(word) for word in prompt.lower().split()][:33]
        ids = [plain.BERT.index("[CLS]"), *words, plain.BERT.index("[SEP]")]
        expected = plain.image_reward(state, published_transform(image, 32), ids)
        assert score.item() == pytest.approx(expected, abs=2e-4)
    assert scores.std() > 1e-3  # far above the tolerance


def test_hps_is_the_published_formula(config, images):
    scores = own_reward("hps", config, CPU)(images, PROMPTS)["hps"]
    state = torch.load(config.hps_path, weights_only=True)["state_dict"]
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        exact = transforms.ToTensor()(picture(image))
        small = transforms.Resize((18, 28), BICUBIC, antialias=True)(exact)  # 28 * 45 / 70
        pixels = torch.zeros(3, 28, 28)
        pixels[:, 5:23] = small
        pixels = transforms.Normalize(MEAN, STD)(pixels)
        expected = plain.hps(state, pixels, clip_ids(prompt))
        assert score.item() == pytest.approx(expected, abs=1e-5)
    assert scores.std() > 1e-3  # far above the tolerance


@pytest.mark.parametrize("name", ["clip", "pick"])
def test_clip_and_pick_are_cosines(config, images, name):
    scores = own_reward(name, config, CPU)(images, PROMPTS)[name]
    model = CLIPModel.from_pretrained(config.clip_model if name == "clip" else config.pick_path)
    for image, prompt, score in zip(images, PROMPTS, scores, strict=True):
        small = picture(image).resize((43, 28), Image.Resampling.BICUBIC)  # 28 * 70 / 45
        small = small.crop((7, 0, 35, 28))  # transformers rounds 7.5 down, torchvision up
        pixels = transforms.Normalize(MEAN, STD)(transforms.ToTensor()(small))[None]
        ids = torch.tensor([clip_ids(prompt)])
        with torch.no_grad():
            logit = model(ids, pixels).logits_per_image.item()
            cosine = logit / model.logit_scale.exp().item()
        assert score.item() == pytest.approx(2.5 * cosine if name == "clip" else logit, abs=1e-5)
    assert scores.std() > 1e-3  # far above the tolerance


@pytest.mark.parametrize("name", PAPER)
def test_a_batch_is_its_singles(config, images, name):
    reward = own_reward(name, config, CPU)
    batch = reward(images, PROMPTS)[name]
    assert reward.names == (name,)
    assert batch.shape == (3,) and batch.dtype == torch.float32
    singles = [reward(images[i : i + 1], PROMPTS[i : i + 1])[name] for i in range(3)]
    torch.testing.assert_close(batch, torch.cat(singles), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", PAPER)
def test_half_precision_is_near_and_is_used(config, images, name, precision):
    half = own_reward(name, dataclasses.replace(config, precision=precision), CPU)
    score, exact = half(images, PROMPTS)[name], own_reward(name, config, CPU)(images, PROMPTS)[name]
    assert score.dtype == torch.float32
    error = (score - exact).abs().max().item()
    assert 0 < error < {"fp16": 0.02, "bf16": 0.15}[precision] * max(1, exact.abs().max().item())


def edited(config: RewardsConfig, name: str, folder: Path, drop: bool) -> tuple[RewardsConfig, str]:
    """A copy of a reward's weights with one key dropped, or with one more; and that key."""
    if name in ("image_reward", "hps"):
        field, inside = f"{name}_path", "state_dict" if name == "hps" else ""
        whole = torch.load(getattr(config, field), weights_only=True)
        state = whole[inside] if inside else whole
        key = "mlp.layers.6.bias" if name == "image_reward" else "visual.ln_pre.weight"
        state.pop(key) if drop else state.update({"odd.weight": torch.ones(2)})
        torch.save(whole, folder / "edited.pt")
        return dataclasses.replace(config, **{field: str(folder / "edited.pt")}), key
    field = "clip_model" if name == "clip" else "pick_path"
    target = folder / name
    target.mkdir()
    for file in Path(getattr(config, field)).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    state, key = load_file(target / "model.safetensors"), "text_projection.weight"
    state.pop(key) if drop else state.update({"odd.weight": torch.ones(2)})
    save_file(state, target / "model.safetensors", {"format": "pt"})
    return dataclasses.replace(config, **{field: str(target)}), key


@pytest.mark.parametrize("name", PAPER)
def test_a_missing_key_is_refused_by_name(config, name, tmp_path):
    wrong, key = edited(config, name, tmp_path, drop=True)
    with pytest.raises(ValueError, match=key.replace(".", r"\.") + r".*rewards\.") as caught:
        own_reward(name, wrong, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PAPER)
def test_an_unknown_key_is_refused_by_name(config, name, tmp_path):
    wrong, _ = edited(config, name, tmp_path, drop=False)
    with pytest.raises(ValueError, match=r"odd\.weight.*rewards\."):
        own_reward(name, wrong, CPU)


def test_a_misshapen_tensor_is_refused_by_name(config, tmp_path):
    state = torch.load(config.image_reward_path, weights_only=True)
    state["mlp.layers.2.bias"] = torch.ones(3)
    torch.save(state, tmp_path / "wrong.pt")
    wrong = dataclasses.replace(config, image_reward_path=str(tmp_path / "wrong.pt"))
    with pytest.raises(ValueError, match=r"mlp\.layers\.2\.bias with shape \(3,\)"):
        own_reward("image_reward", wrong, CPU)


@pytest.mark.parametrize("name", ["image_reward", "hps"])
def test_a_wrong_file_is_one_sentence(config, name, tmp_path):
    field = f"{name}_path"
    (tmp_path / "page.pt").write_text("<html>not found</html>\n")
    torch.save([1, 2], tmp_path / "list.pt")
    for file, what in (("page.pt", "no weight file"), ("list.pt", "no dictionary of tensors")):
        wrong = dataclasses.replace(config, **{field: str(tmp_path / file)})
        with pytest.raises(ValueError, match=f"{what}.*rewards.{field}") as caught:
            own_reward(name, wrong, CPU)
        assert "\n" not in str(caught.value)
    wrong = dataclasses.replace(config, **{field: str(tmp_path / "nowhere.pt")})
    with pytest.raises(FileNotFoundError, match=f"rewards.{field} is .*nowhere.pt"):
        own_reward(name, wrong, CPU)


@pytest.mark.parametrize("name", ["image_reward", "hps"])
def test_what_the_cache_does_not_have_is_one_sentence(config, name, monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    empty = dataclasses.replace(config, **{f"{name}_path": "", "hps_version": "v2.1"})
    file = "ImageReward.pt of THUDM" if name == "image_reward" else "HPS_v2.1_compressed.pt of xswu"
    with pytest.raises(
        OSError, match=rf"{file}.*not in .* cache .*--fetch.*rewards\.{name}_path"
    ) as caught:
        own_reward(name, empty, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "field"),
    [("clip", "clip_model"), ("pick", "pick_path"), ("pick", "pick_processor")],
)
def test_an_empty_folder_is_one_sentence(config, name, field, tmp_path):
    wrong = dataclasses.replace(config, **{field: str(tmp_path)})
    with pytest.raises((OSError, ValueError), match=rf"rewards\.{field}") as caught:
        own_reward(name, wrong, CPU)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_another_size_is_refused(config, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(plain.BERT[:-1]) + "\n")
    wrong = dataclasses.replace(config, image_reward_tokenizer=str(tmp_path))
    with pytest.raises(ValueError, match=r"34 tokens, expected the 35.*image_reward_tokenizer"):
        own_reward("image_reward", wrong, CPU)


def test_the_transforms_on_odd_sizes():
    for height, width in ((64, 64), (31, 97), (250, 223)):
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height))
        assert torch.equal(resized_as_pil(image, 32)[0], published_transform(image[0], 32))
        bars = padded_as_float(image, 40)[0]
        black = -torch.tensor(MEAN) / torch.tensor(STD)
        inner = round(40 * height / max(height, width))
        rows = torch.isclose(bars, black[:, None, None]).all(0).all(1)
        assert int((~rows).sum()) == inner, (height, width)


def test_the_prompt_that_hps_reads():
    assert clean("\u201ccurly\u201d  it\u2019s\n") == '"curly" it\'s'
    assert clean("\uff26\uff35\uff2c\uff2c\u3000\ufb01ne") == "FULL fine"
    assert clean("&amp;amp; cafe\u0301") == "& caf\u00e9"
    assert clean("a\x1b[31m\x07red\ufeff") == "ared"


def test_the_published_sizes():
    """The layout that the tiny files are cut from is the published one: 446.7 and 986.1 million."""
    count = {}
    for shapes in (image_reward_shapes, hps_shapes):
        tensors = [torch.empty(shape, device="meta") for shape in shapes().values()]
        count[shapes.__name__] = sum(tensor.numel() for tensor in tensors)
    assert len(image_reward_shapes()) == 624  # and one buffer
    assert round(count["image_reward_shapes"] / 1e6, 1) == 446.7
    assert round(count["hps_shapes"] / 1e6, 1) == 986.1
    assert json.dumps(sorted(hps_shapes())).count("resblocks") == 12 * (32 + 24)
