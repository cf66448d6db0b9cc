"""Tiny files in the published layouts, and their scores in plain torch from the published keys."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from async_timestep.harness.published_layout import hps_shapes, image_reward_shapes
from async_timestep.training.run.config import RewardsConfig

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##a", "cat"]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz\"'&<>"]
CLIP = [*LETTERS, *(c + "</w>" for c in LETTERS), "ca", "cat</w>"]
CLIP += ["<|startoftext|>", "<|endoftext|>"]
LENGTH = 12  # tokens of the tiny CLIPs


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    for key in state:  # an image enters faintly, so that the epsilon of its first norm counts
        if re.search(r"cls_token|pos_embed|patch_embed|visual\.(class|pos|conv1)", key):
            state[key] *= 0.01
    return state


def write_files(folder: Path) -> RewardsConfig:
    """Random models of all four, and the config that names them."""
    state = random_state(
        image_reward_shapes(64, 2, 16, 32, 128, 2, len(BERT) + 2, 40, head=(8, 7, 6, 5, 1)), 0
    )
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    torch.save(state, folder / "ImageReward.pt")
    shapes = hps_shapes(160, 2, 14, 28, 64, 2, len(CLIP), LENGTH, embed=24)
    torch.save({"state_dict": random_state(shapes, 1)}, folder / "HPS_v2_compressed.pt")
    (folder / "vocab.txt").write_text("\n".join(BERT) + "\n")
    save_clip(folder / "clip", 2)
    save_clip(folder / "pick", 3)
    return RewardsConfig(
        clip_model=str(folder / "clip"),
        clip_scale=2.5,
        image_reward_path=str(folder / "ImageReward.pt"),
        image_reward_tokenizer=str(folder),
        hps_path=str(folder / "HPS_v2_compressed.pt"),
        hps_tokenizer=str(folder / "clip"),
        pick_path=str(folder / "pick"),
        pick_processor=str(folder / "pick"),
    )


def save_clip(folder: Path, seed: int) -> None:
    same = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    text = dict(vocab_size=len(CLIP), max_position_embeddings=LENGTH, eos_token_id=len(CLIP) - 1)
    vision = dict(image_size=28, patch_size=14)
    config = CLIPConfig(
        text_config={**same, **text}, vision_config={**same, **vision}, projection_dim=16
    )
    model = CLIPModel(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(random_state(shapes, seed))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(CLIP)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    CLIPImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    ).save_pretrained(folder)


def norm(x: Tensor, state: dict, key: str, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], eps)


def linear(x: Tensor, state: dict, key: str) -> Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, head: int, mask: Tensor | None = None) -> Tensor:
    """(Lq, W), (Lk, W), (Lk, W) -> (Lq, W); one softmax per head of `head` values."""
    rows = []
    for i in range(0, q.shape[1], head):
        logits = q[:, i : i + head] @ k[:, i : i + head].T / head**0.5
        if mask is not None:
            logits = logits.masked_fill(~mask, float("-inf"))
        rows.append(logits.softmax(-1) @ v[:, i : i + head])
    return torch.cat(rows, 1)


def image_reward(state: dict, pixels: Tensor, ids: list[int]) -> float:
    """One image (3, 32, 32) and the ids of its prompt without padding."""
    eye, read = "blip.visual_encoder", "blip.text_encoder"
    patches = F.conv2d(pixels[None], state[f"{eye}.patch_embed.proj.weight"], stride=16)[0]
    patches = patches.flatten(1).T + state[f"{eye}.patch_embed.proj.bias"]
    x = torch.cat([state[f"{eye}.cls_token"][0], patches]) + state[f"{eye}.pos_embed"][0]
    for i in range(2):
        block = f"{eye}.blocks.{i}"
        q, k, v = linear(norm(x, state, f"{block}.norm1", 1e-6), state, f"{block}.attn.qkv").chunk(
            3, -1
        )
        x = x + linear(attend(q, k, v, 64), state, f"{block}.attn.proj")
        hidden = linear(norm(x, state, f"{block}.norm2", 1e-6), state, f"{block}.mlp.fc1")
        x = x + linear(F.gelu(hidden), state, f"{block}.mlp.fc2")
    seen = norm(x, state, f"{eye}.norm", 1e-6)
    words = state[f"{read}.embeddings.word_embeddings.weight"][ids]
    places = state[f"{read}.embeddings.position_embeddings.weight"][: len(ids)]
    y = norm(words + places, state, f"{read}.embeddings.LayerNorm", 1e-12)
    for i in range(2):
        layer = f"{read}.encoder.layer.{i}"
        for kind, source in (("attention", None), ("crossattention", seen)):
            at = f"{layer}.{kind}"
            q = linear(y, state, f"{at}.self.query")
            k, v = (
                linear(y if source is None else source, state, f"{at}.self.{part}")
                for part in ("key", "value")
            )
            out = linear(attend(q, k, v, 64), state, f"{at}.output.dense")
            y = norm(out + y, state, f"{at}.output.LayerNorm", 1e-12)
        hidden = F.gelu(linear(y, state, f"{layer}.intermediate.dense"))
        out = linear(hidden, state, f"{layer}.output.dense")
        y = norm(out + y, state, f"{layer}.output.LayerNorm", 1e-12)
    score = y[0]
    for number in (0, 2, 4, 6, 7):
        score = linear(score, state, f"mlp.layers.{number}")
    return ((score - 0.16717362830052426) / 1.0333394966054072).item()


def tower(x: Tensor, state: dict, key: str, head: int, mask: Tensor | None) -> Tensor:
    for i in range(2):
        block = f"{key}.resblocks.{i}"
        inner = norm(x, state, f"{block}.ln_1")
        fused = (
            inner @ state[f"{block}.attn.in_proj_weight"].T + state[f"{block}.attn.in_proj_bias"]
        )
        x = x + linear(attend(*fused.chunk(3, -1), head, mask), state, f"{block}.attn.out_proj")
        hidden = F.gelu(linear(norm(x, state, f"{block}.ln_2"), state, f"{block}.mlp.c_fc"))
        x = x + linear(hidden, state, f"{block}.mlp.c_proj")
    return x


def hps(state: dict, pixels: Tensor, ids: list[int]) -> float:
    """One image (3, 28, 28) and its ids, the end token last."""
    patches = F.conv2d(pixels[None], state["visual.conv1.weight"], stride=14)[0].flatten(1).T
    x = torch.cat([state["visual.class_embedding"][None], patches])
    x = norm(x + state["visual.positional_embedding"], state, "visual.ln_pre")
    x = tower(x, state, "visual.transformer", 80, None)
    image = norm(x[0], state, "visual.ln_post") @ state["visual.proj"]
    y = state["token_embedding.weight"][ids] + state["positional_embedding"][: len(ids)]
    causal = torch.ones(len(ids), len(ids)).tril().bool()
    y = norm(tower(y, state, "transformer", 64, causal), state, "ln_final")
    return F.cosine_similarity(image, y[-1] @ state["text_projection"], dim=0).item()
