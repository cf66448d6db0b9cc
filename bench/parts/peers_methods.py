"""Detail Daemon's node and our patch, each put on with the settings of a row."""

from __future__ import annotations

from async_timestep.harness.in_process import pack


def detail_daemon(checkout, sampler, **changed):
    """Detail Daemon's node on a SAMPLER; its own defaults but for what is `changed`."""
    node = checkout.NODE_CLASS_MAPPINGS["DetailDaemonSamplerNode"]
    inputs = node.INPUT_TYPES()["required"]
    values = {name: spec[1]["default"] for name, spec in inputs.items() if name != "sampler"}
    return node.go(sampler, **{**values, **changed})[0]


def deviated(model, deviation, region=None, **settings):
    """Our patch with a Deviation node of these settings; a number is the node's default unit."""
    policy = deviation
    if not hasattr(policy, "decide"):
        make = pack("nodes.deviation").deviation_policy
        policy = make("custom", deviation, **settings)
    return pack("nodes.run.hook").attach(model, policy, region=region)[0]


def five_points(steps: int | None = None) -> list[tuple[float, float]]:
    """Start, peak and end of its default curve, at the steps where it has them, or as written."""
    if steps is None:
        start, peak, end = 0.2, 0.5, 0.8
    else:
        start, peak, end = (round(x * (steps - 1)) / steps for x in (0.2, 0.5, 0.8))
    return [(0.0, 0.0), (start, 0.0), (peak, 1.0), (end, 0.0), (1.0, 0.0)]
