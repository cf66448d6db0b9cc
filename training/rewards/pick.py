"""PickScore v1 (Kirstain et al. 2023): a CLIP ViT-H/14 trained on what users picked.

| what           | here                                                                          |
|----------------|-------------------------------------------------------------------------------|
| weights        | yuvalkirstain/PickScore_v1, MIT                                               |
| processor      | laion/CLIP-ViT-H-14-laion2B-s32B-b79K, MIT (the model card's)                 |
| classes        | transformers' CLIPModel, CLIPTokenizer (77 tokens), CLIPImageProcessor (PIL)  |
| score          | exp(logit_scale) * cosine, as on the model card; some divide it by 26         |
| interpretation | none                                                                          |
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..run.config import RewardsConfig
from .clip import ImageProcessor, cosines, load_clip, load_tokenizer, token_ids
from .images import to_pil
from .weights import from_hub, frozen


class PickScore:
    """`pick`: about 20 to 23 for generated images; larger is better.

    Raises OSError on missing files, ValueError on files that are not a CLIP model's.
    """

    names = ("pick",)

    def __init__(self, config: RewardsConfig, device: torch.device):
        model = load_clip(config.pick_path, "PickScore", "rewards.pick_path")
        text = model.config.text_config
        where, setting = config.pick_processor, "rewards.pick_processor"
        self.length = text.max_position_embeddings
        self.tokenizer = load_tokenizer(where, text.vocab_size, "PickScore", setting)
        self.processor = from_hub(
            ImageProcessor.from_pretrained, where, "The image processor of PickScore", setting
        )
        self.scale = model.logit_scale.detach().float().exp().item()  # before it is rounded
        self.model = frozen(model, device, config.precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] and one prompt each -> {"pick": (B,) float32}."""
        pixels = self.processor(images=to_pil(images), return_tensors="pt").pixel_values
        ids = token_ids(self.tokenizer, prompts, self.length)
        return {"pick": self.scale * cosines(self.model, pixels, ids)}
