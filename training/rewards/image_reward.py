"""ImageReward 1.0 (Xu et al. 2023): BLIP's cross-encoder and a linear head, trained on rankings.

| what           | here                                                                          |
|----------------|-------------------------------------------------------------------------------|
| weights        | ImageReward.pt of THUDM/ImageReward, Apache-2.0 (code and weights)            |
| classes        | transformers' BlipVisionModel (ViT-L/16, 224) and BlipTextModel (12 x 768)    |
| image          | 8 bits, PIL bicubic to 224, centre crop, CLIP's mean and std                  |
| text           | bert-base-uncased with [DEC] and [ENC], 35 tokens, padded                     |
| score          | (head(token 0) - 0.16717362830052426) / 1.0333394966054072                    |
| interpretation | none: held equal to the image-reward package by `make parity`                 |
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
)

from ..run.config import RewardsConfig
from .images import resized_as_pil
from .weights import DTYPES, StateFile, check_vocabulary, from_hub, frozen, published_file

REPOSITORY, FILE = "THUDM/ImageReward", "ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward over the training set
TOKENS = 35
HEAD = 64  # values of one attention head, in both towers
LINEARS = (0, 2, 4, 6, 7)  # of the head; the numbers between were dropout
DROPPED = (
    *(f"blip.{side}_proj.{kind}" for side in ("vision", "text") for kind in ("weight", "bias")),
    "blip.text_encoder.embeddings.position_ids",
)
VISION = "blip.visual_encoder."
TEXT = "blip.text_encoder."
RENAMED = (  # own name of the vision tower -> published name
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.self_attn\.", ".attn."),
)


class Network(nn.Module):
    """Both towers and the head, built to the shapes of a published file."""

    def __init__(self, file: StateFile):
        super().__init__()
        width, _, patch, _ = file.shape(VISION + "patch_embed.proj.weight")
        side = round((file.shape(VISION + "pos_embed")[1] - 1) ** 0.5)
        self.size = side * patch
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width,
                intermediate_size=file.shape(VISION + "blocks.0.mlp.fc1.weight")[0],
                num_hidden_layers=file.count(VISION + "blocks."),
                num_attention_heads=file.heads(width, HEAD),
                image_size=self.size,
                patch_size=patch,
                hidden_act="gelu",
                layer_norm_eps=1e-6,
            )
        )
        self.vocabulary, text_width = file.shape(TEXT + "embeddings.word_embeddings.weight")
        config = BlipTextConfig(
            vocab_size=self.vocabulary,
            hidden_size=text_width,
            encoder_hidden_size=width,
            intermediate_size=file.shape(TEXT + "encoder.layer.0.intermediate.dense.weight")[0],
            num_hidden_layers=file.count(TEXT + "encoder.layer."),
            num_attention_heads=file.heads(text_width, HEAD),
            max_position_embeddings=file.shape(TEXT + "embeddings.position_embeddings.weight")[0],
            hidden_act="gelu",
            layer_norm_eps=1e-12,
            is_decoder=True,  # builds the cross-attention; the masks are an encoder's, see forward
        )
        self.text = BlipTextModel(config, add_pooling_layer=False)
        self.mlp = nn.Sequential()
        for number in LINEARS:
            out, into = file.shape(f"mlp.layers.{number}.weight")
            self.mlp.add_module(str(number), nn.Linear(into, out))

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, 3, size, size), (B, L), (B, L) -> (B,) raw rewards, the head in float32."""
        seen = self.vision(pixels).last_hidden_state
        read = self.text(ids, mask, encoder_hidden_states=seen, is_decoder=False)
        return self.mlp(read.last_hidden_state[:, 0].float())[:, 0]


def published_name(name: str) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """vision.encoder.layers.0.layer_norm1.bias -> blip.visual_encoder.blocks.0.norm1.bias."""
    part, rest = name.split(".", 1)
    if part == "mlp":
        return f"mlp.layers.{rest}", None
    if part == "text":
        return TEXT + rest, None
    for pattern, published in RENAMED:
        rest = re.sub(pattern, published, rest)
    return VISION + rest, None


class ImageReward:
    """`image_reward`: about N(0, 1) over the package's training images; larger is better.

    Raises OSError on a missing file, ValueError on a file or vocabulary that is not the published.
    """

    names = ("image_reward",)

    def __init__(self, config: RewardsConfig, device: torch.device):
        setting = "rewards.image_reward_path"
        path = published_file(config.image_reward_path, REPOSITORY, FILE, setting)
        file = StateFile.read(path, setting, f"{FILE} of {REPOSITORY}")
        network = Network(file)
        file.load_into(network, published_name, DROPPED)
        where, setting = config.image_reward_tokenizer, "rewards.image_reward_tokenizer"
        self.tokenizer = from_hub(
            BertTokenizer.from_pretrained, where, "The vocabulary of ImageReward", setting
        )
        self.tokenizer.add_tokens(["[DEC]", "[ENC]"], special_tokens=True)
        check_vocabulary(self.tokenizer, network.vocabulary, where, setting)
        self.network = frozen(network, device, config.precision)
        self.network.mlp.float()
        self.device, self.dtype = device, DTYPES[config.precision]

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] and one prompt each -> {"image_reward": (B,) float32}."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        pixels = resized_as_pil(images, self.network.size).to(self.device, self.dtype)
        raw = self.network(pixels, tokens.input_ids, tokens.attention_mask)
        return {"image_reward": (raw - MEAN) / STD}
