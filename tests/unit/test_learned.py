"""A TPM as a policy: which network call it makes, what it answers, what it refuses."""

from dataclasses import replace

import pytest
import torch

from async_timestep.tpm import network
from async_timestep.tpm.learned import TPMPolicy, grid_warning
from async_timestep.tpm.policies import Evaluation, Scaled, State

GRID = [1.0, 0.9, 0.75, 0.5, 0.0]


def state(batch=3, last=False, pooled_batch=3, pooled_dim=12, shape=(4, 10, 14), **more) -> State:
    generator = torch.Generator().manual_seed(1)
    x, v, x0 = (torch.randn(batch, *shape, generator=generator) for _ in range(3))
    pooled = torch.randn(pooled_batch, pooled_dim, generator=generator) if pooled_dim else None
    t = torch.full((batch,), 0.9)
    evaluation = more.pop("evaluation", Evaluation(x, v, x0, t, t - 0.02, pooled))
    device = torch.device("cpu")
    return State(2, 4, 0.75, last, batch, device, "tiny", lambda p: 1 - p, evaluation)


def raw(module, s: State, pooled=None) -> torch.Tensor:
    e = s.evaluation
    pooled = e.pooled if pooled is None else pooled
    return module(e.x, e.v, e.x0, pooled, e.t, e.t_star, s.k, s.steps)


@pytest.mark.parametrize("bound", [0.5, 1.0])
def test_deviation_is_the_mode_in_the_trained_bound(make_tpm, bound):
    module, meta = make_tpm(meta={"deviation_bound": bound})
    s = state()
    alpha, beta = network.concentrations(raw(module, s).double()[:, 0])
    r = (alpha - 1) / (alpha + beta - 2)  # Eq. 18 as printed
    decision = TPMPolicy(module, meta).decide(s)
    torch.testing.assert_close(
        decision.deviation.double(), 2 * bound * (r - 0.5), rtol=1e-5, atol=1e-6
    )
    assert decision.deviation.unique().numel() == 3  # every sample its own
    assert bool((decision.omega == 1).all()) and not bool(decision.cut.any())
    assert not decision.deviation.requires_grad


def test_both_actions(make_tpm):
    module, meta = make_tpm(actions="both", meta={"omega_range": (0.8, 1.4)})
    s = state()
    r = network.mode(raw(module, s))
    decision = TPMPolicy(module, meta).decide(s)
    torch.testing.assert_close(decision.deviation, r[:, 0] - 0.5)
    torch.testing.assert_close(decision.omega, 0.8 + 0.6 * r[:, 1])
    last = TPMPolicy(module, meta).decide(state(last=True))
    assert bool((last.omega == 1).all()) and bool(last.deviation.any())


def test_omega_alone_is_synchronous(make_tpm):
    module, meta = make_tpm(actions="omega")
    decision = TPMPolicy(module, meta).decide(state())
    assert not bool(decision.deviation.any()) and bool((decision.omega != 1).all())


def test_follow_time_is_the_deviation_with_its_ratio(make_tpm):
    module, meta = make_tpm(actions="follow_time")
    s = state(last=True)
    decision = TPMPolicy(module, meta).decide(s)
    torch.testing.assert_close(decision.deviation, network.mode(raw(module, s))[:, 0] - 0.5)
    assert decision.follow and bool((decision.omega == 1).all())


def test_untrained_is_exactly_synchronous(make_tpm):
    module, meta = make_tpm(actions="both")
    torch.nn.init.zeros_(module.raw.weight)
    decision = TPMPolicy(module, meta).decide(state())
    assert torch.equal(decision.deviation, torch.zeros(3))
    assert torch.equal(decision.omega, torch.ones(3))


def test_without_an_evaluation_it_is_synchronous(make_tpm):
    decision = TPMPolicy(*make_tpm()).decide(state(evaluation=None))
    assert torch.equal(decision.deviation, torch.zeros(3))


def test_half_precision_latents_are_read_in_float32(make_tpm):
    module, meta = make_tpm()
    s = state()
    half = [value.half() for value in (s.evaluation.x, s.evaluation.v, s.evaluation.x0)]
    e = Evaluation(*half, s.evaluation.t, s.evaluation.t_star, s.evaluation.pooled.half())
    found = TPMPolicy(module, meta).decide(state(evaluation=e)).deviation
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, TPMPolicy(module, meta).decide(s).deviation, rtol=0, atol=5e-3
    )


