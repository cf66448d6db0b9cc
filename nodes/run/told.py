"""What a node says when its run has ended: one line of what was done, or why nothing was."""

from __future__ import annotations

from collections.abc import Sequence

from ...report.trace import Run, Trace
from ...tpm.detail_daemon import DetailDaemon
from ...tpm.policies import Absent, Constant, Curve, Policy, Preset, Scaled, Window
from .notice import on_node
from .opening import add_run, is_of_this_prompt
from .warnings import velocity_warning, warn

SECRET = "Tune by Eye: what each picture was made with is not said, so that you choose by eye"
GENERAL = "every deviation is 0: the network is told the true time"


def tell(record: Run, policy: Policy | None = None) -> None:
    """Writes why a run did nothing into its record, and its line onto its node."""
    if policy is not None and record.steps and record.off:
        record.why = why_nothing(record, policy)
    secret = getattr(policy, "secret", False)  # a policy of another pack may not have it
    said = None if secret else velocity_warning(record)
    if said and said not in record.warnings:
        warn(record, said)
    on_node(SECRET if secret else record.line(), *record.warnings, node=record.node)


def why_nothing(record: Run, policy: Policy) -> str:
    """Of a run whose evaluations were all told the true time, with omega 1."""
    if all(step["step"] == 0 for step in record.steps):
        return "one step only, and the first evaluation is never changed"
    if record.masks and not any(bool(mask.any()) for mask in record.masks):
        return "the region is empty"
    return why_zero(policy, record) or GENERAL


def why_zero(policy: Policy, record: Run) -> str:
    """The outermost part of a policy that makes it 0, in words; "" where none is known."""
    if isinstance(policy, Absent):
        return "nothing is connected to the deviation of a scale node, or it is bypassed"
    if isinstance(policy, Scaled) and policy.gamma == 0:
        return "deviation_scale is 0"
    if isinstance(policy, Constant) and policy.deviation == 0:
        return "the deviation is 0"
    if isinstance(policy, DetailDaemon):
        return "the deviation is 0" if policy.amount == 0 else "its curve is 0 at every step"
    if isinstance(policy, Preset) and not record.tuned:
        return (
            "the preset leaves the last step of a model that nobody has measured alone, and no "
            "other is behind the first; take 3 steps or more, or the preset custom"
        )
    inner = getattr(policy, "policy", None)
    found = why_zero(inner, record) if inner is not None else ""
    if not found and isinstance(policy, Window):
        return (
            f"no step lies between start_percent {policy.start_percent:g} and end_percent "
            f"{policy.end_percent:g}"
        )
    if not found and isinstance(policy, Curve):
        return "the curve is 0 at every step"
    return found


def say_replaced(trace: Trace, policy: Policy) -> None:
    """Into the traces of patches that another one took the place of: that it decides, not they."""
    why = (
        f"the Async Timestep node nearest to the sampler decides, which is another ({policy.label})"
    )
    for earlier in trace.replaced:
        record = Run("Async Timestep", "", [], why=why, node=earlier.node)
        if not (earlier.runs and earlier.runs[-1].why == why and is_of_this_prompt(earlier)):
            add_run(earlier, record)
            if record.node:
                on_node(record.line(), node=record.node)


def say_removed(record: Run, parts: Sequence[str]) -> None:
    """Why a run is the stock one: another pack took our wrappers off the MODEL."""
    record.why = (
        f"another node has replaced {' and '.join(parts)} of the MODEL, in which Async Timestep was"
    )
    warn(
        record,
        f"Async Timestep is off: {record.why}; put Async Timestep behind that node, directly "
        "before the sampler.",
    )
    on_node(record.line(), *record.warnings, node=record.node)
