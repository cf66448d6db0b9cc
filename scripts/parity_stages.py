"""The four stages of parity.py, each in the environment that it needs; see there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
SIZES = [(512, 512), (333, 517), (701, 260), (64, 64), (225, 224), (1025, 769)]  # height, width
PROMPTS = [
    "a red apple on a wooden table",
    "two dogs, one black and one white, playing chess in the rain; " * 12,
    "caf\u00e9 na\u00efve \u2014 \u6c34\u5f69\u753b\u306e\u732b \U0001f431, \u00fcbergro\u00df",
    "",
    "\u201ccurly\u201d  it\u2019s\tspaced\n &amp; html &lt;b&gt; \uff26\uff35\uff2c\uff2c \ufb01ne",
    "A PHOTO OF 17 CATS!!! (masterpiece:1.2) " + "x" * 120,
]
LIMIT = {"tokens": 0, "pixels": 1e-6, "scores": 2e-5}  # scores: of float32 sums in another order


def images() -> list[np.ndarray]:
    """Uint8 (H, W, 3): smooth colour, hard edges, noise."""
    made = []
    for number, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        waves = [np.sin(x / rng.uniform(5, 60) + y / rng.uniform(5, 60)) for _ in range(3)]
        picture = 127 + 90 * np.stack(waves, -1)
        picture[height // 3 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, 3)
        picture += rng.normal(0, 4 + 6 * number, picture.shape)
        made.append(picture.clip(0, 255).round().astype(np.uint8))
    return made


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).movedim(-1, 0)[None].float() / 255


def rewards_config(folder: Path, clip: str = ""):
    from async_timestep.training.run.config import RewardsConfig

    return RewardsConfig(
        backend="packages",
        image_reward_path=str(folder / "ImageReward.pt"),
        image_reward_tokenizer=str(folder / "bert"),
        hps_path=str(folder / "HPS_v2_compressed.pt"),
        hps_tokenizer=clip,
        clip_model=str(folder / "clip"),
        pick_path=str(folder / "clip"),
        pick_processor=str(folder / "clip"),
    )


def vocabulary() -> list[str]:
    """30,522 entries: the special ones, every character of the prompts, and made-up pieces."""
    characters = sorted({c for text in PROMPTS for c in text.lower() if not c.isspace()})
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    base = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "apple", "dogs", "##ing", "photo"]
    words = [*base, *characters, *letters, *("##" + c for c in [*characters, *letters])]
    words = list(dict.fromkeys(words))
    return words + [f"[unused{i}]" for i in range(30522 - len(words))]


def random_state(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Scales as of trained weights, so that signals neither die nor explode on their way."""
    state, generator = {}, torch.Generator().manual_seed(0)
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if key.endswith(("norm.weight", "Norm.weight", "norm1.weight", "norm2.weight")) or (
            "ln_" in key and key.endswith("weight")
        ):
            value = 1 + 0.1 * value
        elif len(shape) < 2:
            value = 0.02 * value
        elif "embed" in key or "pos" in key or "cls" in key:
            value = 0.2 * value
        else:
            value = value / value[0].numel() ** 0.5
        state[key] = value.to(dtype)
    return state


def write(folder: Path, clip: str) -> None:
    """Random weights in the published layouts, and a vocabulary; CLIP's own is at `clip`."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from async_timestep.harness.published_layout import hps_shapes, image_reward_shapes

    (folder / "bert").mkdir(exist_ok=True)
    (folder / "bert" / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    state = random_state(image_reward_shapes(), torch.float32)
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(state, folder / "ImageReward.pt")
    state = random_state(hps_shapes(), torch.float16)
    torch.save({"state_dict": state}, folder / "HPS_v2_compressed.pt")
    small = dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    model = CLIPModel(CLIPConfig(text_config=small, vision_config=small, projection_dim=64))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(random_state(shapes, torch.float32))
    model.save_pretrained(folder / "clip")
    CLIPImageProcessor().save_pretrained(folder / "clip")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(Path(clip) / name, folder / "clip" / name)


def packages(folder: Path, clip: str) -> None:
    """Tokens and pixels by the packages' own functions; CLIP by its processor of that time."""
    from hpsv2.src.open_clip import get_tokenizer, image_transform
    from ImageReward.ImageReward import _transform
    from PIL import Image
    from transformers import BertTokenizer, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    pictures = [Image.fromarray(image) for image in images()]
    bert = BertTokenizer.from_pretrained(folder / "bert")
    bert.add_special_tokens({"bos_token": "[DEC]"})
    bert.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    padded = dict(padding="max_length", truncation=True, max_length=35)
    image_reward = _transform(224)
    hps = image_transform(224, is_train=False, resize_longest_max=True)  # what its score() has
    tokenizer = CLIPTokenizerFast.from_pretrained(clip)
    ids = tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77)
    ids = torch.tensor(ids.input_ids)
    pixels = CLIPImageProcessor()(pictures, return_tensors="pt").pixel_values
    model = CLIPModel.from_pretrained(folder / "clip").eval()
    with torch.no_grad():  # as on the model card of PickScore
        image, text = model.get_image_features(pixels), model.get_text_features(ids)
        scores = (image / image.norm(dim=-1, keepdim=True) * text).sum(-1) / text.norm(dim=-1)
    np.savez(
        folder / "packages.npz",
        clip_tokens=ids.numpy(),
        clip_pixels=pixels.numpy(),
        clip_scores=scores.numpy(),
        pick_scores=(model.logit_scale.exp() * scores).detach().numpy(),
        image_reward_tokens=np.array(bert(PROMPTS, **padded).input_ids),
        hps_tokens=get_tokenizer("ViT-H-14")(PROMPTS).numpy(),
        image_reward_pixels=torch.stack([image_reward(picture) for picture in pictures]).numpy(),
        hps_pixels=torch.stack([hps(picture) for picture in pictures]).numpy(),
    )


