"""What stands beside the network keeps the sampler's sigma, and all of it still works."""

from __future__ import annotations

import contextlib

import comfy_stubs
import pytest
import torch
from planted import count_calls, planted_tpm, schedule, tpm_policy
from sampling import add_wrapper, sample, sample_sigmas

import comfy.sample
import comfy.samplers
import comfy.sd
import node_helpers
from comfy.controlnet import ControlBase
from comfy_extras import nodes_custom_sampler as guiders
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from nodes import ConditioningSetTimestepRange, SetLatentNoiseMask, common_ksampler

FLOW = ("sd35", "flux")
D = 0.4


def attacher(pack, deviation: float):
    policy = pack("tpm.policies").Constant(deviation)
    return lambda model: pack("nodes.hook").attach(model, policy)[0]


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
        patched, trace = pack("nodes.hook").attach(model, policy)
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


# --- other ways to call the network


@pytest.mark.parametrize("family", FLOW)
def test_image_to_image(pack, families, family):
    tiny = families[family]
    original = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(4))

    def run(attach):
        return common_ksampler(
            attach(tiny[0]), 5, 4, 3.0, "euler", "simple", tiny[1], tiny[2],
            {"samples": original}, denoise=0.5,
        )[0]["samples"]  # fmt: skip

    zero_is_stock_and_d_is_told(pack, tiny[0], run, schedule(tiny[0], 8)[-5:])


def regional(positive: list) -> list:
    """Four conds that need several calls: two areas, a mask, and one with more tokens."""
    tokens, extra = positive[0]
    rng = torch.Generator().manual_seed(8)
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6] = 1
    return [
        [tokens, {**extra, "area": (8, 4, 0, 0)}],
        [tokens.flip(1), {**extra, "area": (8, 4, 0, 4), "strength": 0.7}],
        [tokens.roll(1, 1), {**extra, "mask": mask, "mask_strength": 0.8}],
        [torch.randn(1, 11, 64, generator=rng), {**extra}],
    ]


@pytest.mark.parametrize("family", FLOW)
def test_areas_masks_and_token_lengths(pack, families, family):
    tiny = families[family]

    def run(attach):
        return sample(tiny, attach(tiny[0]), positive=regional(tiny[1]), steps=4)[0]

    _, _, seen = zero_is_stock_and_d_is_told(pack, tiny[0], run, schedule(tiny[0], 4))
    assert len(seen) > 4, "several calls an evaluation"
    assert len({len(t) for t in seen}) > 1, "of different sizes"


def second_pass(model):
    """PAG as the core node does it, with a perturbation that these networks have."""

    def post_cfg(args):
        flipped = [{**c, "model_conds": {**c["model_conds"]}} for c in args["cond"]]
        for cond in flipped:
            context = cond["model_conds"]["c_crossattn"]
            cond["model_conds"]["c_crossattn"] = context._copy_with(context.cond.flip(1) * 0.5)
        (weak,) = comfy.samplers.calc_cond_batch(
            args["model"], [flipped], args["input"], args["sigma"], args["model_options"]
        )
        return args["denoised"] + 0.5 * (args["cond_denoised"] - weak)

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(post_cfg)
    return clone


@pytest.mark.parametrize("family", FLOW)
def test_a_second_pass_after_cfg(pack, families, family):
    tiny = families[family]
    base = second_pass(tiny[0])
    sigmas = schedule(tiny[0], 4)
    with_pag, _, seen = zero_is_stock_and_d_is_told(
        pack, base, lambda attach: sample(tiny, attach(base), steps=4)[0], sigmas
    )
    assert len(seen) == 8, "two calls an evaluation"
    assert not torch.equal(with_pag, sample(tiny, steps=4)[0])


def test_perturbed_attention_guidance_of_the_core(pack, families):
    tiny = families["sd15"]
    base = PerturbedAttentionGuidance.execute(tiny[0], 2.0)[0]
    results = [
        sample(tiny, attach(base), steps=3)
        for attach in (lambda m: m, attacher(pack, 0.0), attacher(pack, D))
    ]
    (stock, seen), (zero, _), (moved, told) = results
    assert len(seen) == len(told) == 6
    assert torch.equal(zero, stock) and not torch.equal(moved, stock)
    assert [torch.equal(a, b) for a, b in zip(seen, told, strict=True)] == [True] * 2 + [False] * 4
    for first, second in zip(told[::2], told[1::2], strict=True):
        assert torch.equal(first[:2], second[:2]), "both passes are told the same time"


