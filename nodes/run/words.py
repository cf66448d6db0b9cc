"""Which columns of a CONDITIONING (its token axis) belong to a word of the prompt.

A CONDITIONING carries no text, so the prompt is tokenized again. The pieces of each text encoder
are spelled out to characters that remember their tokens; words are then looked up in that text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from numbers import Integral
from typing import NamedTuple

import torch

from comfy.sd1_clip import ClipTokenWeightEncoder, SDClipModel
from comfy.text_encoders.hunyuan_image import HunyuanImageTEModel

from ...tpm.metadata import shown

NAME = "AsynDM Region Mask"
MOST = 160  # letters of the prompt in a message
END = "\x1f"  # CLIP's end of a word; digits each have one, so 1024 arrives as four pieces
CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces: each is a word
WORD = re.compile(rf"\d(?:{END}?\d)*|[{CJK}]|(?:(?![{CJK}])[^\W\d_])+")
CHARACTER = re.compile(rb"[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*|[\x80-\xbf]")  # in UTF-8
QWEN_START, QWEN_USER = 151644, [872, 198]  # <|im_start|>, "user\n"
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
HIDDEN = [b for b in range(256) if b not in PRINTABLE]
# GPT-2's alphabet: a printable Latin-1 byte is itself, every other a character from 256 on
ALPHABET = {chr(b): b for b in PRINTABLE} | {chr(256 + n): b for n, b in enumerate(HIDDEN)}
LLAMA_USER, LLAMA_END, LLAMA_BREAK = [128006, 882, 128007], 128009, 271  # last: "\n\n"


class Part(NamedTuple):  # tokens [first, last) of an encoder, all chunks in a row
    key: str
    first: int
    last: int
    column: int  # of the first


class Token(NamedTuple):
    position: int
    value: int | None  # None: an embedding vector
    group: int  # ComfyUI's word id: one weighted segment of the prompt, or one embedding


def word_columns(clip, text: str, words: str) -> dict[str, list[int]]:
    """word -> sorted columns of the conditioning that clip.encode_from_tokens(clip.tokenize(text))
    makes: all pieces of all occurrences.

    `words` is comma separated; an entry of several words is found where these are consecutive.
    A word is a run of letters or a run of digits, so t-shirt and 3d are two words each. Raises
    ValueError on a word that the prompt has not, and on encoders of an unknown layout.
    """
    wanted = list(dict.fromkeys(w.strip() for w in re.split("[,，\n]", words) if w.strip()))
    if not wanted:
        raise ValueError(f"{NAME} got no words; type words of the prompt, separated by commas.")
    spoken = [spoken_words(clip, text, part) for part in layout(clip, text)]
    found = {}
    for word in wanted:
        names = [spelling(clip.tokenizer, normal(w)) for w in WORD.findall(normal(word))]
        found[word] = sorted(set().union(*(occurrences(s, names) for s in spoken)))
        if not found[word]:
            known = ", ".join(dict.fromkeys(name for s in spoken for name, _ in s))
            known = known if len(known) <= MOST else known[: known.rfind(",", 0, MOST)] + " ..."
            listed = f"; its words are: {known}." if known else ", which has no words."
            raise ValueError(f"{NAME} found no word {shown(word)} in the prompt{listed}")
    return found


def layout(clip, text: str) -> list[Part]:
    """By the class whose encode_token_weights is used: that function makes the conditioning."""
    model = clip.cond_stage_model
    maker = next(c for c in type(model).__mro__ if "encode_token_weights" in vars(c)).__name__
    if maker not in LAYOUTS or not all(map(keeps_length, model.children())):
        kind = f"{type(model).__name__.rstrip('_')} text encoders"
        raise ValueError(f"{NAME} does not know where the words of {kind} stand; use mode mask.")
    return LAYOUTS[maker](model, clip.tokenize(text))


def keeps_length(encoder) -> bool:
    """Whether it makes one vector of each token, as ComfyUI's common class does."""
    kind = type(encoder)
    common = (ClipTokenWeightEncoder.encode_token_weights, SDClipModel.forward)
    return (getattr(kind, "encode_token_weights", None), kind.forward) == common


def whole(key: str, tokens: dict, first: int = 0, column: int = 0) -> Part:
    return Part(key, first, sum(map(len, tokens[key])), column)


def first_ids(chunks: list) -> list[int | None]:
    return [pair[0] if isinstance(pair[0], Integral) else None for pair in chunks[0]]


def single(model, tokens: dict) -> list[Part]:
    """One encoder makes the columns. Flux's CLIP-L makes only the pooled vector."""
    names = (getattr(model, "clip_name", None), "t5xxl", "tiny")
    return [whole(next(name for name in names if name in tokens), tokens)]


def clip_then_t5(model, tokens: dict) -> list[Part]:
    """CLIP-L and CLIP-G on the channels, cut to the shorter; behind them T5. Any may be absent."""
    loaded = [k for k in ("l", "g") if getattr(model, f"clip_{k}") is not None]
    width = min((whole(key, tokens).last for key in loaded), default=0)
    t5 = [whole("t5xxl", tokens, column=width)] if getattr(model, "t5xxl", None) else []
    return [Part(key, 0, width, 0) for key in loaded] + t5


