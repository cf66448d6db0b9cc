"""How a sampling run begins: its state, its record in the trace, and what is warned of."""

from __future__ import annotations

import logging

import torch
from comfy_execution.utils import get_executing_context

from ...report.trace import Run, Trace
from ...tpm.policies import Policy, Still
from ...tpm.variance import VarianceMatch
from .chain import Chain, step_warnings
from .family import model_family
from .region import Region
from .state import RunState
from .times import ModelTime
from .tracker import RegionTracker
from .warnings import innermost, note, source_of, warn, warnings_of


def open_run(
    policy: Policy,
    trace: Trace,
    guider,
    stage_sigmas: torch.Tensor,
    region: Region | None,
    grid: torch.Tensor,
) -> RunState:
    """A sampling begins. stage_sigmas: the sampler's own, a part of the whole schedule `grid`
    (K+1,); both on the CPU."""
    family = model_family(guider.model_patcher)
    label = policy.label + ("" if region is None else ", in a region")
    source, tuned = source_of(policy, family)
    record = Run(label, family, grid.tolist(), source=source, tuned=tuned, node=trace.node)
    add_run(trace, record)
    warn(record, *warnings_of(policy, family, guider.model_patcher, grid, stage_sigmas))
    inner = innermost(policy)
    if isinstance(inner, VarianceMatch):
        time = ModelTime(guider.model_patcher.get_model_object("model_sampling"))
        if said := inner.idle_warning(time.flow_time(stage_sigmas).tolist()):
            warn(record, said)
    return state_of(policy, record, grid, stage_sigmas, region)


def open_step(
    policy: Policy,
    trace: Trace,
    guider,
    stage_sigmas: torch.Tensor,
    region: Region | None,
    chain: Chain,
    owner: object,
) -> RunState:
    """A sampling of one step begins: where it goes on from an earlier one, both are one run."""
    place = chain.follow(stage_sigmas.tolist(), owner)
    if place == "joined" and chain.record is not None:
        chain.record.sigmas = chain.grid
        grid = torch.tensor(chain.grid)
        run = state_of(policy, chain.record, grid, stage_sigmas, region)
    else:
        run = open_run(policy, trace, guider, stage_sigmas, region, stage_sigmas)
        chain.record = run.written
    if policy.needs_schedule:
        run.policy = Still(policy)
    sentences = step_warnings(place, policy, region)
    for sentence in sentences:
        if sentence not in chain.said:
            logging.warning(sentence)
    chain.said.update(sentences)
    note(run.written, *sentences)
    return run


def state_of(
    policy: Policy,
    record: Run,
    grid: torch.Tensor,
    stage_sigmas: torch.Tensor,
    region: Region | None,
) -> RunState:
    """The state of a run whose record is in the trace."""
    tracker = None if region is None else RegionTracker(region, record)
    stage = stage_sigmas.tolist()
    return RunState(policy, record.family, grid, record.sigmas, stage, record, tracker)


def current_prompt() -> str | None:
    """The queued prompt that is being executed; None outside of a server."""
    context = get_executing_context()
    return None if context is None else context.prompt_id


def add_run(trace: Trace, record: Run) -> None:
    """A trace holds the runs of one queued prompt: an older prompt's runs give way."""
    if not is_of_this_prompt(trace):
        trace.runs.clear()
    trace.prompt = current_prompt()
    trace.runs.append(record)


def is_of_this_prompt(trace: Trace) -> bool:
    """Whether what a trace holds was sampled in the queued prompt that is being executed."""
    return not trace.runs or trace.prompt == current_prompt()
