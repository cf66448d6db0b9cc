"""TPM files: a bit-exact round trip, and one sentence for every file that is none."""

import json
import math
import os
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from async_timestep.tpm.checkpoint import TPMFileError, load_tpm, save_tpm
from async_timestep.tpm.content import KEY, content_sha256
from async_timestep.training.grpo.result import device_memory

KEYS = """format format_version model_family latent_channels pooled_dim width layers heads patch
steps sigmas deviation_bound actions omega_range base_model license git_commit prompts_sha256
guidance resolution rewards iterations config_sha256 pooled_split registers raw_cap
global_conditioning content_sha256"""


@pytest.fixture
def good(make_tpm, tmp_path):
    """A file as training writes it: path, tensors, metadata."""
    path = tmp_path / "good.safetensors"
    save_tpm(path, *make_tpm())
    with safe_open(path, framework="pt") as file:
        return path, {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def refused(path) -> str:
    """The message of a refusal, after the checks that hold for all of them."""
    with pytest.raises(TPMFileError) as error:
        load_tpm(path)
    message = str(error.value)
    assert "\n" not in message and len(message) < 300 and message.endswith(".")
    assert path.name in message
    assert "expected" in message and ";" in message  # what was found, what was expected; what to do
    return message


@pytest.mark.parametrize(
    "fields,meta",
    [
        ({}, {}),
        ({"raw_cap": 5.0, "global_conditioning": True, "registers": 3}, {"deviation_bound": 1.0}),
        (
            {"actions": "both", "pooled_split": (12,)},
            {"omega_range": (0.8, 1.3), "license": "x; ü"},
        ),
        ({"actions": "omega", "patch": 3}, {"sigmas": (14.6, 7.1, 1.0 / 3, 0.0292, 0.0)}),
    ],
)
def test_round_trip_is_bit_exact(make_tpm, tmp_path, fields, meta):
    module, described = make_tpm(meta=meta, **fields)
    save_tpm(tmp_path / "a.safetensors", module, described)
    loaded, found = load_tpm(str(tmp_path / "a.safetensors"))
    assert found == described and loaded.config == module.config
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    expected = module.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[key])


def test_metadata_keys_are_those_of_the_design(good):
    assert set(good[2]) == set(KEYS.split())
    assert good[2]["format"] == "async-timestep-tpm" and good[2]["format_version"] == "1"
    assert json.loads(good[2]["sigmas"]) == [1.0, 0.9, 0.75, 0.5, 0.0]
    assert json.loads(good[2]["omega_range"]) == [0.5, 1.5] and good[2]["actions"] == "deviation"


def test_several_grids_are_kept_and_checked(make_tpm, tmp_path):
    grids = ((1.0, 0.8, 0.0), (1.0, 0.9, 0.75, 0.5, 0.0))
    module, meta = make_tpm(meta={"grids": grids})
    save_tpm(tmp_path / "a.safetensors", module, meta)
    assert load_tpm(tmp_path / "a.safetensors")[1].grids == grids
    with pytest.raises(TPMFileError, match="grids.*three or more falling"):
        save_tpm(tmp_path / "b.safetensors", *make_tpm(meta={"grids": ((1.0, 1.0, 0.0),)}))


def test_the_same_module_gives_the_same_bytes(make_tpm, tmp_path):
    contents = set()
    for name in "abcd":
        save_tpm(tmp_path / name, *make_tpm())
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


def test_half_precision_is_loaded_as_float32(good):
    path, tensors, texts = good
    half = {key: tensor.half() for key, tensor in tensors.items()}
    save_file(half, path, metadata={**texts, KEY: content_sha256(half, texts)})
    for key, tensor in load_tpm(path)[0].state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, tensors[key].half().float())


