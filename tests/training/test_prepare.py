"""What training needs is listed whole, and fetched safely. Nothing here leaves the machine."""

from __future__ import annotations

import ast
import hashlib
import io
import re
import sys
import zipfile
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from async_timestep.training.data import fetch
from async_timestep.training.data.needed_files import WHOLE, Need, is_here, needs, read_table
from async_timestep.training.data.prompt_files import COCO_FILES, T2I_CATEGORIES
from async_timestep.training.run.config import Config
from async_timestep.training.run.settings import PRESETS, parse

PAPER = [
    path.stem for path in PRESETS.glob("*.yaml") if path.stem.startswith(("sd35_medium", "flux1"))
]


def of(*arguments: str) -> Config:
    return parse(list(arguments))[0]


def constants(reward: str) -> dict:
    """What a reward's file says it opens, without the seconds that importing transformers takes."""
    tree = ast.parse((PRESETS.parent / "rewards" / f"{reward}.py").read_text())
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Tuple)):
            names = getattr(node.targets[0], "elts", [node.targets[0]])
            values = getattr(node.value, "elts", None) if len(names) > 1 else [node.value]
            for name, value in zip(names, values, strict=True):
                try:
                    found[name.id] = ast.literal_eval(value)
                except ValueError:
                    pass
    return found


