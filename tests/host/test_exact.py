"""Deviation 0 is the stock sampler, bit for bit: every sampler, every family, cfg 1 and 3."""

from __future__ import annotations

import pytest
import torch
from sampling import sample

import comfy.samplers

FAMILIES = ("sd35", "flux", "sd15", "vpred")
ZEROS = {1.0: (0.0, 1.0), 3.0: (0.5, 0.0)}  # cfg -> deviation and scale: one way each to say zero


def test_there_are_44_samplers():
    assert len(comfy.samplers.SAMPLER_NAMES) == 44


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_is_stock_and_not_zero_is_active(pack, families, family, cfg):
    hook, policies = pack("nodes.run.hook"), pack("tpm.policies")
    tiny = families[family]
    batch = 2
    if tiny[3].shape[1] == 4:  # the SD1.5 net, by far the slowest: one picture of one pixel
        tiny, batch = (*tiny[:3], tiny[3][..., :1, :1]), 1
    deviation, scale = ZEROS[cfg]
    for sampler in comfy.samplers.SAMPLER_NAMES:
        stock, calls = sample(tiny, sampler=sampler, cfg=cfg, batch=batch)
        assert torch.isfinite(stock).all(), sampler
        patched, trace = hook.attach(tiny[0], policies.Constant(deviation), scale)
        out, seen = sample(tiny, patched, sampler=sampler, cfg=cfg, batch=batch)
        assert torch.equal(out, stock), sampler
        assert all(torch.equal(a, b) for a, b in zip(seen, calls, strict=True)), sampler
        assert trace.runs, sampler
        patched, _ = hook.attach(tiny[0], policies.Constant(0.4))
        moved, seen = sample(tiny, patched, sampler=sampler, cfg=cfg, batch=batch)
        assert torch.isfinite(moved).all(), sampler
        assert not torch.equal(moved, stock), sampler
        if sampler != "dpm_adaptive":  # its step sizes follow what the network answers
            assert len(seen) == len(calls), sampler
        assert torch.equal(seen[0], calls[0]), "t*_0 = t_0"


@pytest.mark.parametrize("family", FAMILIES)
def test_zero_wires_are_stock(pack, families, family):
    """Every way to say zero: window never open, velocity 1, percent 0, curve at 0, untrained
    TPM.
    """
    hook, p = pack("nodes.run.hook"), pack("tpm.policies")
    tiny = families[family]
    stock, _ = sample(tiny, steps=5)
    for policy in (
        p.Window(p.Constant(0.5), 1.0, 1.0),
        p.VelocityScale(None, 1.0),
        p.VelocityScale(None, 1.0, "follow_time"),
        p.Constant(0.0, "percent"),
        p.Constant(0.0, "percent", "follow_time"),
        p.Curve(p.Constant(0.5), lambda x: 0.0),
        p.Scaled(p.Preset("flux1_dev"), 0.0),
        p.Scaled(p.Preset("auto"), 0.0),
    ):
        out, _ = sample(tiny, hook.attach(tiny[0], policy)[0], steps=5)
        assert torch.equal(out, stock), policy
