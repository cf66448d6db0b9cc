"""What reached the network, and the one question of these tests: is zero stock, is D told?"""

from __future__ import annotations

import contextlib

import torch

FLOW = ("sd35", "flux")
D = 0.4


def attacher(pack, deviation: float):
    policy = pack("tpm.policies").Constant(deviation)
    return lambda model: pack("nodes.run.hook").attach(model, policy)[0]


@contextlib.contextmanager
def watched(*networks):
    """(timesteps (chunks * B,), keyword arguments) of every call of the networks, in order."""
    calls: list[tuple[torch.Tensor, dict]] = []

    def note(network, args, kwargs):
        calls.append((args[1].detach().clone(), dict(kwargs)))

    hooks = [n.register_forward_pre_hook(note, with_kwargs=True) for n in dict.fromkeys(networks)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def expected(model, sigmas: torch.Tensor, calls, deviation: float) -> list[torch.Tensor]:
    """t* of every stock call whose sigma is a grid point: Eq. 6, unclamped."""
    u = model.get_model_object("model_sampling").timestep(sigmas[:-1]).double()
    out = []
    for seen in calls:
        k = int((u - seen[0].double()).abs().argmin())
        assert float(abs(u[k] - seen[0])) <= 1e-4 * float(u[0])
        out.append(torch.full_like(seen, u[k] + (deviation * (u[k] - u[k - 1]) if k else 0.0)))
    return out


def zero_is_stock_and_d_is_told(pack, model, run, sigmas, networks=None):
    """`run(attach)` samples with `attach(model)`. Returns (stock, moved) latents and their calls.

    D = 0 gives stock's bits; D = 0.4 gives finite other latents, from the same number of network
    calls, of which every single one was told t*.
    """
    networks = networks or [model.model.diffusion_model]
    results = []
    for attach in (lambda m: m, attacher(pack, 0.0), attacher(pack, D)):
        with watched(*networks) as calls:
            results.append((run(attach), [seen for seen, _ in calls]))
    (stock, seen), (zero, zero_seen), (moved, told) = results
    assert torch.equal(zero, stock)
    assert all(torch.equal(a, b) for a, b in zip(zero_seen, seen, strict=True))
    assert torch.isfinite(moved).all()
    assert float((moved - stock).abs().max()) > 1e-3 * float(stock.abs().max())
    wanted = expected(model, sigmas, seen, D)
    for a, b in zip(told, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-4 * float(sigmas[0])), (a, b)
    assert sum(not torch.equal(a, b) for a, b in zip(told, seen, strict=True)) > len(seen) / 2
    return stock, moved, seen