def test_dual_model_guider(pack, families, model_files):
    tiny = families["flux"]
    other = comfy.sd.load_diffusion_model(str(model_files["flux"]))
    networks = [tiny[0].model.diffusion_model, other.model.diffusion_model]
    assert networks[0] is not networks[1]

    def run(attach):
        guider = guiders.Guider_DualModel(attach(tiny[0]), other)
        guider.set_conds(tiny[1], tiny[2])
        guider.set_cfg(3.0)
        return guided(tiny, guider)

    _, _, seen = zero_is_stock_and_d_is_told(pack, tiny[0], run, schedule(tiny[0], 4), networks)
    assert len(seen) == 8, "both networks run"
    assert "process_timestep" not in vars(other.model)


def guided(tiny, guider) -> torch.Tensor:
    latent = tiny[3].repeat(2, 1, 1, 1)
    noise = comfy.sample.prepare_noise(latent, 5)
    euler, sigmas = comfy.samplers.sampler_object("euler"), schedule(tiny[0], 4)
    return guider.sample(noise, latent, euler, sigmas, disable_pbar=True, seed=5)


def middle(tiny) -> list:
    return [[tiny[1][0][0].flip(1) * 0.5, tiny[1][0][1]]]


GUIDERS = {
    "basic": lambda m, tiny: guiders.BasicGuider.execute(m, tiny[1])[0],
    "cfg": lambda m, tiny: guiders.CFGGuider.execute(m, tiny[1], tiny[2], 3.0)[0],
    "dual": lambda m, tiny: guiders.DualCFGGuider.execute(
        m, tiny[1], middle(tiny), tiny[2], 3.0, 2.0, "regular"
    )[0],
    "nested": lambda m, tiny: guiders.DualCFGGuider.execute(
        m, tiny[1], middle(tiny), tiny[2], 3.0, 2.0, "nested"
    )[0],
}


@pytest.mark.parametrize("name", GUIDERS)
@pytest.mark.parametrize("family", FLOW)
def test_guiders(pack, families, family, name):
    tiny = families[family]

    def run(attach):
        return guided(tiny, GUIDERS[name](attach(tiny[0]), tiny))

    zero_is_stock_and_d_is_told(pack, tiny[0], run, schedule(tiny[0], 4))


@pytest.mark.parametrize("name", ["basic", "dual", "nested"])
def test_a_tpm_is_asked_under_every_guider(pack, families, tmp_path, name):
    tiny = families["sd35"]
    policy = tpm_policy(pack, planted_tpm(pack, tmp_path, "sd35", schedule(tiny[0], 4)))
    model, trace = pack("nodes.hook").attach(tiny[0], policy)
    guided(tiny, GUIDERS[name](model, tiny))
    assert [all(step["deviation"]) for step in trace.runs[-1].steps] == [False, True, True, True]


@pytest.mark.parametrize("key", ["time", "block"])
@pytest.mark.parametrize("family", FLOW)
def test_a_weight_patch(pack, families, family, key):
    """A LoRA-like difference on the layers that read the time, and on one that does not."""
    names = {
        "sd35": ("t_embedder.mlp.0.weight", "joint_blocks.0.x_block.attn.qkv.weight"),
        "flux": ("time_in.in_layer.weight", "double_blocks.0.img_attn.qkv.weight"),
    }
    tiny = families[family]
    name = "diffusion_model." + names[family][key == "block"]
    base, weight = tiny[0].clone(), tiny[0].model.state_dict()[name]
    difference = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(6)).float()
    assert base.add_patches({name: ("diff", (difference * weight.float().std(),))}, 0.8) == [name]
    before = sample(tiny, steps=4)[0]
    stock, _, _ = zero_is_stock_and_d_is_told(
        pack, base, lambda attach: sample(tiny, attach(base), steps=4)[0], schedule(tiny[0], 4)
    )
    assert not torch.equal(stock, before), "the weight patch has no effect"
    assert torch.equal(sample(tiny, steps=4)[0], before)


def one_by_one(executor, model, conds, x, timestep, options):
    """CALC_COND_BATCH: cond and uncond in calls of their own."""
    return [executor(model, [cond], x, timestep, options)[0] for cond in conds]