def put_into_cache(cache, repo: str, name: str) -> None:
    """A file as huggingface_hub lays it down."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40)
    path = home / "snapshots" / ("0" * 40) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


@pytest.mark.parametrize("which", ["coco", "t2i"])
@pytest.mark.parametrize("preset", PAPER)
def test_all_that_a_preset_names_is_listed(preset, which):
    config = of("--preset", preset, "--data.set", which)
    found = {(need.source, need.name) for need in needs(config, read_table())}
    names = {name for _, name in found}
    assert WHOLE not in names  # nothing is left to a guess
    r, sources = config.rewards, {source for source, _ in found}
    assert {r.image_reward_tokenizer, r.hps_tokenizer, r.clip_model} <= sources
    assert {r.pick_path, r.pick_processor} <= sources
    own = constants("image_reward")
    assert (own["REPOSITORY"], own["FILE"]) in found
    own = constants("hps")
    assert (own["REPOSITORY"], own["FILES"][r.hps_version]) in found
    wanted = (
        set(COCO_FILES.values())
        if which == "coco"
        else {
            f"{category}_{split}.txt" for category in T2I_CATEGORIES for split in ("train", "val")
        }
    )
    assert wanted <= names
    backbone = {
        name for source, name in found if source == prepare_source(config)
    }  # what diffusers' from_pretrained opens
    parts = {"model_index.json", "scheduler/scheduler_config.json", "transformer/config.json"}
    parts |= {
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
    }
    assert parts <= backbone
    for name in ("transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        assert any(file.startswith(name + "/") for file in backbone)


def prepare_source(config: Config) -> str:
    from async_timestep.training.backbones import flux, sd35

    return {"sd35_medium": sd35.SD35, "flux1_dev": flux.Flux}[config.backbone.name].hub_id


def test_the_table_claims_only_sizes_and_hashes_of_the_right_form():
    table = read_table()
    for repo, facts in table["repositories"].items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repo)
        assert facts["what"] and facts["licence"] and isinstance(facts["gated"], bool)
        for size in facts["files"].values():
            assert size == "unknown" or fetch.octets(size) > 0
    for facts in table["prompts"].values():
        for name, file in facts["files"].items():
            assert file["size"] == "unknown" or fetch.octets(file["size"]) > 0, name
            assert "sha256" not in file or re.fullmatch(r"[0-9a-f]{64}", file["sha256"])
    assert len(table["prompts"]["t2i"]["files"]) == 16
    assert all("sha256" in file for file in table["prompts"]["t2i"]["files"].values())
    assert table["repositories"]["stabilityai/stable-diffusion-3.5-medium"]["gated"]
    assert table["repositories"]["black-forest-labs/FLUX.1-dev"]["gated"]


def test_the_sharded_files_are_complete():
    for repo, facts in read_table()["repositories"].items():
        for name in facts["files"]:
            if shard := re.search(r"-(\d{5})-of-(\d{5})\.", name):
                first, last = name[: shard.start()], name[shard.end() - 1 :]
                for i in range(1, int(shard[2]) + 1):
                    assert f"{first}-{i:05d}-of-{shard[2]}{last}" in facts["files"], (repo, name)
                assert f"{first}{last}.index.json" in facts["files"]


def test_the_embedded_model_needs_nothing(capsys):
    assert needs(of("--preset", "tiny"), read_table()) == []
    assert fetch.main(["--preset", "tiny"]) == 0
    assert "Nothing to fetch" in capsys.readouterr().out


def test_a_reward_that_is_only_measured_is_needed_and_packages_read_the_same_files():
    table = read_table()
    left_out = of("--preset", "sd35_medium", "--config", str(PRESETS / "leave_one_out.yaml"))
    assert "reward pick" in {need.what for need in needs(left_out, table)}
    one = of("--preset", "tiny", "--rewards.weights", '{"hps": 1}', "--rewards.hps_version", "v2.1")
    whats = {(need.source, need.name) for need in needs(one, table)}
    assert ("xswu/HPSv2", "HPS_v2.1_compressed.pt") in whats
    assert ("openai/clip-vit-large-patch14", "model.safetensors") not in whats
    worker = of("--preset", "sd35_medium", "--rewards.backend", "packages")
    own = of("--preset", "sd35_medium")
    more = {need.what for need in needs(own, table)} - {need.what for need in needs(worker, table)}
    assert more == {"tokenizer of hps"}  # the package hpsv2 has one


def test_the_hub_s_cache_is_looked_into(tmp_path):
    config = of("--preset", "sd35_medium", "--data.folder", str(tmp_path))
    found = needs(config, read_table())
    assert not any(is_here(need, tmp_path) for need in found)
    put_into_cache(tmp_path, "xswu/HPSv2", "HPS_v2_compressed.pt")
    put_into_cache(tmp_path, config.backbone.path or prepare_source(config), "vae/config.json")
    here = {need.name for need in found if is_here(need, tmp_path)}
    assert here == {"HPS_v2_compressed.pt", "vae/config.json"}
    text = fetch.listing(found, lambda need: is_here(need, tmp_path))
    assert re.search(r"\[x\] HPS_v2_compressed.pt", text)
    assert re.search(r"\[ \] ImageReward.pt +1.79 GB", text)
    assert f"2 of {len(found)} files are here; missing" in text
    assert "Stability AI Community License" in text and "gated: accept it" in text
    assert "https://huggingface.co/THUDM/ImageReward" in text


def test_local_folders_are_looked_into(tmp_path):
    model, data = tmp_path / "sd35", tmp_path / "data"
    (model / "vae").mkdir(parents=True)
    (model / "vae" / "config.json").write_text("{}")
    (model / "model_index.json").write_text("")  # empty: not a file that can be used
    (data / "annotations").mkdir(parents=True)
    (data / "annotations" / "captions_val2014.json").write_text("{}")
    (tmp_path / "IR.pt").write_text("x")
    config = of(
        *("--preset", "sd35_medium", "--backbone.path", str(model), "--data.folder", str(data)),
        *("--rewards.image_reward_path", str(tmp_path / "IR.pt")),
    )
    found = needs(config, read_table())
    here = {need.name for need in found if is_here(need, tmp_path)}
    assert here == {"vae/config.json", "captions_val2014.json", "IR.pt"}
    assert {need.licence for need in found if need.source == str(model)} == {"unknown"}
    other = needs(of("--preset", "flux1_dev", "--backbone.path", "someone/tuned"), read_table())
    assert [need.name for need in other if need.source == "someone/tuned"] == [WHOLE]


def test_the_exit_code_says_whether_all_is_here(tmp_path, capsys):
    prompts = tmp_path / "p.txt"
    arguments = ["--preset", "tiny", "--data.set", "file", "--data.train", str(prompts)]
    assert fetch.main(arguments) == 1
    assert "0 of 1 files are here" in capsys.readouterr().out
    prompts.write_text("a cat")
    assert fetch.main(arguments) == 0
    assert "1 of 1 files are here." in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        fetch.main([])
    told = capsys.readouterr()
    assert stopped.value.code == 2 and "--preset is missing" in told.err
    assert [line.split()[0] for line in told.out.splitlines()[1:]] == [
        *sorted(PAPER), "tiny", "workflow",
    ]  # fmt: skip


# --- fetching


def web(monkeypatch, pages: dict[str, bytes]) -> list[str]:
    """Stands in for the network; returns what is asked for."""
    asked = []

    def download(url, dst, **options):
        asked.append(url)
        if url not in pages:
            raise OSError("no route\nto host")
        with open(dst, "wb") as file:
            file.write(pages[url])

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    return asked


def prompt(tmp_path, data: bytes, **fields) -> Need:
    known = {"sha256": hashlib.sha256(data).hexdigest(), "url": "https://x.org/a.txt"}
    return Need(
        "prompts", "https://x.org", "a.txt", at=tmp_path / "new" / "a.txt", **{**known, **fields}
    )


def test_a_prompt_file_is_fetched_once_and_checked(tmp_path, monkeypatch):
    asked = web(monkeypatch, {"https://x.org/a.txt": b"a cat"})
    need = prompt(tmp_path, b"a cat")
    assert fetch.fetch([need]) == ([need], [])
    assert need.at.read_bytes() == b"a cat" and len(asked) == 1
    assert fetch.fetch([need]) == ([], []) and len(asked) == 1
    need.at.unlink()
    got, failed = fetch.fetch([prompt(tmp_path, b"a dog")])
    assert not got and "its sha256 is" in failed[0] and "put a.txt into" in failed[0]
    assert list(need.at.parent.iterdir()) == []  # neither the wrong file nor a part of it


def test_an_archive_is_fetched_once_for_both_files(tmp_path, monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in COCO_FILES.values():
            archive.writestr(f"annotations/{name}", name)
    config = of("--preset", "sd35_medium", "--data.folder", str(tmp_path / "data"))
    found = [need for need in needs(config, read_table()) if need.what == "prompts coco"]
    asked = web(monkeypatch, {found[0].url: packed.getvalue()})
    got, failed = fetch.fetch(found)
    assert got == found and not failed and len(asked) == 1
    assert (tmp_path / "data" / "captions_val2014.json").read_text() == "captions_val2014.json"


def test_what_cannot_be_had_is_named_with_the_way_out(tmp_path, monkeypatch):
    calls = []

    class GatedRepoError(Exception):
        pass

    class RemoteEntryNotFoundError(Exception):
        pass

    def refuse(repo, name, cache_dir):
        calls.append((repo, name))
        if name == "gone.json":
            raise RemoteEntryNotFoundError("404")
        raise GatedRepoError("403\nlong page")

    web(monkeypatch, {})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    found = [
        Need("backbone", "a/gated", "one.json", gated=True, setting="backbone.path"),
        Need("backbone", "a/gated", "two.json", gated=True, setting="backbone.path"),
        Need("reward", "b/open", "gone.json", setting="rewards.pick_path"),
        Need("reward", "b/open", "there.json", setting="rewards.pick_path"),
        prompt(tmp_path, b"a cat"),
        Need("prompts", str(tmp_path), "own.txt", at=tmp_path / "own.txt", setting="data.train"),
    ]
    got, failed = fetch.fetch(found, tmp_path / "cache")
    assert not got and len(failed) == 5
    # a closed door is not tried twice, a missing file does not close it
    assert calls == [("a/gated", "one.json"), ("b/open", "gone.json"), ("b/open", "there.json")]
    assert "(403): accept its licence at https://huggingface.co/a/gated" in failed[0]
    assert "`hf auth login`" in failed[0] and "backbone.path" in failed[0]
    assert "set rewards.pick_path" in failed[1]
    assert "(no route): download https://x.org/a.txt by hand" in failed[3]
    assert "set data.train to where it is" in failed[4]
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in failed)


def test_a_hub_out_of_reach_is_asked_once(tmp_path, monkeypatch):
    """huggingface_hub retries for half a minute, which forty files would make twenty minutes."""
    calls = []

    def offline(repo, name, cache_dir):
        calls.append(repo)
        raise huggingface_hub.errors.LocalEntryNotFoundError("cannot reach the hub")

    asked = web(monkeypatch, {"https://x.org/a.txt": b"a cat"})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    found = [Need("a", "a/a", "1"), Need("b", "b/b", "2"), prompt(tmp_path, b"a cat")]
    got, failed = fetch.fetch(found, tmp_path / "cache")
    assert got == found[2:] and len(asked) == 1  # other places are still asked
    assert calls == ["a/a"] and len(failed) == 1 and "cannot reach the hub" in failed[0]


def test_prompts_of_the_hub_are_fetched_by_datasets(monkeypatch):
    asked = []
    fake = SimpleNamespace(load_dataset=lambda name, split: asked.append((name, split)))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    need = Need("prompts", "hub:some/set:train[:3]:text", "*", setting="data.train")
    assert fetch.fetch([need]) == ([need], []) and asked == [("some/set", "train[:3]")]


def test_hub_files_go_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo, name, cache_dir: put_into_cache(cache_dir, repo, name),
    )
    need = Need("reward", "b/open", "there.json")
    assert fetch.fetch([need], tmp_path) == ([need], [])
    assert is_here(need, tmp_path)
