"""CLIP score (Hessel et al. 2021): cosine of an image and its prompt.

| what           | here                                                                          |
|----------------|-------------------------------------------------------------------------------|
| weights        | openai/clip-vit-large-patch14, MIT (code and weights)                         |
| classes        | transformers' CLIPModel, CLIPTokenizer (77 tokens), CLIPImageProcessor (PIL)  |
| score          | cosine * rewards.clip_scale                                                   |
| interpretation | which CLIP (the papers' 0.26-0.27 is typical of L/14) and the scale, 1        |

hps.py and pick.py are CLIP models too and use the functions here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from ..run.config import RewardsConfig
from .images import to_pil
from .weights import check_vocabulary, from_hub, frozen

# transformers 5 gave the name to a torchvision one; the published scores are PIL's
ImageProcessor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)


def load_clip(where: str, what: str, setting: str) -> CLIPModel:
    """Raises OSError when it cannot be loaded, ValueError when a tensor lacks or is unknown."""
    model, found = from_hub(
        CLIPModel.from_pretrained,
        where,
        f"The weights of {what}",
        setting,
        output_loading_info=True,
    )
    for kind, word in (("missing_keys", "lack"), ("unexpected_keys", "have the unknown")):
        names = sorted(key for key in found[kind] if not key.endswith(".position_ids"))
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(
                f"The weights of {where} {word} {names[0]}{more}, expected exactly those of a "
                f"CLIPModel; {setting} takes the published ones of {what}."
            )
    return model


def load_tokenizer(where: str, vocabulary: int, what: str, setting: str) -> CLIPTokenizer:
    """Raises OSError when it cannot be loaded, ValueError on another vocabulary."""
    tokenizer = from_hub(CLIPTokenizer.from_pretrained, where, f"The tokenizer of {what}", setting)
    check_vocabulary(tokenizer, vocabulary, where, setting)
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, prompts: list[str], length: int) -> Tensor:
    """(B, length). What pads them is free: attention is causal, the end token is what is read."""
    return tokenizer(
        prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids


def cosines(model: CLIPModel, pixels: Tensor, ids: Tensor) -> Tensor:
    """(B, 3, S, S) and (B, L) -> (B,) cosines, the two vectors normalised in float32."""
    device, dtype = model.logit_scale.device, model.logit_scale.dtype
    image = projected(model.get_image_features(pixels.to(device, dtype)))
    text = projected(model.get_text_features(ids.to(device)))
    return (F.normalize(image, dim=-1) * F.normalize(text, dim=-1)).sum(-1)


def projected(features: Any) -> Tensor:
    """(B, E) float32; transformers 5 returns it inside an output object."""
    return (features if torch.is_tensor(features) else features.pooler_output).float()


class CLIPScore:
    """`clip`: cosine in [-1, 1] times rewards.clip_scale.

    Raises OSError on missing files, ValueError on files that are not a CLIP model's.
    """

    names = ("clip",)

    def __init__(self, config: RewardsConfig, device: torch.device):
        where, setting = config.clip_model, "rewards.clip_model"
        model = load_clip(where, "CLIP", setting)
        text = model.config.text_config
        self.tokenizer = load_tokenizer(where, text.vocab_size, "CLIP", setting)
        self.length, self.scale = text.max_position_embeddings, config.clip_scale
        self.processor = from_hub(
            ImageProcessor.from_pretrained, where, "The image processor of CLIP", setting
        )
        self.model = frozen(model, device, config.precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] and one prompt each -> {"clip": (B,) float32}."""
        pixels = self.processor(images=to_pil(images), return_tensors="pt").pixel_values
        ids = token_ids(self.tokenizer, prompts, self.length)
        return {"clip": self.scale * cosines(self.model, pixels, ids)}
