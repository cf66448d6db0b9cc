"""A small fixed draw of hostile inputs through the real API (`make fuzz` sends all of them)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from async_timestep.harness import graphs, hostile_inputs
from async_timestep.harness.hostile_inputs import Case
from async_timestep.tpm.checkpoint import load_tpm, save_tpm

ROOT = Path(__file__).resolve().parents[2]

NOTABLE = [
    *[Case("patch", "tpm", "tpm_name", v) for v in ("null", "0", "an object", "a null in a text")],
    Case("curve", "deviation", "curve", "a curve of huge values"),
    Case("curve", "deviation", "curve", "a curve of huge places"),
    Case("curve", "deviation", "deviation", "1e300"),
    Case("curve", "sampler", "cfg", "NaN"),
    Case("patch", "patch", "deviation", "null"),
    Case("velocity", "velocity", "deviation", "null"),
    Case("regional", "sampler", "region", "null"),
    Case("regional", "region", "text", "null"),
    Case("mask", "sampler", "region", "null"),
    Case("mask", "sampler", "cfg", "NaN"),
    Case("mask", "region", "mask", "null"),
    Case("eye", "choose", "tuning", "null"),
    Case("eye", "choose", "images", "null"),
    Case("eye", "try", "session", "half a surrogate"),
]
SENTENCES = {
    ("tpm_name", "null"): "There is no TPM None in models/tpm, expected a file of the list",
    ("tpm_name", "0"): "There is no TPM 0 in models/tpm",
    ("cfg", "NaN"): "cfg is nan, expected a finite number",
    ("tuning", "null"): "tuning is None, expected what Tune by Eye: Try gives; connect one.",
    ("curve", "a curve of huge values"): "The curve is {'points': [[0, 1e+300], [1, -1e+300]]}",
    ("deviation", "1e300"): "is 1e+300, expected a number from -1,000 to 1,000",
}
ANSWERED = {("patch", "patch", "deviation"), ("velocity", "velocity", "deviation")}
ANSWERED |= {("regional", "sampler", "region")}  # optional: None is not connected


def word(case: Case) -> str:
    return f"{case.graph} {case.name} {case.value}"


@pytest.mark.parametrize("case", NOTABLE, ids=word)
def test_what_once_got_through(server, case):
    assert hostile_inputs.fault_of(server, [case]) == ""


@pytest.mark.parametrize("case", [c for c in NOTABLE if c[2:] in SENTENCES], ids=word)
def test_the_sentence_names_what_was_sent(server, case):
    """The Deviation's own number is limited by the host, so that is refused before it runs."""
    answer = server.post("/prompt", {"prompt": hostile_inputs.prompt_of([case])})
    if "prompt_id" not in answer:
        assert case.value == "1e300" and "deviation" in str(answer["node_errors"])
        return
    messages = dict(server.wait(answer["prompt_id"])["status"]["messages"])
    assert SENTENCES[case[2:]] in messages["execution_error"]["exception_message"]


@pytest.mark.parametrize("case", [c for c in NOTABLE if c[:3] in ANSWERED], ids=word)
def test_an_optional_input_that_is_none_is_not_connected(server, case):
    server.run(hostile_inputs.prompt_of([case]))


@pytest.mark.parametrize(
    ("place", "name"),
    [("patch", "deviation"), ("patch", "region"), ("plot", "trace"), ("scale", "deviation")],
)
def test_a_constant_in_the_place_of_a_wire_is_one_sentence(server, place, name):
    graph = graphs.model_patch(batch=1)
    if place == "scale":
        graph = graphs.async_ksampler(batch=1)
    graph[place]["inputs"][name] = 5
    with pytest.raises(RuntimeError, match=f"{name} is 5, expected what an? "):
        server.run(graph)


def test_a_tpm_whose_answer_is_not_finite_ends_the_run_with_its_name(server):
    """Weights that are finite and so large that their sums are not: it was a black picture."""
    module, meta = load_tpm(ROOT / "training" / "tiny" / "tpm" / "tiny.safetensors")
    module.hidden.weight.fill_(3e38)
    folder = server.base / "models" / "tpm"
    folder.mkdir(parents=True, exist_ok=True)
    save_tpm(folder / "huge.safetensors", module, meta)
    graph = hostile_inputs.few_steps(hostile_inputs.GRAPHS["patch"]())
    graph["tpm"]["inputs"]["tpm_name"] = "huge.safetensors"
    with pytest.raises(RuntimeError, match="TPM huge.safetensors answered with numbers that are"):
        server.run(graph)


def test_a_fixed_draw(server):
    every = hostile_inputs.cases()
    assert len(every) > 1000
    for case in random.Random(2).sample(every, 25):
        assert hostile_inputs.fault_of(server, [case]) == "", case
    for some in hostile_inputs.drawn(len(every) + 8, random.Random(2))[-8:]:
        assert hostile_inputs.fault_of(server, some) == "", some