def worker(folder: Path, clip: str) -> None:
    """Scores by the packages, through the worker."""
    config = rewards_config(folder, clip)
    from async_timestep.training.rewards.packages import PackageRewards

    reward = PackageRewards(config, ("image_reward", "hps"))
    rows = [reward(tensor(im), [text]) for im, text in zip(images(), PROMPTS, strict=True)]
    scores = {name: [row[name].item() for row in rows] for name in reward.names}
    np.savez(folder / "worker.npz", **{f"{name}_scores": row for name, row in scores.items()})


def own(folder: Path, clip: str) -> int:
    """Ours, and the table. Returns 1 when a difference is above its limit."""
    config = rewards_config(folder, clip)
    from async_timestep.training.rewards import PAPER, own_reward

    theirs = {**np.load(folder / "packages.npz"), **np.load(folder / "worker.npz")}
    print("| reward | stage | images or prompts | largest difference | limit | spread |")
    print("|---|---|---|---|---|---|")
    failed = False
    for name in PAPER:
        reward = own_reward(name, config, torch.device("cpu"))
        rows = [reward(tensor(im), [text]) for im, text in zip(images(), PROMPTS, strict=True)]
        found = dict(zip(("tokens", "pixels"), inputs(name, reward), strict=True))
        for stage, mine in {**found, "scores": np.array([r[name].item() for r in rows])}.items():
            other = theirs.get(f"{name}_{stage}")
            if other is None:  # the inputs of PickScore are those of CLIP
                continue
            worst = float(np.abs(mine - other).max())
            failed |= not worst <= LIMIT[stage]
            print(
                f"| {name} | {stage} | {len(mine)} | {worst:.2g} | {LIMIT[stage]:.0e} | "
                f"{float(np.std(other)):.3g} |",
                flush=True,
            )
        del reward
    return int(failed)


def inputs(name: str, reward) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, pixels) that one of our rewards makes of all prompts and images."""
    from async_timestep.training.rewards.clip import token_ids
    from async_timestep.training.rewards.hps import clean
    from async_timestep.training.rewards.image_reward import TOKENS
    from async_timestep.training.rewards.images import padded_as_float, resized_as_pil, to_pil

    if name == "image_reward":
        padded = dict(padding="max_length", truncation=True, max_length=TOKENS)
        tokens = np.array(reward.tokenizer(PROMPTS, **padded).input_ids)
        return tokens, np.concatenate([resized_as_pil(tensor(im), 224) for im in images()])
    if name == "hps":
        tokens = token_ids(reward.tokenizer, [clean(text) for text in PROMPTS], 77).numpy()
        ends = tokens.argmax(-1)[:, None]  # what follows the end token is never read
        tokens = np.where(np.arange(77) > ends, 0, tokens)
        return tokens, np.concatenate([padded_as_float(tensor(im), 224) for im in images()])
    pictures = [to_pil(tensor(im))[0] for im in images()]
    pixels = reward.processor(images=pictures, return_tensors="pt").pixel_values.numpy()
    return token_ids(reward.tokenizer, PROMPTS, 77).numpy(), pixels


STAGES = {"write": write, "packages": packages, "worker": worker, "own": own}
if __name__ == "__main__":
    work, todo, clip_folder = sys.argv[1:]
    sys.exit(STAGES[todo](Path(work), clip_folder))
