"""Samplers that packs call anew for every step: the deviation is there as in a single run, or the
run says why it is not."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from node_texts import node_texts
from sampling import sample_sigmas

import comfy.sample
import comfy.samplers
from async_timestep.harness import graphs

STEPS = 5
LAST = ("preset, whose last step is synchronous", "omega")  # they go by what follows


def setting(families, family: str, scheduler: str = "simple"):
    tiny = families[family]
    sampling = tiny[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, STEPS)
    latent = tiny[3].repeat(2, 1, 1, 1)
    return tiny, sigmas, latent, comfy.sample.prepare_noise(latent, 5)


def step_by_step(tiny, model, sigmas, latent, noise, sampler="euler", times=1, skip=1, start=0):
    """As KSampler (Advanced) runs start_at_step = k, end_at_step = k + 1 for every k."""
    for k in range(start, len(sigmas) - 1, skip):
        before = latent
        for _ in range(times):  # a pack's second region begins from the same latent
            latent = sample_sigmas(tiny, model, sigmas[k : k + 2], sampler, 1.0, before, noise)
        noise = torch.zeros_like(noise)
    return latent


def told(trace) -> list[tuple[int, list[float]]]:
    return [(s["step"], s["t_star"]) for run in trace.runs for s in run.steps]


def policies_of(pack) -> dict:
    made = pack("tpm.policies")
    return {
        "interval": made.Constant(0.4),
        "percent": made.Constant(0.4, "percent"),
        "preset, whose last step is synchronous": made.Preset(),
        "window": made.Window(made.Constant(0.4), 0.3, 0.8),
        "follow_time": made.VelocityScale(made.Constant(0.3), mode="follow_time"),
        "omega": made.VelocityScale(made.Constant(0.3), omega=0.9),
    }


@pytest.mark.parametrize("family", ["sd35", "sd15"])
@pytest.mark.parametrize("sampler", ["euler", "dpm_2", "heun"])
def test_the_steps_are_told_what_a_single_run_is(pack, families, family, sampler):
    tiny, sigmas, latent, noise = setting(families, family)
    for name, policy in policies_of(pack).items():
        whole, whole_trace = pack("nodes.run.hook").attach(tiny[0], policy)
        one = sample_sigmas(tiny, whole, sigmas, sampler, 1.0, latent, noise)
        model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
        out = step_by_step(tiny, model, sigmas, latent, noise, sampler)
        found, wanted = told(trace), told(whole_trace)
        if sampler != "euler" and name in LAST:
            # the second evaluation of the step before the last: that 0 follows is not known yet
            n = next(i for i, (k, _) in enumerate(wanted) if k == STEPS - 1)
            found, wanted = found[:n] + found[n + 1 :], wanted[:n] + wanted[n + 1 :]
        assert found == wanted, name
        assert len(trace.runs) == 1 and trace.runs[0].sigmas == sigmas.tolist()
        assert not trace.runs[0].warnings and trace.runs[0].moved
        # the latents go through the model's latent format and back at every step
        if sampler == "euler" or name not in LAST:
            assert torch.allclose(out, one, rtol=1e-3, atol=1e-3 * float(one.abs().max())), name


@pytest.mark.parametrize("family", ["sd35", "sd15"])
def test_zero_is_stock_and_a_second_sampler_of_each_step_is_told_the_same(pack, families, family):
    tiny, sigmas, latent, noise = setting(families, family)
    stock = step_by_step(tiny, tiny[0], sigmas, latent, noise)
    constant = pack("tpm.policies").Constant
    zero = pack("nodes.run.hook").attach(tiny[0], constant(0.0))[0]
    assert torch.equal(step_by_step(tiny, zero, sigmas, latent, noise), stock)
    model, trace = pack("nodes.run.hook").attach(tiny[0], constant(0.4))
    out = step_by_step(tiny, model, sigmas, latent, noise, times=2)
    once, once_trace = pack("nodes.run.hook").attach(tiny[0], constant(0.4))
    assert torch.equal(out, step_by_step(tiny, once, sigmas, latent, noise))
    assert told(trace)[::2] == told(trace)[1::2] == told(once_trace)
    assert not torch.equal(out, stock) and len(trace.runs) == 1


def test_every_picture_begins_anew(pack, families):
    """Another picture, another latent's size, a picture changed from half way on."""
    tiny, sigmas, latent, noise = setting(families, "sd35")
    model, trace = pack("nodes.run.hook").attach(tiny[0], pack("tpm.policies").Constant(0.4))
    first = step_by_step(tiny, model, sigmas, latent, noise)
    assert torch.equal(first, step_by_step(tiny, model, sigmas, latent, noise))
    assert len(trace.runs) == 2 and trace.runs[0].steps == trace.runs[1].steps
    step_by_step(tiny, model, sigmas, latent[:1], noise[:1], start=2)
    last = trace.runs[-1]
    assert len(trace.runs) == 3 and [s["step"] for s in last.steps] == [0, 1, 2]
    assert last.steps[0]["t_star"] == [last.steps[0]["t"]]


