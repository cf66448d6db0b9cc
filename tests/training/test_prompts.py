"""Readers of prompt files, splits, draws and the order of training."""

from __future__ import annotations

import builtins
import hashlib
import json
import random
import sys
from collections import Counter
from types import SimpleNamespace

import huggingface_hub
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_timestep.training.data.prompt_files import (
    T2I_CATEGORIES,
    Prompt,
    PromptError,
    read_coco,
    read_prompts,
)
from async_timestep.training.data.prompts import (
    PromptList,
    load_prompts,
    training_order,
)
from async_timestep.training.run.config import DataConfig
from async_timestep.training.tiny.scenes import TEXTURES, parse_caption

HASHES = {
    "train": "49614d41",
    "validation": "81fc1cd6",
    "evaluation": "b3af90a7",
}
DRAWN = ("prompt 0", "prompt 12", "prompt 7", "prompt 5")
ORDER = ("prompt 15", "prompt 13", "prompt 11", "prompt 1")
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
LINES = st.lists(WORDS.map(lambda s: " ".join(s.split())), max_size=8).map(
    lambda lines: [line for line in lines if line and not line.startswith("\ufeff")]
)


def coco_file(path, count: int, start: int = 100) -> dict[int, str]:
    """Captions with ids out of order, one of them empty; returns what counts."""
    ids = list(range(start, start + count))
    random.Random(0).shuffle(ids)
    rows = [{"id": i, "image_id": i // 5, "caption": f" A  scene\nnumber {i} \n"} for i in ids]
    rows.insert(3, {"id": 7, "image_id": 1, "caption": "  "})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"annotations": rows}))
    return {i: f"A scene number {i}" for i in ids}


@pytest.fixture
def t2i(tmp_path):
    """16 files as published: some with CRLF, most without a last line end, one prompt not ASCII."""
    for i, category in enumerate(T2I_CATEGORIES):
        for split, count in (("train", 7), ("val", 3)):
            lines = [f"{category} {split} prompt {n}" for n in range(count)]
            lines[1] += " café"
            end = "\r\n" if i % 2 else "\n"
            data = end.join(lines).encode() + (end.encode() if i == 2 else b"")
            (tmp_path / f"{category}_{split}.txt").write_bytes(data)
    return tmp_path


# --- readers