def qwen_cropped(model, tokens: dict) -> list[Part]:
    """Without all before the second <|im_start|>, and without this and its "user\\n"."""
    ids = first_ids(tokens["qwen25_7b"])
    if isinstance(model, HunyuanImageTEModel) and ids[0] == 27 and len(ids) > 36:
        return [whole("qwen25_7b", tokens, 36)]  # the refiner's template begins with "<"
    starts = [i for i, token in enumerate(ids) if token == QWEN_START]
    first = starts[:2][-1] if starts else len(ids) - 1  # ComfyUI's -1: the last token only
    if len(ids) > first + 3 and ids[first + 1 : first + 3] == QWEN_USER:
        first += 3
    return [whole("qwen25_7b", tokens, first)]


def hunyuan_video_cropped(model, tokens: dict) -> list[Part]:
    """From the end of the last user header, or its line break, to the <|eot_id|> behind it."""
    ids = first_ids(tokens["llama"])
    headers = [i for i in range(len(ids)) if ids[i : i + 3] == LLAMA_USER]
    first = headers[-1] + 2 if headers else 0
    last = ids.index(LLAMA_END, first) + 1 if headers and LLAMA_END in ids[first:] else len(ids)
    if len(ids) > first + 2 and ids[first + 1] == LLAMA_BREAK:
        first += 2
    return [Part("llama", first, last, 0)]


LAYOUTS = {
    "SD1ClipModel": single,  # SD 1/2, SDXL refiner, PixArt, Chroma, LTXV, Wan, Lumina 2, Z-Image
    "Flux2TEModel": single,
    "TinyText": single,  # the embedded demo model
    "FluxClipModel": single,
    "SDXLClipModel": clip_then_t5,
    "SD3ClipModel": clip_then_t5,
    "QwenImageTEModel": qwen_cropped,
    "Kandinsky5TEModel": qwen_cropped,
    "HunyuanImageTEModel": qwen_cropped,  # HunyuanVideo 1.5 too
    "HunyuanVideoClipModel": hunyuan_video_cropped,
}


def spoken_words(clip, text: str, part: Part) -> list[tuple[str, set[int]]]:
    """The prompt's words in order, as this encoder reads them, with their columns."""
    parts = vars(clip.tokenizer)
    tokenizer = parts.get(f"clip_{part.key}", parts.get(part.key, clip.tokenizer))
    width = getattr(tokenizer, "embedding_size", None)
    tokens, template = (list(prompt_tokens(clip, t, part.key, width)) for t in (text, ""))
    # an empty prompt leaves the instruction that some tokenizers put around the text
    head = shared(tokens, template)
    tail = shared(tokens[head:][::-1], template[head:][::-1])
    spelled, owners = spell(tokenizer, tokens[head : len(tokens) - tail])
    spoken = []
    for match in WORD.finditer(spelled):
        positions = set().union(*owners[slice(*match.span())])
        kept = {p - part.first + part.column for p in positions if part.first <= p < part.last}
        spoken.append((normal(match[0]), kept))
    return [(word, columns) for word, columns in spoken if columns]


def prompt_tokens(clip, text: str, key: str, width: int | None) -> Iterator[Token]:
    """The tokens that came from text; the id 0 marks start, end and padding."""
    start = 0
    for chunk in clip.tokenize(text, return_word_ids=True)[key]:
        # ComfyUI drops vectors of another width, closes the gap and pads the chunk's end
        kept = [t for t in chunk if not torch.is_tensor(t[0]) or t[0].shape[-1] == width]
        for position, (value, _, group) in enumerate(kept, start):
            if group:
                yield Token(position, value if isinstance(value, Integral) else None, group)
        start += len(chunk)


def shared(a: list[Token], b: list[Token]) -> int:
    return [*(x.value == y.value for x, y in zip(a, b, strict=False)), False].index(False)


def spell(tokenizer, tokens: list[Token]) -> tuple[str, list[set[int]]]:
    """The text of the tokens and, for each character, their positions: a rare one has several."""
    sentencepiece = "▁" in getattr(tokenizer, "inv_vocab", {}).values()
    data, owners, group = bytearray(), [], 0
    for token in tokens:
        piece = b" " if token.group != group else b""
        if token.value is not None:
            ((_, name),) = tokenizer.untokenize([(token.value, 1.0, token.group)])
            piece += piece_bytes(name, sentencepiece)
        data += piece
        owners += [token.position] * len(piece)
        group = token.group
    spans = [match.span() for match in CHARACTER.finditer(bytes(data))]
    text = "".join(data[a:b].decode("utf-8", "replace")[0] for a, b in spans)
    return text, [set(owners[a:b]) for a, b in spans]


def piece_bytes(piece: str, sentencepiece: bool) -> bytes:
    """UTF-8 of a vocabulary entry; maybe only some bytes of a character."""
    if sentencepiece:
        byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
        text = " " if piece == "<unk>" else piece.replace("▁", " ")
        return bytes.fromhex(byte[1]) if byte else text.encode()
    stem = piece.removesuffix("</w>")
    return bytes(ALPHABET.get(c, 63) for c in stem) + END.encode() * (stem != piece)  # 63 is "?"


def normal(word: str) -> str:
    return unicodedata.normalize("NFKC", word.replace(END, "")).casefold()


def spelling(tokenizer, word: str) -> str:
    """The demo model's word table has one row, spelled circle, for circle and circles."""
    row = getattr(tokenizer, "rows", {}).get(word, -1)
    return word if row < 0 else tokenizer.untokenize([(row, 1.0)])[0][1]


def occurrences(spoken: list[tuple[str, set[int]]], wanted: list[str]) -> set[int]:
    """Columns of all places where the wanted words are consecutive."""
    names, n = [name for name, _ in spoken], len(wanted)
    starts = [i for i in range(len(names) - n + 1) if n and names[i : i + n] == wanted]
    return set().union(*(spoken[j][1] for i in starts for j in range(i, i + n)))