def test_steps_that_do_not_join_say_so(pack, families, caplog):
    tiny, sigmas, latent, noise = setting(families, "sd35")
    model, trace = pack("nodes.run.hook").attach(tiny[0], pack("tpm.policies").Constant(0.4))
    with caplog.at_level(logging.WARNING):
        out = step_by_step(tiny, model, sigmas, latent, noise, skip=2)
    assert torch.equal(out, step_by_step(tiny, tiny[0], sigmas, latent, noise, skip=2))
    assert [r.message for r in caplog.records if "called anew" in r.message] == [
        trace.runs[-1].warnings[0]
    ]
    assert "connect the scheduler's SIGMAS" in trace.summary()


@pytest.mark.parametrize("stages", [[1, 1, 1, 1, 1], [2, 3], [1, 3, 1]])
def test_a_learned_policy_goes_on_from_stage_to_stage_with_the_whole_schedule(
    pack, families, make_schedule_policy, stages
):
    """Each decision is asked for at the grid point before, which may lie in another sampling."""
    tiny, sigmas, latent, noise = setting(families, "sd35")
    whole, whole_trace = pack("nodes.run.hook").attach(tiny[0], make_schedule_policy("asked"))
    sample_sigmas(tiny, whole, sigmas, "euler", 1.0, latent, noise)
    policy = make_schedule_policy("asked")
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy, sigmas=sigmas)
    for _ in range(2):  # the second picture begins anew
        at, current, own = 0, latent, noise
        for length in stages:
            part = sigmas[at : at + length + 1]
            current = sample_sigmas(tiny, model, part, "euler", 1.0, current, own)
            at, own = at + length, torch.zeros_like(noise)
        assert policy.asked == [1, 2, 3, 4]
        policy.asked.clear()
    wanted = [s["deviation"] for s in whole_trace.runs[0].steps]
    assert [s["deviation"] for run in trace.runs for s in run.steps] == wanted * 2
    # a later stage of another picture is nobody's: what was decided for the first is not for it
    sample_sigmas(tiny, model, sigmas[1:3], "euler", 1.0, latent, noise)
    assert trace.runs[-1].steps[0]["deviation"] == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["curve", "tpm"])
def test_what_goes_by_the_whole_schedule_says_so_and_works_with_its_sigmas(
    pack, families, make_schedule_policy, kind, caplog
):
    tiny, sigmas, latent, noise = setting(families, "sd35")
    policy = make_schedule_policy(kind)
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
    with caplog.at_level(logging.WARNING):
        out = step_by_step(tiny, model, sigmas, latent, noise)
    assert torch.equal(out, step_by_step(tiny, tiny[0], sigmas, latent, noise))
    assert sum("goes by the whole schedule" in r.message for r in caplog.records) == 1
    assert "goes by the whole schedule" in trace.summary()
    model, trace = pack("nodes.run.hook").attach(
        tiny[0], make_schedule_policy("asked"), sigmas=sigmas
    )
    assert not torch.equal(step_by_step(tiny, model, sigmas, latent, noise), out)
    assert trace.runs[-1].moved and not trace.runs[-1].warnings