@settings(max_examples=60, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
def test_a_txt_file_gives_its_lines(tmp_path_factory, lines, end, last, bom):
    path = tmp_path_factory.mktemp("txt") / "prompts.txt"
    text = end.join(lines) + (end if last else "")
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    if not lines:
        with pytest.raises(PromptError, match="holds no prompt"):
            read_prompts(str(path))
    else:
        assert [p.text for p in read_prompts(str(path))] == lines


@settings(max_examples=40, deadline=None)
@given(LINES.filter(bool))
def test_jsonl_and_csv_give_the_same_texts(tmp_path_factory, lines):
    import csv

    folder = tmp_path_factory.mktemp("tables")
    rows = [json.dumps({"n": 1, "text": line}) for line in lines]
    (folder / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    with open(folder / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([("n", "text"), *((1, line) for line in lines)])
    for name in ("a.jsonl", "a.csv"):
        assert [p.text for p in read_prompts(str(folder / name), "text")] == lines


def test_files_of_a_folder_do_not_fuse(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"third\r\nfourth")
    (tmp_path / "a.txt").write_bytes(b"first\n\n  second  ")
    (tmp_path / "ignored.md").write_text("no prompt")
    assert read_prompts(str(tmp_path)) == [
        Prompt("first", "a"),
        Prompt("second", "a"),
        Prompt("third", "b"),
        Prompt("fourth", "b"),
    ]


def test_coco_is_read_by_annotation_id(tmp_path):
    captions = coco_file(tmp_path / "c.json", 20)
    assert read_coco(tmp_path / "c.json") == sorted(captions.items())
    assert [p.text for p in read_prompts(str(tmp_path / "c.json"))] == [
        captions[i] for i in sorted(captions)
    ]


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("a.txt", b"fine\n\xff\xfe", "a.txt line 2 is not UTF-8"),
        ("a.jsonl", b'{"prompt": "x"}\n\n{"prompt": ', "a.jsonl line 3 is not JSON"),
        ("a.jsonl", b'{"text": "x"}', "a.jsonl line 1 has the keys text, expected 'prompt'"),
        ("a.jsonl", b'{"prompt": 3}', "a.jsonl line 1 is '3', expected text"),
        ("a.jsonl", b'{"prompt": "\\ud800"}', "a.jsonl line 1 holds half of a surrogate pair"),
        ("a.csv", b"text,n\nx,1\n", "a.csv line 1 names the columns text, n, expected 'prompt'"),
        ("a.csv", b"n,prompt\n1,x\n2\n", "a.csv line 3 has no column 'prompt'"),
        ("a.csv", b'prompt\n"x" y\n', "a.csv line 2 is not CSV"),
        ("a.json", b'{"annotations": [\n{"id": 1,', "a.json line 2 is not JSON"),
        ("a.json", b'{"images": []}', "a.json has no list 'annotations'"),
        ("a.json", b'{"annotations": [{"id": 1}]}', "annotation 0 has no whole 'id'"),
        ("a.json", b'{"annotations": [{"id": 4, "caption": null}]}', "annotation 4 is 'None'"),
        (
            "a.json",
            b'{"annotations": [{"id": 4, "caption": "x"}, {"id": 4, "caption": "y"}]}',
            "two annotations with id 4",
        ),
        ("a.pdf", b"x", "ends in .pdf, expected .txt"),
        ("a.txt", b" \n\r\n", "holds no prompt"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PromptError) as error:
        read_prompts(str(tmp_path / name))
    message = str(error.value)
    assert said in message and message.endswith(".") and "\n" not in message


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(PromptError, match="does not exist, expected .txt"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(PromptError, match="a folder without .txt files"):
        read_prompts(str(tmp_path))
    for which, name in (("coco", "captions_train2014.json"), ("t2i", "color_train.txt")):
        config = DataConfig(set=which, folder=str(tmp_path / "data"))
        with pytest.raises(PromptError, match=f"does not exist, expected {name}.*prepare.py"):
            load_prompts(config, "train")
    (tmp_path / "color_train.txt").write_text("a red bench")
    with pytest.raises(PromptError, match="holds color_train.txt, expected shape_train.txt"):
        load_prompts(DataConfig(set="t2i", folder=str(tmp_path)), "train")


def test_the_cache_of_the_hub_is_read_only_when_it_is_named(monkeypatch):
    """And the network is not asked then: both packages are told so."""
    asked, switches = [], [SimpleNamespace(HF_HUB_OFFLINE=False), huggingface_hub.constants]

    class Table(dict):
        column_names = ("text",)

    def load_dataset(name, split):
        asked.append((name, split))
        assert all(switch.HF_HUB_OFFLINE for switch in switches)
        return Table(text=["one ", "", "two"])

    fake = SimpleNamespace(load_dataset=load_dataset, config=switches[0])
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert [p.text for p in read_prompts("hub:some/set:train[:3]:text")] == ["one", "two"]
    assert asked == [("some/set", "train[:3]")]
    assert not any(switch.HF_HUB_OFFLINE for switch in switches)
    with pytest.raises(PromptError, match="has the columns text, expected 'caption'"):
        read_prompts("hub:some/set:train:caption")
    for wrong in ("hub:", "hub:some/set", "hub:some/set:train", "hub::train:text"):
        with pytest.raises(PromptError, match="is no address on the hub"):
            read_prompts(wrong)


def test_without_datasets_one_sentence(monkeypatch):
    real = builtins.__import__

    def no_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_datasets)
    with pytest.raises(PromptError, match="needs the package datasets, which is not installed"):
        read_prompts("hub:some/set:train:text")


# --- splits


def test_the_paper_s_draw_of_coco(tmp_path):
    """An independent rewrite: seed 42, 2,048 of the annotation ids in rising order."""
    captions = coco_file(tmp_path / "annotations" / "captions_val2014.json", 2500)
    found = load_prompts(DataConfig(set="coco", folder=str(tmp_path)), "evaluation")
    generator = random.Random()
    generator.seed(42)
    ids = [key for key in captions]
    ids.sort()
    expected = [captions[i] for i in generator.sample(ids, k=2048)]
    assert list(found.texts) == expected
    assert found.sha256 == hashlib.sha256("\n".join(expected).encode("utf-8")).hexdigest()
    other = DataConfig(set="coco", folder=str(tmp_path), seed=43)
    assert load_prompts(other, "evaluation").sha256 != found.sha256
    few = DataConfig(set="coco", folder=str(tmp_path), evaluation_prompts=2501)
    with pytest.raises(PromptError, match="is 2501, but .* has only 2500"):
        load_prompts(few, "evaluation")


def test_t2i_keeps_categories_and_the_whole_val_split(t2i):
    config = DataConfig(set="t2i", folder=str(t2i), validation_prompts=10)
    splits = {s: load_prompts(config, s) for s in ("train", "validation", "evaluation")}
    assert [len(p) for p in splits.values()] == [46, 10, 24]
    for found in splits.values():
        for text, category in zip(found.texts, found.categories, strict=True):
            assert text.startswith(f"{category} ")
    assert Counter(splits["evaluation"].categories) == dict.fromkeys(T2I_CATEGORIES, 3)
    assert splits["evaluation"].texts[:3] == (
        "color val prompt 0",
        "color val prompt 1 café",
        "color val prompt 2",
    )
    assert not any("val" in text for text in splits["train"].texts + splits["validation"].texts)
    some = DataConfig(set="t2i", folder=str(t2i), evaluation_prompts=5)
    assert len(load_prompts(some, "evaluation")) == 5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=30),
    st.integers(0, 4),
    st.integers(0, 3),
)
def test_no_text_is_in_training_and_validation(tmp_path_factory, letters, count, seed):
    path = tmp_path_factory.mktemp("split") / "prompts.txt"
    texts = [f"{c.upper() if i % 2 else c} {' ' * (i % 3)}cat" for i, c in enumerate(letters)]
    path.write_text("\n".join(texts))
    config = DataConfig(set="file", train=str(path), validation_prompts=count, seed=seed)
    different = len(set(letters))
    if count >= different:
        with pytest.raises(PromptError, match="leaves no prompt"):
            load_prompts(config, "train")
        return
    train, check = (load_prompts(config, split).texts for split in ("train", "validation"))
    assert len(check) == count == len({text.lower() for text in check})
    assert not {text.lower() for text in train} & {text.lower() for text in check}
    assert {t.lower() for t in train + check} == {" ".join(t.split()).lower() for t in texts}


def test_evaluation_of_a_file_needs_a_validation_file(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(f"train {i}" for i in range(9)) + "\nCHECK 3")
    config = DataConfig(set="file", train=str(tmp_path / "train.txt"), validation_prompts=4)
    with pytest.raises(PromptError, match="data.validation is empty"):
        load_prompts(config, "evaluation")
    (tmp_path / "check.txt").write_text("\n".join(f"check {i}" for i in range(6)))
    config.validation, config.evaluation_prompts = str(tmp_path / "check.txt"), 0
    train, check, final = (
        set(load_prompts(config, s).texts) for s in ("train", "validation", "evaluation")
    )
    assert len(check) == 3 and len(final) == 3 and not check & final
    assert check | final == {f"check {i}" for i in range(6)}
    assert ("CHECK 3" in train) == ("check 3" not in check)


def test_the_scenes_share_no_caption_between_splits():
    config = DataConfig(set="scenes", validation_prompts=128, evaluation_prompts=200)
    train, check, final = (load_prompts(config, s) for s in ("train", "validation", "evaluation"))
    assert len(check) == 128 and len(final) == 200 and len(train) == 4096
    assert not any(parse_caption(text).held_out for text in train.texts)
    assert all(parse_caption(text).held_out for text in check.texts + final.texts)
    assert not set(check.texts) & set(final.texts)
    assert [parse_caption(text).texture for text in final.texts] == list(TEXTURES) * 50
    longer = load_prompts(DataConfig(set="scenes", evaluation_prompts=230), "evaluation")
    assert longer.texts[:200] == final.texts
    with pytest.raises(PromptError, match="has no end"):
        load_prompts(DataConfig(set="scenes", evaluation_prompts=0), "evaluation")


def test_the_lists_stay_what_they_are(tmp_path):
    """A run is resumed only with the same hash, so a change here breaks every run under way."""
    config = DataConfig(set="scenes", evaluation_prompts=100)
    hashes = {s: load_prompts(config, s).sha256[:8] for s in ("train", "validation", "evaluation")}
    assert hashes == HASHES
    (tmp_path / "a.txt").write_text("\n".join(f"prompt {i}" for i in range(20)))
    config = DataConfig(set="file", train=str(tmp_path / "a.txt"), validation_prompts=4)
    assert load_prompts(config, "validation").texts == DRAWN
    order = training_order(load_prompts(config, "train"), 42)
    assert tuple(map(order, (0, 1, 15, 16))) == ORDER
    assert PromptList(("a", "b"), ("", ""), "x").sha256 == hashlib.sha256(b"a\nb").hexdigest()
    assert PromptList(("a\u00e9",), ("",), "x").sha256 == hashlib.sha256(b"a\xc3\xa9").hexdigest()


def test_settings_without_sense_are_refused():
    with pytest.raises(PromptError, match="split is 'test'"):
        load_prompts(DataConfig(), "test")
    with pytest.raises(ValueError, match="data.validation_prompts is -1"):
        DataConfig(validation_prompts=-1)
    changed = DataConfig()
    changed.validation_prompts = -1
    with pytest.raises(PromptError, match="data.validation_prompts is -1"):
        load_prompts(changed, "validation")
    with pytest.raises(PromptError, match="data.train is empty"):
        load_prompts(DataConfig(set="file"), "train")


# --- order and list


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5))
def test_every_epoch_has_every_prompt_once(count, seed):
    prompts = PromptList(tuple(map(str, range(count))), ("",) * count, "x")
    order = training_order(prompts, seed)
    epochs = [[order(e * count + i) for i in range(count)] for e in range(3)]
    assert all(sorted(epoch) == sorted(prompts.texts) for epoch in epochs)
    if count > 20:
        assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(prompts.texts)
    fresh = training_order(prompts, seed)  # asked in another order: no state
    assert [fresh(i) for i in reversed(range(3 * count))][::-1] == sum(epochs, [])


def test_the_order_is_the_seed_s():
    prompts = PromptList(tuple(map(str, range(50))), ("",) * 50, "x")
    orders = [[training_order(prompts, seed)(i) for i in range(50)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    with pytest.raises(PromptError, match="holds no prompt"):
        training_order(PromptList((), (), "x"), 0)


def test_the_sample_prompts_can_be_trained_on():
    from async_timestep.training.data.prompts import __file__ as here

    sample = str(here).replace("prompts.py", "sample_prompts.txt")
    config = DataConfig(set="file", train=sample, validation_prompts=8)
    train, check = (load_prompts(config, split) for split in ("train", "validation"))
    assert len(train) == 56 and len(check) == 8
    assert len(set(train.texts + check.texts)) == 64
