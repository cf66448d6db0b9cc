"""The columns of a word, against what ComfyUI's own encode functions put into the conditioning.

Each text encoder runs behind its real tokenizer and its real outer class; the network inside only
passes token numbers through, so a column of the conditioning shows which token it was made of.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from echo_encoders import ENCODERS, LONG, PROMPT, one, outer, spiece
from safetensors.torch import save_file

import comfy.sd
from comfy import sd1_clip
from comfy.text_encoders import hidream


@pytest.fixture(scope="session")
def vectors(tmp_path_factory) -> Path:
    """Two textual inversions: `three` vectors for all of CLIP-L, CLIP-G; `small` for CLIP-L."""
    folder = tmp_path_factory.mktemp("embeddings")
    tensors = {"clip_l": torch.full((3, 768), 0.5), "clip_g": torch.full((3, 1280), 0.5)}
    save_file(tensors, folder / "three.safetensors")
    save_file({"emb_params": torch.full((2, 768), 0.5)}, folder / "small.safetensors")
    return folder


@pytest.fixture(scope="session")
def clips(pack, vectors):
    """Name of ENCODERS -> CLIP, made once."""
    made = {}
    data = {"spiece_model": spiece()}

    def make(name: str):
        if name not in made:
            tokenizer, model = ENCODERS[name]
            made[name] = comfy.sd.CLIP(
                SimpleNamespace(params={}, clip=lambda **kw: model(), tokenizer=tokenizer),
                embedding_directory=str(vectors),
                tokenizer_data=data,
            )
        return made[name]

    return make


@pytest.fixture(scope="session")
def words(pack):
    return pack("nodes.run.words")


def conditioning(clip, text: str) -> torch.Tensor:
    return clip.encode_from_tokens(clip.tokenize(text))[0]


def changed(clip, text: str, other: str) -> list[int]:
    """Columns that differ between the conditionings of two prompts with as many tokens."""
    a, b = conditioning(clip, text), conditioning(clip, other)
    assert a.shape == b.shape
    return (a != b).any(dim=-1).nonzero().flatten().tolist()


@pytest.mark.parametrize("name", ENCODERS)
def test_columns_are_those_that_change_with_the_word(clips, words, name):
    clip = clips(name)
    found = words.word_columns(clip, PROMPT, "cat, Motorcyclist,another cat")
    assert list(found) == ["cat", "Motorcyclist", "another cat"]
    assert found["cat"] == changed(clip, PROMPT, PROMPT.replace("cat", "dog").replace("Cat", "Dog"))
    assert len(found["Motorcyclist"]) >= 2
    another = words.word_columns(clip, PROMPT, "another")["another"]
    assert set(another) < set(found["another cat"]) < {*another, *found["cat"]}


def test_the_list_of_words_is_the_prompts(clips, words):
    """Without the instruction around the text; weights are text where ComfyUI reads none."""
    for name in ENCODERS:
        with pytest.raises(ValueError) as error:
            words.word_columns(clips(name), "A cat, (on:1.5) the\n2nd sofa!", "dog")
        listed = str(error.value).split(": ")[1]
        plain = name in ("z-image", "flux2 klein", "qwen-image", "kandinsky5") or "-" in name
        number = "1, 5, " if plain and name != "hunyuan-video" else ""
        assert listed == f"a, cat, on, {number}the, 2, nd, sofa.", name


@pytest.mark.parametrize(
    "text, word, naive, columns",
    [  # what the public AsynDM code takes: the word's number in the prompt as the token's number
        ("a brain riding a rocketship", "brain", 1, [2]),
        ("a brain riding a rocketship", "rocketship", 4, [5, 6]),
        ("one motorcyclist, one cat", "cat", 3, [6]),
        ("(a skateboarder) and a dog's bone", "bone", 5, [8]),
    ],
)
def test_words_are_not_counted_but_found(clips, words, text, word, naive, columns):
    assert text.replace("dog's", "dogs").replace(",", "").split().index(word) == naive
    assert words.word_columns(clips("sd1"), text, word) == {word: columns}
    pieces = clips("sd1").tokenizer.untokenize(clips("sd1").tokenize(text)["l"][0])
    assert "".join(pieces[c][1] for c in columns).replace("</w>", "") == word
    assert naive not in columns


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux", "z-image", "qwen-image"])
def test_what_is_a_word(clips, words, name):
    def columns(text, word):
        return words.word_columns(clips(name), text, word)[word]

    clip = clips(name)
    assert columns("a red, circle", "red circle") == changed(
        clip, "a red, circle", "a blue, square"
    )
    assert columns("A CAFÉ", "café") == columns("A CAFÉ", " Café ".strip())
    assert columns("a 1024 px 3d cat", "1024") and columns("a 1024 px 3d cat", "3d")
    assert columns("my t-shirt", "t-shirt") and columns("the dog's bone", "dog")
    assert words.word_columns(clip, "cat", "cat, ,cat\n") == {"cat": columns("cat", "cat")}
    for text, word in [
        ("a cathedral", "cat"),
        ("a concat", "cat"),
        ("cats", "cat"),
        ("a circle red", "red circle"),
        ("1024", "2"),
        ("", "cat"),
        ("a cat", "user"),
        ("a cat", "image"),
        ("a cat", "!"),
    ]:
        with pytest.raises(ValueError, match=f"found no word '{word}' in the prompt"):
            columns(text, word)


def test_writing_without_spaces(clips, words):
    clip = clips("qwen-image")
    assert words.word_columns(clip, "一只猫坐着", "猫")["猫"]
    with pytest.raises(ValueError, match="its words are: 一, 只, 猫"):
        words.word_columns(clip, "一只猫", "狗")
    assert words.word_columns(clips("sd1"), "一只猫", "猫")["猫"] == [5, 6, 7]


def test_messages(clips, words):
    with pytest.raises(ValueError) as error:
        words.word_columns(clips("sd1"), "a cat on sofa", "cat, dog")
    assert str(error.value) == (
        "AsynDM Region Mask found no word 'dog' in the prompt; its words are: a, cat, on, sofa."
    )
    with pytest.raises(ValueError, match="found no word 'dog' in the prompt, which has no words.$"):
        words.word_columns(clips("qwen-image"), "", "dog")
    for nothing in ("", " , ,"):
        with pytest.raises(ValueError, match="got no words; type words of the prompt"):
            words.word_columns(clips("sd1"), "a cat", nothing)


def test_unknown_layouts_are_refused(clips, words):
    class Shorter(sd1_clip.SDClipModel):
        def encode_token_weights(self, tokens):
            return super().encode_token_weights(tokens)[:, 3:]

    class HiDreamTEModel_(hidream.HiDreamTEModel):
        pass

    inner = one(sd1_clip.SD1ClipModel, "l", "clip_l")
    inner.clip_l.__class__ = Shorter
    for model in (outer(HiDreamTEModel_), inner):
        name = type(model).__name__.rstrip("_")
        clip = SimpleNamespace(cond_stage_model=model, tokenizer=None)
        with pytest.raises(ValueError, match=f"does not know where the words of {name} text enc"):
            words.word_columns(clip, "a cat", "cat")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "refiner", "sd3", "sd3 G, T5"])
def test_two_chunks(clips, words, name):
    clip, text = clips(name), f"a cat {LONG} with a cat"
    columns = words.word_columns(clip, text, "cat")["cat"]
    assert conditioning(clip, text).shape[0] >= 154
    assert columns == changed(clip, text, text.replace("cat", "dog"))
    assert columns[0] == 2 and 77 < columns[1] < 154
    assert len(columns) == 2 + 2 * name.startswith("sd3")
    if name.startswith("sd3"):
        assert columns[2:] == [154 + 2, conditioning(clip, text).shape[0] - 2]


def test_a_long_word_over_the_border_of_chunks(clips, words):
    text = "cat " * 74 + "motorcyclist"
    assert words.word_columns(clips("sd1"), text, "motorcyclist") == {"motorcyclist": [75, 78]}


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_textual_inversion(clips, words, name):
    clip = clips(name)
    text = "a photo of embedding:three, with a cat"
    columns = words.word_columns(clip, text, "cat")["cat"]
    assert columns == changed(clip, text, text.replace("cat", "dog"))
    assert columns[0] == 10
    # of the wrong width for CLIP-G and T5: ComfyUI drops the vectors, the cat moves forward
    text = text.replace("three", "small")
    columns = words.word_columns(clip, text, "cat")["cat"]
    assert columns == changed(clip, text, text.replace("cat", "dog"))
    assert columns[0] == {"sd1": 9, "sdxl": 7, "sd3": 7}[name]


def test_crops_of_typed_templates(clips, words):
    """A text with its own template replaces the stock one; the cut follows it."""
    own = "<|im_start|>system\nShort.<|im_end|>\n<|im_start|>user\na cat<|im_end|>\n"
    for name in ("qwen-image", "hunyuan-image", "kandinsky5"):
        columns = words.word_columns(clips(name), own, "cat")["cat"]
        assert columns == [1] == changed(clips(name), own, own.replace("cat", "dog"))
    refiner = "<|start_header_id|>system<|end_header_id|>" + " a long text" * 12 + " with a cat"
    columns = words.word_columns(clips("hunyuan-image"), refiner, "cat")["cat"]
    assert columns == changed(clips("hunyuan-image"), refiner, refiner.replace("cat", "dog"))


def test_demo_model(pack, words):
    clip = pack("nodes.demo").load_demo_clip()
    text = "two red circles above a (blue:1.4) star on a red background"
    assert words.word_columns(clip, text, "red,Circles, blue star") == {
        "red": [1, 6],
        "Circles": [2],
        "blue star": [4, 5],
    }
    assert changed(clip, text, text.replace("red", "green")) == [1, 6]
    with pytest.raises(
        ValueError, match="'a' in the prompt; its words are: two, red, circle, above"
    ):
        words.word_columns(clip, text, "a")


def test_a_real_causal_clip(pack, words):
    """Random weights in ComfyUI's own two-layer CLIP-L: the first column that changes is ours."""
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    torch.manual_seed(0)
    shapes = sd1_clip.SDClipModel(
        model_options={"clip_l_model_config": config, "model_name": "clip_l"}
    )
    state = {k: torch.randn_like(v) * 0.1 for k, v in shapes.transformer.state_dict().items()}
    clip = comfy.sd.load_text_encoder_state_dicts([state], model_options={"model_config": config})
    text = "one motorcyclist beside a small cat, at night"
    for word, other in [("cat", "dog"), ("motorcyclist", "skateboarder"), ("night", "noon")]:
        columns = words.word_columns(clip, text, word)[word]
        assert changed(clip, text, text.replace(word, other))[0] == columns[0]
