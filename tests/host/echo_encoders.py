"""Every text encoder of the words' tests: ComfyUI's tokenizer and outer class around a network that
passes token numbers through.
"""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece
import torch
from transformers import PreTrainedTokenizerFast

from comfy import sd1_clip, sdxl_clip
from comfy.text_encoders import (
    aura_t5,
    flux,
    genmo,
    hunyuan_image,
    hunyuan_video,
    kandinsky5,
    lt,
    lumina2,
    omnigen2,
    pixart_t5,
    qwen_image,
    sd2_clip,
    sd3_clip,
    wan,
    z_image,
)

PROMPT = "A photo of a cat, near (one motorcyclist:1.3) and \\(another\\) Cat on a sofa."
WIDTH = {"clip_l": 768, "clip_g": 1280, "clip_h": 1024, "t5xxl": 4096}
LONG = "a blue wall behind a long row of many small green chairs and tables, " * 6


class Echo(torch.nn.Module):
    """A network whose output is its input."""

    def __init__(self, config, dtype, device, operations):
        super().__init__()
        self.num_layers, self.width = 40, config["hidden_size"]

    def get_input_embeddings(self):
        return lambda ids, out_dtype: torch.nn.functional.pad(
            ids.unsqueeze(-1).to(out_dtype), (0, self.width - 1)
        )

    def forward(self, ids, mask, embeds, intermediate_output=None, **kwargs):
        layers = intermediate_output if isinstance(intermediate_output, list) else None
        hidden = torch.stack([embeds] * len(layers), dim=1) if layers else embeds
        return embeds, hidden, embeds[:, 0]


def echo(name: str, **settings) -> sd1_clip.SDClipModel:
    config = {"hidden_size": WIDTH.get(name, 8)}
    return sd1_clip.SDClipModel(textmodel_json_config=config, model_class=Echo, **settings)


def outer(kind, **encoders):
    """A text encoder class of ComfyUI around echoes."""
    model = kind.__new__(kind)
    torch.nn.Module.__init__(model)
    model.dtypes = {torch.float32}
    for name, encoder in encoders.items():
        setattr(model, name, encoder)
    return model


def one(kind, name, clip=None, **settings):
    model = outer(kind, **{clip or name: echo(clip or name, **settings)})
    model.clip_name, model.clip = name, clip or name
    return model


T5 = {"special_tokens": {"end": 1, "pad": 0}}
QWEN = {"special_tokens": {"pad": 151643}, "return_attention_masks": True}
LLAMA = {"special_tokens": {"start": 128000, "pad": 128258}, "return_attention_masks": True}
G = {"special_tokens": {"start": 49406, "end": 49407, "pad": 0}}


def sd3(clip_l=True, clip_g=True, t5=True):
    model = outer(
        sd3_clip.SD3ClipModel,
        clip_l=echo("clip_l") if clip_l else None,
        clip_g=echo("clip_g", **G) if clip_g else None,
        t5xxl=echo("t5xxl", **T5) if t5 else None,
    )
    model.t5_attention_mask = False
    return model


def flux1():
    return outer(flux.FluxClipModel, clip_l=echo("clip_l"), t5xxl=echo("t5xxl", **T5))


def sdxl():
    return outer(sdxl_clip.SDXLClipModel, clip_l=echo("clip_l"), clip_g=echo("clip_g", **G))


def with_clip_l(kind, name, **settings):
    model = one(kind, name, **settings)
    model.clip_l = echo("clip_l")
    return model


def hunyuan_image_te():
    model = one(hunyuan_image.HunyuanImageTEModel, "qwen25_7b", **QWEN)
    model.byt5_small = None
    return model


class Llama3(hunyuan_video.HunyuanVideoTokenizer):
    """transformers 5 reads this tokenizer.json without its byte level: the spaces get lost."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        file = Path(hunyuan_video.__file__).parent / "llama_tokenizer" / "tokenizer.json"
        self.llama.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))


def spiece() -> torch.Tensor:
    """A sentencepiece model of our own: those of Gemma and UMT5 come inside checkpoints."""
    file = io.BytesIO()
    corpus = [PROMPT, "a motor cyclist cat dog photo of another sofa near the wall", LONG] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=file, vocab_size=360, byte_fallback=True,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, hard_vocab_limit=False, minloglevel=2,
        num_threads=1,
        user_defined_symbols=["<end_of_turn>", "▁cat", "▁dog", "▁Cat", "▁Dog"],
    )  # fmt: skip
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


ENCODERS = {
    "sd1": (sd1_clip.SD1Tokenizer, lambda: one(sd1_clip.SD1ClipModel, "l", "clip_l")),
    "sd2": (sd2_clip.SD2Tokenizer, lambda: one(sd2_clip.SD2ClipModel, "h", "clip_h", **G)),
    "refiner": (
        sdxl_clip.SDXLTokenizer,
        lambda: one(sdxl_clip.SDXLRefinerClipModel, "g", "clip_g", **G),
    ),
    "sdxl": (sdxl_clip.SDXLTokenizer, sdxl),
    "sd3": (sd3_clip.SD3Tokenizer, sd3),
    "sd3 no T5": (sd3_clip.SD3Tokenizer, lambda: sd3(t5=False)),
    "sd3 only T5": (sd3_clip.SD3Tokenizer, lambda: sd3(clip_l=False, clip_g=False)),
    "sd3 G, T5": (sd3_clip.SD3Tokenizer, lambda: sd3(clip_l=False)),
    "flux": (flux.FluxTokenizer, flux1),
    "pixart, chroma": (
        pixart_t5.PixArtTokenizer,
        lambda: one(pixart_t5.PixArtT5XXL, "t5xxl", **T5),
    ),
    "ltxv": (lt.LTXVT5Tokenizer, lambda: one(genmo.MochiT5XXL, "t5xxl", **T5)),
    "aura": (
        aura_t5.AuraT5Tokenizer,
        lambda: one(aura_t5.AuraT5Model, "pile_t5xl", special_tokens={"end": 2, "pad": 1}),
    ),
    "wan": (wan.WanT5Tokenizer, lambda: one(wan.WanT5Model, "umt5xxl", **T5)),
    "lumina2": (lumina2.LuminaTokenizer, lambda: one(lumina2.LuminaModel, "gemma2_2b", **QWEN)),
    "z-image": (z_image.ZImageTokenizer, lambda: one(z_image.ZImageTEModel, "qwen3_4b", **QWEN)),
    "flux2 klein": (
        flux.KleinTokenizer,
        lambda: one(flux.Flux2TEModel, "qwen3_4b", layer=[9, 18, 27], **QWEN),
    ),
    "omnigen2": (
        omnigen2.Omnigen2Tokenizer,
        lambda: one(omnigen2.Omnigen2Model, "qwen25_3b", **QWEN),
    ),
    "qwen-image": (
        qwen_image.QwenImageTokenizer,
        lambda: one(qwen_image.QwenImageTEModel, "qwen25_7b", **QWEN),
    ),
    "kandinsky5": (
        kandinsky5.Kandinsky5TokenizerImage,
        lambda: with_clip_l(kandinsky5.Kandinsky5TEModel, "qwen25_7b", **QWEN),
    ),
    "hunyuan-image": (hunyuan_image.HunyuanImageTokenizer, hunyuan_image_te),
    "hunyuan-video 1.5": (hunyuan_video.HunyuanVideo15Tokenizer, hunyuan_image_te),
    "hunyuan-video": (
        Llama3,
        lambda: outer(
            hunyuan_video.HunyuanVideoClipModel,
            clip_l=echo("clip_l"),
            llama=echo("llama", **LLAMA),
        ),
    ),
}