def test_network_fields_with_defaults_may_be_absent(make_tpm, tmp_path):
    path = tmp_path / "a.safetensors"
    module, meta = make_tpm(pooled_dim=2048, pooled_split=(768, 1280), registers=4)
    save_tpm(path, module, meta)
    with safe_open(path, framework="pt") as file:
        texts = file.metadata()
    for key in ("pooled_split", "registers", "raw_cap", "global_conditioning", KEY):
        del texts[key]
    save_file(module.state_dict(), path, metadata=texts)
    assert load_tpm(path)[1] == meta


def test_a_flipped_bit_is_seen(good):
    """In every tensor, and in the metadata; a file of an older trainer has no hash and is taken."""
    path, tensors, texts = good
    for name in tensors:
        damaged = {key: tensor.clone() for key, tensor in tensors.items()}
        damaged[name].view(-1).view(torch.int32)[-1] ^= 1
        save_file(damaged, path, metadata=texts)
        assert f"other content than its {KEY}" in refused(path)
    save_file(tensors, path, metadata={**texts, "guidance": "7.0"})
    assert f"other content than its {KEY}" in refused(path)
    older = {key: text for key, text in texts.items() if key != KEY}
    save_file(damaged, path, metadata=older)
    load_tpm(path)


def test_a_failed_save_leaves_the_old_file_and_no_other(good, make_tpm, monkeypatch):
    path, before = good[0], good[0].read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_tpm(path, *make_tpm(seed=1))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_saving_what_could_not_be_loaded_is_refused(make_tpm, tmp_path):
    module, meta = make_tpm()
    path = tmp_path / "a.safetensors"
    with pytest.raises(TPMFileError, match="another network"):
        save_tpm(path, module, make_tpm(registers=3)[1])
    with pytest.raises(TPMFileError, match="deviation_bound"):
        save_tpm(path, module, make_tpm(meta={"deviation_bound": 0.7})[1])
    torch.nn.init.constant_(module.raw.bias, float("nan"))
    with pytest.raises(TPMFileError, match="NaN"):
        save_tpm(path, module, meta)
    assert os.listdir(tmp_path) == []


BROKEN_BYTES = {
    "empty": lambda data: b"",
    "a few bytes": lambda data: b"abc",
    "text": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
    "cut off in the tensors": lambda data: data[:-100],
    "cut off in the header": lambda data: data[:200],
    "more than its header says": lambda data: data + b"0000",
    "a zip archive": lambda data: b"PK\x03\x04" + bytes(500),
}


@pytest.mark.parametrize("change", BROKEN_BYTES.values(), ids=BROKEN_BYTES)
def test_files_of_another_kind(good, change):
    path = good[0]
    path.write_bytes(change(path.read_bytes()))
    message = refused(path)
    assert "empty" in message or "no complete safetensors" in message


def test_no_file_and_a_folder(tmp_path):
    assert "not found" in refused(tmp_path / "missing.safetensors")
    assert "not found" in refused(tmp_path)


