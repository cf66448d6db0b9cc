"""Human Preference Score v2 (Wu et al. 2023): a CLIP ViT-H/14 trained on rankings.

| what           | here                                                                          |
|----------------|-------------------------------------------------------------------------------|
| weights        | HPS_v2_compressed.pt or HPS_v2.1_compressed.pt of xswu/HPSv2, Apache-2.0      |
| classes        | transformers' CLIPModel; the file is in open_clip's layout, see RENAMED       |
| image          | 8 bits / 255, bicubic on floats, longest side to 224, black bars, CLIP's mean |
|                | and std; the package builds a centre crop too, but score() does not use it    |
| text           | CLIP's 77 tokens of the prompt after `clean`                                  |
| score          | cosine                                                                        |
| interpretation | the version (rewards.hps_version); antialiased resize, which is what the      |
|                | package does since torchvision 0.17 (before, it resized tensors without)      |
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from ..run.config import RewardsConfig
from .clip import cosines, load_tokenizer, token_ids
from .images import padded_as_float
from .weights import StateFile, frozen, published_file

REPOSITORY = "xswu/HPSv2"
FILES = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
VISION_HEAD, TEXT_HEAD = 80, 64  # values of one attention head
RENAMED = (  # own name -> published name; tried in order, all that fit
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    (r"\.self_attn\.[qkv]_proj\.", ".attn.in_proj_"),
)
PROJECTIONS = {"visual_projection": "visual.proj", "text_projection": "text_projection"}


def published_name(name: str) -> tuple[str, Callable[[Tensor], Tensor] | None]:
    """The key in open_clip's layout, which fuses q, k and v and transposes the projections."""
    top = name.split(".")[0]
    if top in PROJECTIONS:
        return PROJECTIONS[top], lambda tensor: tensor.T
    key = name
    for pattern, published in RENAMED:
        key = re.sub(pattern, published, key)
    fused = re.search(r"\.self_attn\.([qkv])_proj\.", name)
    if fused:
        part = "qkv".index(fused[1])
        return key, lambda tensor: tensor.chunk(3)[part]
    return key, None


def build(file: StateFile) -> CLIPModel:
    """A CLIPModel of the shapes of the file."""
    width, _, patch, _ = file.shape("visual.conv1.weight")
    side = round((file.shape("visual.positional_embedding")[0] - 1) ** 0.5)
    vocabulary, text_width = file.shape("token_embedding.weight")
    embed = file.shape("text_projection")[1]
    vision = dict(
        hidden_size=width,
        intermediate_size=file.shape("visual.transformer.resblocks.0.mlp.c_fc.weight")[0],
        num_hidden_layers=file.count("visual.transformer.resblocks."),
        num_attention_heads=file.heads(width, VISION_HEAD),
        image_size=side * patch,
        patch_size=patch,
    )
    text = dict(
        vocab_size=vocabulary,
        hidden_size=text_width,
        intermediate_size=file.shape("transformer.resblocks.0.mlp.c_fc.weight")[0],
        num_hidden_layers=file.count("transformer.resblocks."),
        num_attention_heads=file.heads(text_width, TEXT_HEAD),
        max_position_embeddings=file.shape("positional_embedding")[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,  # open_clip reads the text at the highest id of a row
        pad_token_id=vocabulary - 1,
    )
    same = dict(hidden_act="gelu", layer_norm_eps=1e-5, projection_dim=embed)
    return CLIPModel(
        CLIPConfig(
            text_config={**text, **same}, vision_config={**vision, **same}, projection_dim=embed
        )
    )


def clean(prompt: str) -> str:
    """What hpsv2 makes of a prompt before its tokens; the repair of mojibake is left out.

    It calls ftfy (straight quotes, no ligatures, standard width, no control characters), twice
    html.unescape, and joins white space.
    """
    text = html.unescape(prompt) if "<" not in prompt else prompt  # as ftfy: not in markup
    text = re.sub(r"\x1b\[[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]", "", text)
    text = "".join(unicodedata.normalize("NFKC", c) if compatible(c) else c for c in text)
    text = re.sub("[\u201c-\u201f]", '"', re.sub("[\u02bc\u2018-\u201b]", "'", text))
    text = re.sub("[\x00-\x08\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]", "", text)
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return re.sub(r"\s+", " ", text).strip()


def compatible(character: str) -> bool:
    """Ligatures, and forms of half or full width."""
    return (
        character in "\u0132\u0133\u0149\u01f1\u01f2\u01f3\u3000"
        or "\u01c4" <= character <= "\u01cc"
        or "\ufb00" <= character <= "\ufb06"
        or "\uff01" <= character <= "\uffef"
    )


class HPSv2:
    """`hps`: cosine in [-1, 1], about 0.2 to 0.35 for generated images.

    Raises OSError on a missing file, ValueError on a file or vocabulary that is not the published.
    """

    names = ("hps",)

    def __init__(self, config: RewardsConfig, device: torch.device):
        name, setting = FILES[config.hps_version], "rewards.hps_path"
        path = published_file(config.hps_path, REPOSITORY, name, setting)
        file = StateFile.read(path, setting, f"{name} of {REPOSITORY}", inside="state_dict")
        model = build(file)
        file.load_into(model, published_name)
        text = model.config.text_config
        self.length = text.max_position_embeddings
        self.size = model.config.vision_config.image_size
        self.tokenizer = load_tokenizer(
            config.hps_tokenizer, text.vocab_size, "HPSv2", "rewards.hps_tokenizer"
        )
        self.model = frozen(model, device, config.precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] and one prompt each -> {"hps": (B,) float32}."""
        pixels = padded_as_float(images, self.size)
        ids = token_ids(self.tokenizer, [clean(prompt) for prompt in prompts], self.length)
        return {"hps": cosines(self.model, pixels, ids)}
