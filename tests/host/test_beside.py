"""What stands beside the network keeps the sampler's sigma, and all of it still works."""

from __future__ import annotations

import contextlib

import comfy_stubs
import pytest
import torch
from planted import count_calls, planted_tpm, schedule, tpm_policy
from sampling import sample
from watching import FLOW, D, attacher, watched, zero_is_stock_and_d_is_told

import node_helpers
from comfy.controlnet import ControlBase
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from nodes import ConditioningSetTimestepRange, SetLatentNoiseMask, common_ksampler

# --- ControlNets, prompt ranges, masks, patches, previews: all on the sampler's sigma


class RecordingControl(ControlBase):
    """A control whose hint depends on the sigma that it is given."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        self.seen.append((t.clone(), transformer_options["sigmas"].clone()))
        hint = 0.2 * t.view(-1, 1, 1) * torch.ones(1, 16, 128)  # 16 image tokens
        return {"input": [hint], "output": [hint]}

    def get_models(self):
        return []


@pytest.mark.parametrize("family", FLOW)
def test_a_controlnet_sees_the_sampler_sigma(pack, families, family):
    tiny = families[family]
    sigmas, controls = schedule(tiny[0], 4), []

    def run(attach):
        controls.append(RecordingControl())
        positive = node_helpers.conditioning_set_values(tiny[1], {"control": controls[-1]})
        return sample(tiny, attach(tiny[0]), positive=positive, steps=4)[0]

    stock, _, _ = zero_is_stock_and_d_is_told(pack, tiny[0], run, sigmas)
    assert not torch.equal(stock, sample(tiny, steps=4)[0]), "the control has no effect"
    first, *others = [c.seen for c in controls]
    assert torch.equal(torch.stack([t[0] for t, _ in first]), sigmas[:-1])
    for other in others:
        for (t, sigma), (t_stock, sigma_stock) in zip(other, first, strict=True):
            assert torch.equal(t, t_stock) and torch.equal(sigma, sigma_stock)


@pytest.mark.parametrize("end", [0.2, 0.3, 0.45, 0.7])
@pytest.mark.parametrize("family", FLOW)
def test_prompt_ranges_switch_with_the_sampler_sigma(pack, families, family, end):
    """Two prompts that take turns; D = 1 reaches over the switch, the switch does not follow."""
    tiny, steps = families[family], 8
    early, late = tiny[1], [[tiny[1][0][0].flip(1), tiny[1][0][1]]]
    split = ConditioningSetTimestepRange()
    positive = split.set_range(early, 0.0, end)[0] + split.set_range(late, end, 1.0)[0]

    def turns(model):
        with watched(tiny[0].model.diffusion_model) as calls:
            latent, _ = sample(tiny, model, positive=positive, steps=steps, cfg=1.0)
        prompts = []
        for _, kwargs in calls:
            context = kwargs["context"][0]
            prompts.append(
                next(i for i, p in enumerate((early, late)) if torch.equal(context, p[0][0][0]))
            )
        return latent, prompts, [float(seen[0]) for seen, _ in calls]

    stock, stock_prompts, times = turns(tiny[0])
    assert stock_prompts == sorted(stock_prompts) and set(stock_prompts) == {0, 1}
    zero, zero_prompts, _ = turns(attacher(pack, 0.0)(tiny[0]))
    assert torch.equal(zero, stock) and zero_prompts == stock_prompts
    moved, prompts, told = turns(attacher(pack, 1.0)(tiny[0]))
    assert prompts == stock_prompts
    assert not torch.equal(moved, stock)
    switch = tiny[0].get_model_object("model_sampling")
    boundary = float(switch.timestep(torch.tensor(float(switch.percent_to_sigma(end)))))
    across = [t > boundary > t_star for t, t_star in zip(times, told, strict=True)]
    assert sum(across) == 1, "an evaluation before the switch is told a time after it"


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
@pytest.mark.parametrize("family", FLOW)
def test_an_inpaint_mask_keeps_the_rest(pack, families, family, sampler):
    tiny = families[family]
    original = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(4))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    latent = SetLatentNoiseMask().set_mask({"samples": original}, mask)[0]

    def run(attach):
        return common_ksampler(
            attach(tiny[0]), 5, 4, 3.0, sampler, "simple", tiny[1], tiny[2], latent, denoise=0.8
        )[0]["samples"]

    stock, zero, moved = (run(a) for a in (lambda m: m, attacher(pack, 0.0), attacher(pack, D)))
    assert torch.equal(zero, stock)
    outside, inside = mask.expand_as(original) == 0, mask.expand_as(original) == 1
    for result in (stock, moved):
        assert torch.allclose(result[outside], original[outside], atol=2e-5)
    assert float((moved - stock)[inside].abs().max()) > 1e-2


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("family", FLOW)
def test_differential_diffusion_opens_its_mask_as_stock(pack, families, family, strength):
    tiny = families[family]
    base = DifferentialDiffusion.execute(tiny[0], strength)[0]
    forward, opened = base.model_options["denoise_mask_function"], []

    def noted(*args, **kwargs):
        opened[-1].append(forward(*args, **kwargs))
        return opened[-1][-1]

    base.set_model_denoise_mask_function(noted)
    original = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(4))
    gradient = torch.linspace(0, 1, 8).expand(1, 1, 8, 8)

    def run(attach):
        opened.append([])
        return sample(tiny, attach(base), latent=original, noise_mask=gradient, steps=5)[0]

    zero_is_stock_and_d_is_told(pack, base, run, schedule(tiny[0], 5))
    first, *others = opened
    assert len({float(m.sum()) for m in first}) > 2, "the mask grows"
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(other, first, strict=True))


@pytest.mark.parametrize("family", FLOW)
def test_a_block_patch_sees_stock_sigmas(pack, families, family):
    tiny, seen = families[family], []

    def patch(args, extra):
        options = args["transformer_options"]
        seen[-1].append((options["sigmas"].clone(), options["sample_sigmas"].clone()))
        return extra["original_block"](args)

    base = tiny[0].clone()
    base.set_model_patch_replace(patch, "dit", "double_block", 0)
    sigmas = schedule(tiny[0], 4)

    def run(attach):
        seen.append([])
        return sample(tiny, attach(base), steps=4)[0]

    zero_is_stock_and_d_is_told(pack, base, run, sigmas)
    for calls in seen:
        assert len(calls) == 4
        for k, (own, whole) in enumerate(calls):
            assert torch.equal(own, sigmas[k].expand(2)) and torch.equal(whole, sigmas)


@pytest.mark.parametrize("family", FLOW)
def test_the_preview_is_x_minus_sigma_v(pack, families, family):
    tiny = families[family]
    sigmas, shown = schedule(tiny[0], 5), []

    def callback(step, x0, x, total):
        shown[-1].append((step, x0.clone(), x.clone(), total))

    def run(attach):
        shown.append([])
        sample(tiny, attach(tiny[0]), steps=5, cfg=1.0, callback=callback)

    with watched(tiny[0].model.diffusion_model) as calls:
        run(attacher(pack, D))
    told = [float(seen[0]) for seen, _ in calls]
    base, start, conds = comfy_stubs.start(tiny, sigmas)
    assert torch.equal(shown[0][0][2], start)
    for k, (step, x0, x, total) in enumerate(shown[0]):
        assert (step, total) == (k, 5)
        wanted = comfy_stubs.network(base, x, sigmas[k], told[k], conds)
        synchronous = float(base.model_sampling.timestep(sigmas[k]))
        other = comfy_stubs.network(base, x, sigmas[k], synchronous, conds)
        slack = 1e-5 * float(x0.abs().max())
        assert float((x0 - wanted).abs().max()) <= slack
        if k:
            assert float((x0 - other).abs().max()) > 20 * slack, "stock's x0 would pass too"
    run(lambda model: model)
    assert [entry[0] for entry in shown[1]] == [entry[0] for entry in shown[0]]


# --- caches


@contextlib.contextmanager
def really_run(network):
    """Sigmas of the evaluations for which the blocks ran, behind whatever skips them."""
    ran: list[float] = []
    hook = network.img_in.register_forward_pre_hook(lambda module, args: ran.append(1.0))
    try:
        yield ran
    finally:
        hook.remove()


THRESHOLD = {"easy": 0.2, "lazy": 0.1}  # at which these networks skip some evaluations, not all
CACHES = {
    "easy": lambda model: EasyCacheNode.execute(model, THRESHOLD["easy"], 0.0, 1.0, False)[0],
    "lazy": lambda model: LazyCacheNode.execute(model, THRESHOLD["lazy"], 0.0, 1.0, False)[0],
}


def cached_run(tiny, attach, cache: str, first: str, steps=10):
    """(latents, network runs) of a model with a cache; `first`: whose wrappers are outermost."""
    add = CACHES[cache]
    model = add(attach(tiny[0])) if first == "ours" else attach(add(tiny[0]))
    with really_run(tiny[0].model.diffusion_model) as ran:
        latents, _ = sample(tiny, model, steps=steps, cfg=1.0)
    return latents, len(ran)


@pytest.mark.parametrize("first", ["ours", "cache"])
@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_with_a_constant_deviation(pack, families, cache, first):
    tiny = families["flux"]
    stock, ran = cached_run(tiny, lambda m: m, cache, first)
    assert 3 < ran < 10, "the cache skips some evaluations and not all"
    zero, zero_ran = cached_run(tiny, attacher(pack, 0.0), cache, first)
    assert torch.equal(zero, stock) and zero_ran == ran
    moved, moved_ran = cached_run(tiny, attacher(pack, D), cache, first)
    assert torch.isfinite(moved).all() and not torch.equal(moved, stock)
    assert 2 < moved_ran < 10


@pytest.mark.parametrize("first", ["ours", "cache"])
@pytest.mark.parametrize("cache", CACHES)
def test_a_tpm_rests_where_a_cache_skipped(pack, families, tmp_path, cache, first):
    """Asked where the network ran and nowhere else; after a skipped evaluation D is 0."""
    tiny, steps, batch = families["flux"], 10, 2
    policy = tpm_policy(pack, planted_tpm(pack, tmp_path, "flux", schedule(tiny[0], steps)))
    asked, traces = count_calls(policy.module), []

    def attach(model):
        patched, trace = pack("nodes.run.hook").attach(model, policy)
        traces.append(trace)
        return patched

    add = CACHES[cache]
    model = add(attach(tiny[0])) if first == "ours" else attach(add(tiny[0]))
    ran = []  # by evaluation, as the sampler counts them
    with really_run(tiny[0].model.diffusion_model) as runs:

        def callback(step, x0, x, total):
            ran.append(len(runs) > sum(ran))

        sample(tiny, model, steps=steps, cfg=1.0, callback=callback, batch=batch)
    assert len(ran) == steps and not all(ran) and sum(ran) > 3
    resumed = [k for k in range(1, steps - 1) if ran[k] and not all(ran[:k])]
    assert resumed, "the network runs again after a skipped evaluation"
    assert len(asked) == sum(ran[:-1]), (ran, [args[6] for args in asked])
    told = {step["step"]: step["deviation"] for step in traces[0].runs[-1].steps}
    for k in range(1, steps):
        if k not in told:  # the cache stands outside and answered itself: nothing was decided
            assert cache == "lazy" and first == "cache" and not ran[k]
        elif ran[k - 1]:
            assert all(value != 0 for value in told[k]), (k, ran)
        else:
            assert told[k] == [0.0] * batch, (k, ran)
