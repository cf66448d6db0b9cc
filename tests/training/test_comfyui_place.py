"""Which ComfyUI runs a workflow: the setting's, COMFYUI_PATH's, or the one around the pack."""

from __future__ import annotations

from pathlib import Path

import pytest

from async_timestep.training.backbones.comfy import host


def tree(folder: Path) -> Path:
    """A folder that looks like a ComfyUI."""
    for name in host.PARTS:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch() if name.endswith(".py") else place.mkdir()
    return folder


def test_the_setting_then_the_variable_then_the_folder_around(tmp_path, monkeypatch):
    given, named, around = (tree(tmp_path / name) for name in ("given", "named", "around"))
    pack = around / "custom_nodes" / "async-timestep"
    pack.mkdir(parents=True)
    monkeypatch.setattr(host, "ROOT", pack)
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert host.tree_of(str(given)) == given
    assert host.tree_of("") == named
    monkeypatch.delenv("COMFYUI_PATH")
    assert host.tree_of("") == around
    monkeypatch.setattr(host, "ROOT", tmp_path / "elsewhere" / "async-timestep")
    with pytest.raises(ValueError, match="lies in no ComfyUI's custom_nodes") as caught:
        host.tree_of("")
    assert str(caught.value).endswith("to its folder.")


@pytest.mark.parametrize("missing", host.PARTS)
def test_a_folder_that_is_no_comfyui_is_named(missing, tmp_path, monkeypatch):
    folder = tree(tmp_path / "comfy")
    place = folder / missing
    place.unlink() if place.is_file() else place.rmdir()
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    for setting, name in (("", "COMFYUI_PATH"), (str(folder), "backbone.comfyui")):
        with pytest.raises(ValueError, match=f"{name} is .* which has no {missing}"):
            host.tree_of(setting)