def halves(apply, args):
    """model_function_wrapper: every chunk of the batch in a call of its own."""
    n = len(args["cond_or_uncond"])
    out = []
    for i in range(n):
        size = len(args["input"]) // n
        part = slice(i * size, (i + 1) * size)
        c = {
            k: v[part] if torch.is_tensor(v) and len(v) == len(args["input"]) else v
            for k, v in args["c"].items()
        }
        out.append(apply(args["input"][part], args["timestep"][part], **c))
    return torch.cat(out)


@pytest.mark.parametrize("how", ["calc_cond_batch", "function"])
@pytest.mark.parametrize("family", FLOW)
def test_splitting_the_batch_changes_nothing(pack, families, family, how):
    tiny, sigmas = families[family], schedule(families[family][0], 4)
    whole, calls = sample(tiny, attacher(pack, D)(tiny[0]), steps=4)
    if how == "calc_cond_batch":
        base = add_wrapper(tiny[0], "CALC_COND_BATCH", one_by_one)
    else:
        base = tiny[0].clone()
        base.set_model_unet_function_wrapper(halves)
    _, moved, seen = zero_is_stock_and_d_is_told(
        pack, base, lambda attach: sample(tiny, attach(base), steps=4)[0], sigmas
    )
    assert len(seen) == 2 * len(calls)
    assert float((moved - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


class PerSample:
    """A deviation for every image of the batch."""

    label, learned, policy = "per sample", False, None

    def __init__(self, pack, values):
        self.decision, self.values = pack("tpm.policies").Decision, torch.tensor(values)

    def decide(self, state):
        zero = torch.zeros_like(self.values)
        return self.decision(self.values, zero, zero + 1)


@pytest.mark.parametrize("how", ["calc_cond_batch", "areas"])
def test_each_image_keeps_its_time_in_every_call(pack, families, how):
    tiny, values = families["sd35"], [0.3, -0.4]
    base, more = tiny[0], {}
    if how == "areas":
        more["positive"] = regional(tiny[1])
    else:
        base = add_wrapper(base, "CALC_COND_BATCH", one_by_one)
    model = pack("nodes.hook").attach(base, PerSample(pack, values))[0]
    _, seen = sample(tiny, base, steps=4, **more)
    _, told = sample(tiny, model, steps=4, **more)
    wanted = [expected(base, schedule(base, 4), seen, value) for value in values]
    for got, first, second in zip(told, *wanted, strict=True):
        pairs = torch.stack([first[::2], second[1::2]], dim=1).flatten()
        assert torch.allclose(got, pairs, rtol=1e-5)
    assert any(len(t) != len(told[0]) for t in told) or how != "areas"


# --- context windows over the batch (AnimateDiff's way)


def windowed(model, length=2):
    return ContextWindowsManualNode.execute(
        model, length, 0, "standard_static", 1, False, "flat", 0, False, causal_window_fix=False
    )[0]


@pytest.mark.parametrize("length", [2, 3])
def test_context_windows_with_one_deviation(pack, families, length):
    tiny = families["sd35"]
    base = windowed(tiny[0], length)
    _, _, seen = zero_is_stock_and_d_is_told(
        pack,
        base,
        lambda attach: sample(tiny, attach(base), steps=3, batch=4)[0],
        schedule(base, 3),
    )
    assert len(seen) == 6 and len(seen[0]) == 2 * length


def test_context_windows_give_each_image_its_own_time(pack, families):
    tiny, values = families["sd35"], [0.3, -0.4, 0.1, 0.2]
    base = windowed(tiny[0])
    model = pack("nodes.hook").attach(base, PerSample(pack, values))[0]
    _, seen = sample(tiny, base, steps=3, batch=4)
    _, told = sample(tiny, model, steps=3, batch=4)
    for k in range(1, 3):
        for window in range(2):
            call = 2 * k + window
            pair = values[2 * window : 2 * window + 2]
            wanted = [expected(base, schedule(base, 3), [seen[call][:1]], d)[0][0] for d in pair]
            assert torch.allclose(told[call], torch.stack(wanted * 2), rtol=1e-5), (k, window)


def test_the_custom_sampler_node_path_is_the_ksampler_path(pack, families):
    tiny = families["flux"]
    model = attacher(pack, D)(tiny[0])
    assert torch.equal(
        sample_sigmas(tiny, model, schedule(tiny[0], 4)), sample(tiny, model, steps=4)[0]
    )