@pytest.fixture
def make_schedule_policy(pack):
    policies = pack("tpm.policies")

    class Learned(policies.Policy):
        label, learned = "a TPM", True

        def decide(self, state):
            assert state.evaluation is None, "asked although it has no schedule"
            return policies.synchronous(state)

    class Asked(policies.Policy):
        label, learned = "a TPM", True

        def __init__(self):
            self.asked = []

        def decide(self, state):
            found = policies.synchronous(state)
            if state.evaluation is None:
                return found
            self.asked.append(state.k)
            return policies.Decision(found.deviation + 0.1 * state.k, found.cut, found.omega)

    made = {"curve": lambda: policies.Curve(policies.Constant(0.4), lambda p: p), "tpm": Learned}
    made |= {"asked": Asked}
    return lambda kind: made[kind]()


def test_words_say_that_they_act_everywhere(pack, families):
    chain = pack("nodes.run.chain")
    region = pack("nodes.run.region").Region("words", columns={"cat": [2]}, strengths=(1.0,))
    found = chain.step_warnings("joined", pack("tpm.policies").Constant(0.4), region)
    assert len(found) == 1 and "connect a mask instead" in found[0]
    assert not chain.step_warnings("first", pack("tpm.policies").Constant(0.4), region)


def steps_of(kept: range, seed: int, steps: int = 5) -> dict:
    """KSampler (Advanced) once for each step that is kept, on one patched model."""
    graph = graphs.model_patch(seed=seed, batch=1)
    given = graph.pop("sampler")["inputs"]
    own = {name: value for name, value in given.items() if name not in ("seed", "denoise")}
    latent = own["latent_image"]
    for k in kept:
        inputs = own | {"steps": steps, "noise_seed": given["seed"], "latent_image": latent}
        inputs |= {"start_at_step": k, "end_at_step": k + 1, "return_with_leftover_noise": "enable"}
        inputs |= {"add_noise": "enable" if k == 0 else "disable"}
        graph[f"step{k}"] = {"class_type": "KSamplerAdvanced", "inputs": inputs}
        latent = [f"step{k}", 0]
    for entry in graph.values():
        for name, value in entry["inputs"].items():
            if value == ["sampler", 0]:
                entry["inputs"][name] = latent
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["plot", 1]}}
    return graph


def test_stock_samplers_called_once_a_step_in_a_real_graph(server):
    """The plot has one run of five steps."""
    found = json.loads(server.run(steps_of(range(5), seed=7))["show"]["text"][0])
    assert [[step["step"] for step in run] for run in found["runs"]] == [[0, 1, 2, 3, 4]]
    assert all(step["cut_percent"][0] > 0 for step in found["runs"][0][1:4])
    assert found["warnings"] == [[]]


def test_steps_that_do_not_join_say_so_on_their_node(server):
    found = node_texts(server, steps_of(range(0, 5, 2), seed=8))
    assert found["patch"].startswith("off: ")
    assert "connect the scheduler's SIGMAS" in found["patch"]


def test_a_warning_stands_on_the_node_that_samples(pack, monkeypatch):
    """By the host's own call for text under a node; nothing where there is no server."""
    import sys
    import types

    shown = []
    server = types.SimpleNamespace(send_progress_text=lambda text, node: shown.append((node, text)))
    module = types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=server))
    remarks, trace = pack("nodes.run.warnings"), pack("report.trace")
    run = trace.Run("a", "b", [1.0, 0.0])
    remarks.warn(run, "First.")
    monkeypatch.setitem(sys.modules, "server", module)
    monkeypatch.setattr(
        pack("nodes.run.notice"),
        "get_executing_context",
        lambda: types.SimpleNamespace(node_id="7"),
    )
    remarks.warn(run, "Second.", "Third.")
    remarks.note(run)
    assert shown == [("7", "First.\nSecond.\nThird.")]
