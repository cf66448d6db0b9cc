"""What one sampling run carries from evaluation to evaluation, and how it begins."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from comfy_execution.utils import get_executing_context

from ...report.trace import Run, Trace
from ...tpm.policies import Decision, Policy, Still
from ..pixels.masking import Region
from ..pixels.run import PixelRun
from .chain import Chain, step_warnings
from .family import model_family
from .times import ModelTime
from .warnings import note, source_of, warn, warnings_of


@dataclass
class RunState:
    """All that one sampling run carries from evaluation to evaluation."""

    policy: Policy
    family: str
    grid: torch.Tensor  # (K+1,) the whole schedule, on the CPU
    nodes: list[float]  # the same as numbers: searching a tensor costs five times as much
    own: list[float]  # the part that this sampler runs
    record: Run
    decisions: dict[int, Decision] = field(default_factory=dict)  # of a learned policy, by k
    asked: set[int] = field(default_factory=set)  # grid points with a final answer
    time: ModelTime | None = None  # of the model, from the first evaluation on
    times: list[float] | None = None  # u at the grid points, see `grid_times`
    u_star: torch.Tensor | None = None  # (B,) while an evaluation with a deviation is under way
    network_called: bool = False
    region: Region | None = None
    pixels: PixelRun | None = None  # of the region, from the first evaluation on
    first_pass: bool = False  # a plain one, for a static region's attention


def open_run(policy: Policy, trace: Trace, guider, own, region, grid: torch.Tensor) -> RunState:
    """A sampling begins: its state, and its record in the trace. own: the sampler's sigmas, grid:
    the whole schedule (K+1,) that they are a part of."""
    family = model_family(guider.model_patcher)
    label = policy.label + ("" if region is None else ", in a region")
    source, tuned = source_of(policy, family)
    record = Run(label, family, grid.tolist(), source=source, tuned=tuned)
    add_run(trace, record)
    warn(record, *warnings_of(policy, family, grid, own))
    return RunState(policy, family, grid, record.sigmas, own.tolist(), record, region=region)


def open_step(policy: Policy, trace: Trace, guider, own, region, chain: Chain, owner) -> RunState:
    """A sampling of one step begins: where it goes on from an earlier one, both are one run."""
    place = chain.follow(own.tolist(), owner)
    if place == "joined" and chain.record is not None:
        record, grid = chain.record, torch.tensor(chain.grid)
        record.sigmas = chain.grid
        run = RunState(policy, record.family, grid, chain.grid, own.tolist(), record, region=region)
    else:
        run = open_run(policy, trace, guider, own, region, own)
        chain.record = run.record
    if policy.needs_schedule:
        run.policy = Still(policy)
    sentences = step_warnings(place, policy, region)
    for sentence in sentences:
        if sentence not in chain.said:
            logging.warning(sentence)
    chain.said.update(sentences)
    note(run.record, *sentences)
    return run


def current_prompt() -> str | None:
    """The queued prompt that is being executed; None outside of a server."""
    context = get_executing_context()
    return None if context is None else context.prompt_id


def add_run(trace: Trace, record: Run) -> None:
    """A trace holds the runs of one queued prompt: an older prompt's runs give way."""
    prompt = current_prompt()
    if prompt != getattr(trace, "prompt", prompt):
        trace.runs.clear()
    trace.prompt = prompt
    trace.runs.append(record)