WRONG_TEXTS = [  # key, text (None: absent), a word of the message
    ("format", None, "format"),
    ("format", "pt", "'pt'"),
    ("format_version", "2", "update"),
    ("format_version", None, "format_version"),
    ("colour", "blue", "colour"),
    ("a\nb" * 200, "x", "unknown"),
    *[
        (key, None, key)
        for key in ("width", "sigmas", "actions", "rewards", "license", "omega_range")
    ],
    ("width", "sixteen", "sixteen"),
    ("width", "16.5", "16.5"),
    ("width", "-16", "-16"),
    ("width", "NaN", "NaN"),
    ("width", "1" + "0" * 400, "width"),
    ("width", "100000", "4096"),
    ("layers", "0", "'0'"),
    ("layers", "1000000000", "64"),
    ("layers", "true", "true"),
    ("heads", "3", "multiple of heads"),
    ("heads", "64", "multiple of heads"),
    ("pooled_dim", "13", "pooled_split"),
    ("pooled_split", "[4, 9]", "pooled_split"),
    ("pooled_split", "[12, 0]", "pooled_split"),
    ("pooled_split", "12", "pooled_split"),
    ("raw_cap", "0", "raw_cap"),
    ("raw_cap", "None", "raw_cap"),
    ("raw_cap", "Infinity", "raw_cap"),
    ("raw_cap", "1e308", "0.01 to 1000"),
    ("raw_cap", "1e-9", "0.01 to 1000"),
    ("pooled_split", "[" + ", ".join(["1"] * 65) + "]", "65 parts"),
    ("pooled_split", "[" + ", ".join(["1"] * 65_536) + "]", "65536 parts"),
    ("pooled_split", "[4, 8.5]", "whole numbers"),
    ("global_conditioning", "True", "true or false"),
    ("global_conditioning", "1", "true or false"),
    ("actions", "gamma", "gamma"),
    ("deviation_bound", "0.7", "0.5 or 1.0"),
    ("deviation_bound", "half", "0.5 or 1.0"),
    ("sigmas", "[0.0, 0.5, 0.75, 0.9, 1.0]", "falling"),
    ("sigmas", "[1.0, 0.9, 0.9, 0.5, 0.0]", "falling"),
    ("sigmas", "[1.0, 0.9, 0.75, 0.5, -0.1]", "falling"),
    ("sigmas", "1.0, 0.5, 0.0", "falling"),
    ("sigmas", '{"a": 1}', "falling"),
    ("sigmas", "[1.0, 0.0]", "three"),
    ("sigmas", "[]", "three"),
    ("sigmas", '["1.0", "0.5", "0.0"]', "falling"),
    ("sigmas", "[NaN, 0.9, 0.75, 0.5, 0.0]", "falling"),
    ("sigmas", "[" * 100_000, "falling"),
    ("sigmas", "[1.0, 0.9, 0.75, 0.0]", "steps + 1 = 5"),
    ("sigmas", "[1e300, 0.9, 0.75, 0.5, 0.0]", "at most 1e+06"),
    ("sigmas", "[" + ", ".join(str(n) for n in range(100_000, 0, -1)) + "]", "falling"),
    ("sigmas", " " * 20_000_000 + "[1.0, 0.9, 0.75, 0.5, 0.0]", "falling"),
    ("steps", "5", "steps + 1 = 6"),
    ("steps", "100000000", "10,000"),
    ("omega_range", "[1.5, 0.5]", "rising"),
    ("omega_range", "[1e-300, 1e300]", "from 1e-09 to 10"),
    ("omega_range", "[0.5, 10.5]", "from 1e-09 to 10"),
    ("omega_range", "[0.5]", "pair"),
    ("omega_range", "0.5", "pair"),
    ("guidance", "high", "guidance"),
    ("guidance", "-1", "guidance"),
    ("guidance", "1e300", "1,000"),
    ("resolution", "[512, 512]", "resolution"),
    ("resolution", "1000000000", "100,000"),
    ("frames", "1000000000", "100,000"),
    ("model_family", "x" * 201, "model_family"),
    ("model_family", "a\nb", "printed"),
    ("model_family", "\u202egnp.", "printed"),
    ("license", "x" * 5000, "one line"),
    ("base_model", "a\nb", "one line"),
    ("latent_format", "\x1b[31m", "printed"),
    ("rewards", '["a\\u0000"]', "names"),
    ("rewards", "clip", "rewards"),
    ("rewards", "[1]", "rewards"),
    ("iterations", "-1", "iterations"),
]


@pytest.mark.parametrize("key,text,word", WRONG_TEXTS, ids=lambda value: str(value)[:20])
def test_wrong_metadata(good, key, text, word):
    path, tensors, texts = good
    texts.pop(key, None)
    if text is not None:
        texts[key] = text
    save_file(tensors, path, metadata=texts)
    assert word in refused(path)


def test_no_metadata(good):
    path, tensors, _ = good
    save_file(tensors, path)
    assert "no metadata" in refused(path)


