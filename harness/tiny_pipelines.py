"""SD3.5 and Flux pipelines with random weights and a few thousand parameters, in the folder layout
of the published ones: tokenizers, text encoders, transformer, autoencoder, scheduler."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

CHARACTERS = [chr(code) for code in range(33, 127)]
CLIP_L, CLIP_G, T5_WIDTH = 16, 24, 48  # widths; T5's holds both CLIPs, as in SD3.5


def clip_tokenizer() -> CLIPTokenizer:
    """Spells every word: no merges."""
    ends = [letter + "</w>" for letter in CHARACTERS]
    words = [*CHARACTERS, *ends, "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -1.0)]
    return T5TokenizerFast(vocab=special + [(c, -2.0) for c in CHARACTERS], extra_ids=0)


def clip(kind: type, width: int, tokenizer: CLIPTokenizer):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def vae(scale: float, shift: float) -> AutoencoderKL:
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        latent_channels=16,
        norm_num_groups=2,
        sample_size=64,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


SD35 = dict(
    sample_size=16,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=T5_WIDTH,
    caption_projection_dim=32,
    pooled_projection_dim=CLIP_L + CLIP_G,
    pos_embed_max_size=32,
    dual_attention_layers=(0,),
    qk_norm="rms_norm",
)
FLUX = dict(
    num_layers=1,
    num_single_layers=1,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=T5_WIDTH,
    pooled_projection_dim=CLIP_L,
    guidance_embeds=True,
    axes_dims_rope=(4, 6, 6),
)


def sd35_pipeline(network: dict = SD35) -> StableDiffusion3Pipeline:
    """network: the transformer's sizes."""
    torch.manual_seed(1)
    words, pieces = clip_tokenizer(), t5_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(1.5305, 0.0609),
        text_encoder=clip(CLIPTextModelWithProjection, CLIP_L, words),
        tokenizer=words,
        text_encoder_2=clip(CLIPTextModelWithProjection, CLIP_G, words),
        tokenizer_2=words,
        text_encoder_3=t5(pieces),
        tokenizer_3=pieces,
    )


def flux_pipeline(network: dict = FLUX) -> FluxPipeline:
    """network: the transformer's sizes."""
    torch.manual_seed(2)
    words, pieces = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(**network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(0.3611, 0.1159),
        text_encoder=clip(CLIPTextModel, CLIP_L, words),
        tokenizer=words,
        text_encoder_2=t5(pieces),
        tokenizer_2=pieces,
    )


def write_pipelines(folder: Path) -> dict[str, Path]:
    """family -> folder of a saved pipeline."""
    made = {"sd35_medium": sd35_pipeline(), "flux1_dev": flux_pipeline()}
    for family, pipeline in made.items():
        pipeline.save_pretrained(folder / family)
    return {family: folder / family for family in made}
