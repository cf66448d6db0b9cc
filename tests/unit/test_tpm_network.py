"""Eq. 17 and 18 at their extremes, the Beta head against two other libraries, and the network."""

import math

import numpy as np
import pytest
import torch

from async_timestep.tpm import network
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig


def inputs(config: TPMConfig, batch=2, size=(16, 16), seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = [
        torch.randn(batch, config.latent_channels, *size, generator=generator) for _ in "xv0"
    ]
    pooled = torch.randn(batch, config.pooled_dim, generator=generator)
    t = torch.rand(batch, generator=generator)
    return [*latents, pooled, t, 0.9 * t, 2, 4]


def phi64(x: float) -> float:
    return 2 + x + x * x / 2 if x > 0 else 1 + math.exp(x)


def test_phi_is_equation_17():
    values = np.concatenate([np.linspace(-100, 100, 401), [-1e-6, 0.0, 1e-6]])
    found = network.phi(torch.tensor(values))
    np.testing.assert_allclose(found.numpy(), [phi64(x) for x in values], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_mode_is_never_nan(dtype):
    edge = torch.tensor([-300.0, -100, -17, -8, -7, -1e-3, 0, 1e-3, 8, 100, 200]).to(dtype)
    raw = torch.cartesian_prod(edge, edge)
    r = network.mode(raw)
    assert bool(((r >= 0) & (r <= 1)).all())
    assert bool((r[raw[:, 0] == raw[:, 1]] == 0.5).all())
    assert bool((r[raw[:, 0] > raw[:, 1]] > 0.5).all() or dtype != torch.float32)


@pytest.mark.parametrize("function", ["phi", "log_prob", "entropy"])
def test_derivatives_at_and_around_0_are_those_of_equation_17(function):
    """An untrained head is exactly 0: a derivative of 0 there would be one for ever. Central
    differences in float64; both one-sided derivatives of phi at 0 are 1."""
    edge = torch.tensor([-6.0, -1e-3, -1e-12, -0.0, 0.0, 1e-12, 1e-3, 6.0], dtype=torch.float64)
    raw = torch.cartesian_prod(edge, edge).requires_grad_()
    r = torch.full((len(raw),), 0.3, dtype=torch.float64)

    def value(at):
        return network.log_prob(at, r) if function == "log_prob" else getattr(network, function)(at)

    value(raw).sum().backward()
    step = 1e-6
    for part in (0, 1):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[part] = step
        with torch.no_grad():
            slope = (value(raw + shift) - value(raw - shift)) / (2 * step)
        slope = slope[:, part] if slope.ndim == 2 else slope
        torch.testing.assert_close(raw.grad[:, part], slope, rtol=1e-6, atol=1e-7)
    assert bool((raw.grad != 0).all())


def test_mode_is_equation_18():
    a, b = np.meshgrid(np.linspace(-6, 30, 73), np.linspace(-6, 30, 73))
    alpha, beta = np.vectorize(phi64)(a), np.vectorize(phi64)(b)
    raw = torch.tensor(np.stack([a, b], -1), dtype=torch.float32)
    known = (alpha - 1) / (alpha + beta - 2)
    np.testing.assert_allclose(network.mode(raw).numpy(), known, rtol=2e-5)


def test_equal_raw_values_are_exactly_synchronous_in_every_lane():
    values = torch.linspace(-90, 90, 1003)  # odd: vectorised kernels end in a scalar tail
    assert bool((network.mode(torch.stack([values, values], -1)) == 0.5).all())


def test_no_nan_in_value_or_gradient():
    edge = torch.tensor([-100.0, -50, -17, -1, 0, 1, 17, 50, 100])
    for r in (0.0, 1e-4, 0.5, 1 - 1e-4, 1.0):
        raw = torch.cartesian_prod(edge, edge).requires_grad_()
        value = network.log_prob(raw, torch.full((len(raw),), r))
        (value.sum() + network.entropy(raw).sum() + network.phi(raw).sum()).backward()
        assert bool(value.isfinite().all()) and bool(raw.grad.isfinite().all())
    raw = torch.tensor([100.0, -100.0], requires_grad=True)
    network.phi(raw).sum().backward()
    assert raw.grad.tolist() == pytest.approx([101.0, math.exp(-100)])


def test_log_prob_and_entropy_against_torch_and_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(400, 2, 2, generator=generator, dtype=torch.float64) * 40 - 10
    r = torch.rand(400, 2, generator=generator, dtype=torch.float64) * 0.998 + 1e-3
    alpha, beta = network.concentrations(raw)
    theirs = torch.distributions.Beta(alpha, beta)
    ours = network.log_prob(raw, r)
    torch.testing.assert_close(ours, theirs.log_prob(r), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(network.entropy(raw), theirs.entropy(), rtol=1e-7, atol=1e-7)
    scipy = stats.beta.logpdf(r.numpy(), alpha.numpy(), beta.numpy())
    np.testing.assert_allclose(ours.numpy(), scipy, rtol=1e-7, atol=1e-7)


def test_log_prob_of_sharp_policies_is_exact_in_float32():
    raw = torch.tensor([[99.3, 98.1], [60.0, 61.0]])
    r = torch.tensor([0.507, 0.49])
    alpha, beta = network.concentrations(raw.double())
    known = torch.distributions.Beta(alpha, beta).log_prob(r.double())
    torch.testing.assert_close(network.log_prob(raw, r).double(), known, rtol=1e-6, atol=1e-6)


def test_actions_stored_in_half_precision_stay_finite():
    r = torch.tensor([1 - 1e-4, 1e-4]).half()
    assert r[0] == 1  # this is what half precision does to the upper bound
    assert bool(network.log_prob(torch.zeros(2, 2), r).isfinite().all())


@pytest.mark.parametrize("raw", [(0.0, 0.0), (2.0, -1.0), (-6.0, 3.0), (5.0, 5.0)])
def test_samples_have_the_moments_of_beta(raw):
    count = 40_000
    values = torch.tensor(raw).expand(count, 2)
    r = network.sample(values, torch.Generator().manual_seed(3))
    a, b = (phi64(x) for x in raw)
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    assert r.shape == (count,) and r.dtype == torch.float32
    assert abs(float(r.mean()) - mean) < 4 * math.sqrt(variance / count)
    assert float(r.var()) == pytest.approx(variance, rel=0.04)


def test_samples_depend_on_the_generator_only():
    raw = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.manual_seed(1)
    first = network.sample(raw, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    assert torch.equal(first, network.sample(raw, torch.Generator().manual_seed(7)))
    assert not torch.equal(first, network.sample(raw, torch.Generator().manual_seed(8)))
    assert not first.requires_grad


def test_samples_are_clamped():
    raw = torch.tensor([[200.0, -20.0], [-20.0, 200.0]])
    r = network.sample(raw, torch.Generator().manual_seed(0))
    assert r.tolist() == pytest.approx([1 - 1e-4, 1e-4], abs=1e-7)


@pytest.mark.parametrize(
    "fields,millions",
    [
        ({}, 4.34),
        ({"pooled_dim": 768, "pooled_split": (768,)}, 4.01),
        ({"width": 128}, 1.32),
        ({"width": 384}, 9.06),
        ({"patch": 2}, 4.19),
    ],
)
def test_parameter_counts_are_those_of_the_specification(fields, millions):
    module = TimestepPredictionModule(TPMConfig(**fields))
    count = sum(p.numel() for p in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(
    "actions,count", [("deviation", 1), ("omega", 1), ("both", 2), ("follow_time", 1)]
)
@pytest.mark.parametrize("more", [{}, {"raw_cap": 5.0, "global_conditioning": True}])
def test_untrained_is_exactly_synchronous(actions, count, more):
    config = TPMConfig(
        pooled_dim=64, pooled_split=(64,), width=64, heads=4, actions=actions, **more
    )
    raw = TimestepPredictionModule(config)(*inputs(config))
    assert torch.equal(raw, torch.zeros(2, count, 2))
    assert torch.equal(network.mode(raw), torch.full((2, count), 0.5))
    alpha, beta = network.concentrations(raw)
    assert bool((alpha == 2).all()) and bool((beta == 2).all())


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (1, 5), (64, 36)])
def test_any_resolution(make_tpm, size):
    module = make_tpm()[0]
    raw = module(*inputs(module.config, size=size))
    assert raw.shape == (2, 1, 2) and bool(raw.isfinite().all()) and bool((raw != 0).all())


def test_padding_is_with_zeros_at_the_far_sides(make_tpm):
    module = make_tpm()[0]
    latents = torch.randn(1, 12, 5, 6, generator=torch.Generator().manual_seed(0))
    patches = module.to_patches(latents)
    assert patches.shape == (1, 4, 12 * 16)
    corner = patches[0, 3].view(12, 4, 4)
    assert torch.equal(corner[:, :1, :2], latents[0, :, 4:, 4:])
    assert not bool(corner[:, 1:].any()) and not bool(corner[:, :, 2:].any())


def test_positions_are_relative_to_the_image(make_tpm):
    module = make_tpm()[0]
    small, large = (module.positions(torch.zeros(1, 1, n, n)) for n in (12, 36))
    middle_small, middle_large = small.view(3, 3, -1)[1, 1], large.view(9, 9, -1)[4, 4]
    torch.testing.assert_close(middle_small, middle_large)
    assert small.unique(dim=0).shape[0] == 9


@pytest.mark.parametrize("index", range(8), ids=["x", "v", "x0", "text", "t", "t*", "k", "K"])
def test_every_input_matters(make_tpm, index):
    module = make_tpm()[0]
    values = inputs(module.config)
    before = module(*values)
    values[index] = values[index] + (1 if index > 5 else 0.05)
    assert bool(((module(*values) - before).abs() > 1e-6).all())


def test_the_samples_of_a_batch_do_not_mix(make_tpm):
    module = make_tpm()[0]
    values = inputs(module.config, batch=3)
    values[6:] = [torch.tensor([1, 2, 3]), torch.tensor([4, 4, 5])]
    together = module(*values)
    for i in range(3):
        torch.testing.assert_close(module(*[v[i : i + 1] for v in values])[0], together[i])


def test_global_conditioning_reaches_the_registers(make_tpm):
    """With every block silenced only the registers' own value is read."""
    for wanted in (False, True):
        module = make_tpm(global_conditioning=wanted)[0]
        for block in module.blocks:
            for layer in (block.out, block.down):
                torch.nn.init.zeros_(layer.weight)
        values = inputs(module.config)
        before = module(*values)
        values[3] = values[3] + 1
        assert torch.equal(module(*values), before) is not wanted


def test_raw_cap(make_tpm):
    free, capped = make_tpm()[0], make_tpm(raw_cap=0.02)[0]
    values = inputs(free.config)
    with torch.no_grad():
        raw, bounded = free(*values), capped(*values)
    torch.testing.assert_close(bounded, 0.02 * torch.tanh(raw / 0.02))
    assert float(bounded.abs().max()) <= 0.02 < float(raw.abs().max())


def test_float32_even_under_autocast_and_for_half_latents(make_tpm):
    module = make_tpm()[0]
    values = inputs(module.config)
    expected = module(*values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(*values), expected)
    half = [value.half() for value in values[:4]]
    raw = module(*half, *values[4:])
    assert raw.dtype == torch.float32
    torch.testing.assert_close(raw, expected, rtol=0.02, atol=0.02)


def test_residual_outputs_start_small():
    torch.manual_seed(0)
    stds = []
    for layers in (1, 9):
        config = TPMConfig(pooled_dim=8, pooled_split=(8,), layers=layers)
        block = TimestepPredictionModule(config).blocks[0]
        stds.append([float(layer.weight.detach().std()) for layer in (block.out, block.down)])
    np.testing.assert_allclose(np.divide(*stds), 3.0, rtol=0.03)


@pytest.mark.parametrize(
    "fields,name",
    [
        ({"heads": 3}, "width"),
        ({"width": 30, "heads": 5}, "width"),
        ({"layers": 0}, "layers"),
        ({"patch": 2.0}, "patch"),
        ({"pooled_split": (768,)}, "pooled_split"),
        ({"raw_cap": -1.0}, "raw_cap"),
        ({"actions": "gamma"}, "actions"),
    ],
)
def test_configurations_that_cannot_be_built(fields, name):
    with pytest.raises(ValueError, match=name):
        TPMConfig(**fields)