def lacking(tensors):
    del tensors["raw.bias"]


def extra(tensors):
    tensors["raw.scale"] = torch.ones(1)


def misshapen(tensors):
    tensors["raw.bias"] = torch.zeros(3)


def transposed(tensors):
    tensors["hidden.weight"] = tensors["hidden.weight"].T.contiguous()


def with_nan(tensors):
    tensors["text.0.weight"][1, 2] = float("nan")


def with_infinity(tensors):
    tensors["registers"][0, 0] = float("inf")


def as_bfloat16(tensors):
    tensors["raw.bias"] = tensors["raw.bias"].bfloat16()


def as_integers(tensors):
    tensors["raw.bias"] = tensors["raw.bias"].to(torch.int64)


def as_float64(tensors):
    tensors["raw.bias"] = tensors["raw.bias"].double()


@pytest.mark.parametrize(
    "change,word",
    [
        (lacking, "lacks tensor 'raw.bias'"),
        (extra, "unknown tensor 'raw.scale'"),
        (misshapen, "[3], expected [2]"),
        (transposed, "hidden.weight"),
        (with_nan, "text.0.weight"),
        (with_infinity, "registers"),
        (as_bfloat16, "bfloat16"),
        (as_integers, "int64"),
        (as_float64, "float64"),
        (dict.clear, "bytes"),
    ],
)
def test_wrong_tensors(good, change, word):
    path, tensors, texts = good
    change(tensors)
    save_file(tensors, path, metadata=texts)
    assert word in refused(path)


def test_metadata_of_another_size_than_the_tensors(good):
    path, tensors, texts = good
    for changed, word in [
        ({"width": "8"}, "shape"),
        ({"layers": "1"}, "unknown tensor"),
        ({"layers": "3"}, "lacks"),
        ({"width": "4096", "layers": "64"}, "bytes"),  # 51 GB are not allocated to find out
    ]:
        save_file(tensors, path, metadata={**texts, **changed})
        assert word in refused(path)


def sparse_file(path, texts, shape):
    """A safetensors file with one tensor, whose zeros take no room on the disk."""
    count = math.prod(shape)
    about = {"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * count]}}
    header = json.dumps({"__metadata__": texts, **about}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with open(path, "r+b") as file:
        file.truncate(8 + len(header) + 4 * count)


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not sparse")
def test_what_the_names_rule_out_is_not_allocated(good):
    """The file is as large as the network that it describes, of 3.2 GB."""
    path, _, texts = good
    sparse_file(path, {**texts, "width": "1024", "layers": "64"}, [500_000_000])
    before = device_memory(torch.device("cpu"))
    assert "lacks tensor" in refused(path)
    assert device_memory(torch.device("cpu")) - before < 1


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not sparse")
def test_a_tensor_of_another_shape_is_not_read(good):
    path, tensors, texts = good
    header, place = {"__metadata__": texts}, 0
    for name in tensors:
        shape = [500_000_000, 1] if name == "raw.bias" else list(tensors[name].shape)
        end = place + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, end]}
        place = end
    data = json.dumps(header).encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data)
    with open(path, "r+b") as file:
        file.truncate(8 + len(data) + place)
    before = device_memory(torch.device("cpu"))
    assert "the tensor raw.bias with shape [500000000, 1]" in refused(path)
    assert device_memory(torch.device("cpu")) - before < 1


@pytest.mark.skipif(sys.platform == "win32", reason="its files are not sparse")
def test_a_file_larger_than_the_memory_is_one_sentence(good):
    """A terabyte, which torch maps on some systems and on others not."""
    path, _, texts = good
    sparse_file(path, texts, [2**38])
    message = refused(path)
    assert "memory" in message or "lacks tensor" in message


def test_loading_leaves_the_global_generator_alone(good):
    torch.manual_seed(5)
    load_tpm(good[0])
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))
