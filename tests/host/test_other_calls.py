"""Other ways to call the network: guiders, second passes, split batches, windows, patches."""

from __future__ import annotations

import pytest
import torch
from planted import planted_tpm, schedule, tpm_policy
from sampling import PerSample, add_wrapper, sample, sample_sigmas
from watching import FLOW, D, attacher, expected, zero_is_stock_and_d_is_told

import comfy.sample
import comfy.samplers
import comfy.sd
from comfy_extras import nodes_custom_sampler as guiders
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from nodes import common_ksampler

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
    model, trace = pack("nodes.run.hook").attach(tiny[0], policy)
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


@pytest.mark.parametrize("how", ["calc_cond_batch", "areas"])
def test_each_image_keeps_its_time_in_every_call(pack, families, how):
    tiny, values = families["sd35"], [0.3, -0.4]
    base, more = tiny[0], {}
    if how == "areas":
        more["positive"] = regional(tiny[1])
    else:
        base = add_wrapper(base, "CALC_COND_BATCH", one_by_one)
    model = pack("nodes.run.hook").attach(base, PerSample(pack, values))[0]
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
    model = pack("nodes.run.hook").attach(base, PerSample(pack, values))[0]
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
