"""Keys and shapes of the published weight files, for random files of any size in their layout.

ImageReward.pt is BLIP's pretraining model and a head; HPS_v2*_compressed.pt is open_clip's CLIP
under 'state_dict'. The defaults are the published sizes.
"""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


def linear(key: str, out: int, into: int) -> Shapes:
    return {f"{key}.weight": (out, into), f"{key}.bias": (out,)}


def norm(key: str, width: int) -> Shapes:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def image_reward_shapes(
    width: int = 1024,
    layers: int = 24,
    patch: int = 16,
    size: int = 224,
    text_width: int = 768,
    text_layers: int = 12,
    vocabulary: int = 30524,
    positions: int = 512,
    head: tuple[int, ...] = (1024, 128, 64, 16, 1),
) -> Shapes:
    """All parameters; the file also holds the buffer blip.text_encoder.embeddings.position_ids."""
    vision, text = "blip.visual_encoder", "blip.text_encoder"
    shapes: Shapes = {
        f"{vision}.cls_token": (1, 1, width),
        f"{vision}.pos_embed": (1, (size // patch) ** 2 + 1, width),
        f"{vision}.patch_embed.proj.weight": (width, 3, patch, patch),
        f"{vision}.patch_embed.proj.bias": (width,),
        **norm(f"{vision}.norm", width),
        f"{text}.embeddings.word_embeddings.weight": (vocabulary, text_width),
        f"{text}.embeddings.position_embeddings.weight": (positions, text_width),
        **norm(f"{text}.embeddings.LayerNorm", text_width),
        **linear("blip.vision_proj", 256, width),
        **linear("blip.text_proj", 256, text_width),
    }
    for i in range(layers):
        block = f"{vision}.blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width)
        shapes |= linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}.mlp.fc2", width, 4 * width)
    for i in range(text_layers):
        layer = f"{text}.encoder.layer.{i}"
        for attention, into in (("attention", text_width), ("crossattention", width)):
            shapes |= linear(f"{layer}.{attention}.self.query", text_width, text_width)
            shapes |= linear(f"{layer}.{attention}.self.key", text_width, into)
            shapes |= linear(f"{layer}.{attention}.self.value", text_width, into)
            shapes |= linear(f"{layer}.{attention}.output.dense", text_width, text_width)
            shapes |= norm(f"{layer}.{attention}.output.LayerNorm", text_width)
        shapes |= linear(f"{layer}.intermediate.dense", 4 * text_width, text_width)
        shapes |= linear(f"{layer}.output.dense", text_width, 4 * text_width)
        shapes |= norm(f"{layer}.output.LayerNorm", text_width)
    for number, out, into in zip((0, 2, 4, 6, 7), head, (text_width, *head), strict=False):
        shapes |= linear(f"mlp.layers.{number}", out, into)
    return shapes


def hps_shapes(
    width: int = 1280,
    layers: int = 32,
    patch: int = 14,
    size: int = 224,
    text_width: int = 1024,
    text_layers: int = 24,
    vocabulary: int = 49408,
    positions: int = 77,
    embed: int = 1024,
) -> Shapes:
    """Everything in the file's 'state_dict'."""
    shapes: Shapes = {
        "positional_embedding": (positions, text_width),
        "text_projection": (text_width, embed),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        "token_embedding.weight": (vocabulary, text_width),
        **norm("visual.ln_pre", width),
        **norm("visual.ln_post", width),
        **norm("ln_final", text_width),
    }
    for tower, count, wide in (
        ("visual.transformer", layers, width),
        ("transformer", text_layers, text_width),
    ):
        for i in range(count):
            block = f"{tower}.resblocks.{i}"
            shapes |= norm(f"{block}.ln_1", wide) | norm(f"{block}.ln_2", wide)
            shapes[f"{block}.attn.in_proj_weight"] = (3 * wide, wide)
            shapes[f"{block}.attn.in_proj_bias"] = (3 * wide,)
            shapes |= linear(f"{block}.attn.out_proj", wide, wide)
            shapes |= linear(f"{block}.mlp.c_fc", 4 * wide, wide)
            shapes |= linear(f"{block}.mlp.c_proj", wide, 4 * wide)
    return shapes