def test_of_a_video_the_middle_frame_is_read(make_tpm):
    policy = TPMPolicy(*make_tpm())
    video = state(shape=(4, 5, 10, 14))
    e = video.evaluation
    frames = {name: getattr(e, name)[:, :, 2] for name in ("x", "v", "x0")}
    still = replace(video, evaluation=replace(e, **frames))
    assert torch.equal(policy.decide(video).deviation, policy.decide(still).deviation)
    other = replace(video, evaluation=replace(e, **{n: f * 0.5 for n, f in frames.items()}))
    assert not torch.equal(policy.decide(video).deviation, policy.decide(other).deviation)


@pytest.mark.parametrize("pooled_batch", [1, 2])
def test_pooled_text_is_repeated_over_the_batch(make_tpm, pooled_batch):
    module, meta = make_tpm()
    s = state(pooled_batch=pooled_batch)
    rows = [i % pooled_batch for i in range(3)]
    expected = network.mode(raw(module, s, s.evaluation.pooled[rows]))[:, 0] - 0.5
    torch.testing.assert_close(TPMPolicy(module, meta).decide(s).deviation, expected)


@pytest.mark.parametrize(
    "wrong,words",
    [
        ({"pooled_dim": 0}, ["no pooled text", "12"]),
        ({"pooled_dim": 8}, ["[3, 8]", "12"]),
        ({"pooled_batch": 0}, ["[0, 12]", "12"]),
        ({"shape": (16, 8, 8)}, ["[3, 16, 8, 8]", "4 channels"]),
        ({"shape": (16, 5, 8, 8)}, ["[3, 16, 8, 8]", "4 channels"]),
        ({"shape": (4, 8)}, ["[3, 4, 8]", "4 channels"]),
    ],
)
def test_another_model_is_refused_in_one_sentence(make_tpm, wrong, words):
    policy = TPMPolicy(*make_tpm(), name="a.safetensors")
    with pytest.raises(ValueError) as error:
        policy.decide(state(**wrong))
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    assert all(word in message for word in [*words, "a.safetensors", "tiny"])


@pytest.mark.parametrize(
    "part", ["patches.weight", "blocks.0.up.weight", "hidden.weight", "registers"]
)
def test_an_answer_that_is_not_finite_names_the_file(make_tpm, part):
    """Weights that are finite, but so large that the sums over them are not."""
    module, meta = make_tpm()
    with torch.no_grad():
        module.get_parameter(part).fill_(3e38)
    policy = TPMPolicy(module, meta, "huge.safetensors")
    with pytest.raises(ValueError, match="TPM huge.safetensors answered .* not finite.*weights"):
        policy.decide(state())


def test_latents_that_are_not_finite_are_not_the_files_fault(make_tpm):
    module, meta = make_tpm()
    s = state()
    s.evaluation.v[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="TPM mine was shown latents .* not finite"):
        TPMPolicy(module, meta, "mine").decide(s)


def test_label_and_composition(make_tpm):
    policy = TPMPolicy(*make_tpm(), name="a.safetensors")
    assert policy.label == "TPM a.safetensors" and policy.learned and Scaled(policy, 2.0).learned
    one, two = (p.decide(state()).deviation for p in (policy, Scaled(policy, 2.0)))
    torch.testing.assert_close(two, 2 * one)


def test_grid_warning(make_tpm):
    meta = make_tpm()[1]
    assert grid_warning(meta, GRID) is None
    assert grid_warning(meta, [s * (1 + 5e-4) for s in GRID]) is None
    for other in ([1.0, 0.902, 0.75, 0.5, 0.0], GRID[:-1], [*GRID[:-1], 0.2, 0.0], [1.0, 0.0]):
        warning = grid_warning(meta, other)
        assert "\n" not in warning and "4 steps" in warning and "64 px" in warning
        assert "scheduler simple with shift 3" in warning
    assert grid_warning(meta, [1.0]) is None  # nothing will be sampled
    several = make_tpm(meta={"grids": ((1.0, 0.6, 0.0), tuple(GRID))})[1]
    assert grid_warning(several, [1.0, 0.6, 0.0]) is None
    assert grid_warning(several, [1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    "family,words", [("sd35_medium", "scheduler normal"), ("flux1_dev", "shift 0.63"), ("x", "its")]
)
def test_grid_warning_names_the_scheduler_of_the_family(make_tpm, family, words):
    assert words in grid_warning(make_tpm(meta={"model_family": family})[1], [1.0, 0.5, 0.0])
