"""A schedule file in models/tpm, loaded by the TPM Loader in a real server."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from async_timestep.harness import graphs
from async_timestep.tpm.schedule import Schedule
from async_timestep.tpm.schedule_file import ScheduleMeta, save_schedule
from async_timestep.training.tiny.backbone import simple_sigmas

GRID = tuple(simple_sigmas(4).tolist())
PROMPT = "a purple star above a green circle on a light rough background"


@pytest.fixture
def put(server):
    """put(schedule, **meta): the name under which the loader has it."""
    folder, written = server.base / "models" / "tpm", []
    folder.mkdir(parents=True, exist_ok=True)

    def write(schedule: Schedule, family: str = "tiny", name: str = "mine", **meta) -> str:
        path = folder / f"{name}.safetensors"
        save_schedule(path, schedule, ScheduleMeta(family, 16, **meta))
        written.append(path)
        return path.name

    yield write
    for path in written:
        path.unlink(missing_ok=True)


def pixels(server, entry: dict) -> bytes:
    """Without the graph, which the server writes into the file."""
    return Image.open(io.BytesIO(server.fetch(entry))).tobytes()


def run(server, name: str | None, **sampling) -> tuple[list[bytes], list[dict], str]:
    """(pictures, entries of the trace, text of the plot); without a name D = +0.5."""
    graph = graphs.async_ksampler(PROMPT, 3, 1, **sampling)
    if name:
        graph["tpm"] = graphs.node("AsyncTimestepTPMLoader", tpm_name=name)
        graph["scale"]["inputs"]["deviation"] = ["tpm", 0]
        del graph["deviation"]
    graph["show"] = graphs.node("PreviewAny", source=["plot", 1])
    outputs = server.run(graph)
    pictures = [pixels(server, entry) for entry in outputs["preview"]["images"]]
    entries = json.loads(outputs["show"]["text"][0])["runs"][0]
    return pictures, entries, outputs["plot"]["text"][0]


def test_a_flat_schedule_is_a_constant_deviation_to_the_bit(server, put):
    name = put(Schedule(GRID, (0.0, 0.5, 0.5, 0.5), (1.0,) * 4))
    for steps in (4, 6):
        pictures, entries, text = run(server, name, steps=steps)
        constant, told, _ = run(server, None, steps=steps)
        assert pictures == constant and entries == told
        assert "schedule mine" in text


def test_its_own_numbers_are_told_step_by_step(server, put):
    mine = Schedule(GRID, (0.0, 0.7, 0.3, -0.1), (1.2, 0.9, 1.1, 1.0))
    _, entries, _ = run(server, put(mine))
    for k, entry in enumerate(entries):
        assert entry["deviation"] == pytest.approx([mine.deviation[k]])
        assert entry["omega"] == pytest.approx([mine.omega[k]])
        previous = entries[k - 1]["t"] if k else entry["t"]
        wanted = entry["t"] + mine.deviation[k] * (entry["t"] - previous)
        assert entry["t_star"] == pytest.approx([wanted], rel=1e-5)


def test_scale_0_is_the_stock_picture(server, put):
    name = put(Schedule(GRID, (0.0, 0.7, 0.3, -0.1), (1.0,) * 4))
    stock = server.run(graphs.stock(PROMPT, 3, 1))["preview"]["images"]
    assert run(server, name, scale=0.0)[0] == [pixels(server, entry) for entry in stock]


def test_what_is_to_be_said_stands_in_the_plot_and_in_the_log(server, put):
    mine = Schedule(GRID, (0.0, 0.7, 0.3, -0.1), (1.0,) * 4)
    name = put(mine, "sdxl", note="Nothing was gained: this is a test.")
    text = run(server, name, steps=3)[2]
    for sentence in (
        "Nothing was gained: this is a test.",
        "was made for sdxl and runs here on tiny",
        "was made on 4 steps and runs here on 3, where it can do harm",
    ):
        assert sentence in text and sentence in server.log.read_text()
    assert "nobody has measured it" not in run(server, put(mine, name="own"))[2]


def test_a_damaged_file_is_one_sentence(server, put):
    name = put(Schedule(GRID, (0.0, 0.7, 0.3, -0.1), (1.0,) * 4), name="damaged")
    path = server.base / "models" / "tpm" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"damaged.safetensors has other content than its"):
        run(server, name)
