"""A map of times together with what else stands on a model."""

from __future__ import annotations

import pytest
import torch
from planted import schedule
from sampling import add_wrapper, sample
from test_beside import CACHES, RecordingControl
from test_other_calls import halves, middle, one_by_one, regional, second_pass, windowed
from watching import FLOW

import comfy.sample
import comfy.samplers
import comfy.sd
import node_helpers
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras import nodes_custom_sampler as guiders
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_pag import PerturbedAttentionGuidance

D = 0.4
WORDS = {"cat": [1, 2], "sofa": [4]}


def right_half(tiny) -> torch.Tensor:
    mask = torch.zeros(1, *tiny[3].shape[-2:])
    mask[..., mask.shape[-1] // 2 :] = 1
    return mask


class Methods:
    """Runs of a model: with a regional deviation, with AsynDM, and without either."""

    def __init__(self, pack, tiny, steps=4, **more):
        self.pack, self.tiny, self.steps, self.more = pack, tiny, steps, more
        self.region = pack("nodes.run.region").Region

    def stock(self, model) -> torch.Tensor:
        return sample(self.tiny, model, steps=self.steps, **self.more)[0]

    def deviation(self, model, mask=None, deviation=D) -> torch.Tensor:
        policy = self.pack("tpm.policies").Constant(deviation)
        where = None if mask is None else self.region("mask", mask=mask)
        patched, self.trace = self.pack("nodes.run.hook").attach(model, policy, region=where)
        return self.stock(patched)

    def asyndm(self, model, region, strength=1.0, **settings) -> torch.Tensor:
        """Through SAMPLER's place in the stock KSampler, as the node does it."""
        sampler, self.trace = self.pack("nodes.run.asyndm").asyndm_sampler(
            region, strength, **settings
        )

        def outer(executor, noise, latent, stock, *args, **kwargs):
            return executor(noise, latent, sampler, *args, **kwargs)

        clone = model.clone()
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "test", outer)
        return self.stock(clone)

    def asyndm_mask(self, model, mask, **settings):
        return self.asyndm(model, self.region("mask", mask=mask), **settings)

    def asyndm_words(self, model, **settings):
        region = self.region("words", columns=WORDS, strengths=(1.0, 1.0))
        return self.asyndm(model, region, **settings)


def works(methods: Methods, model, least=1e-3) -> dict[str, torch.Tensor]:
    """Nothing is stock's bits, one everywhere is the scalar path's, a half is neither."""
    half = right_half(methods.tiny)
    stock, scalar = methods.stock(model), methods.deviation(model)
    assert torch.equal(methods.deviation(model, 0 * half), stock)
    assert torch.equal(methods.deviation(model, half, 0.0), stock)
    assert torch.equal(methods.deviation(model, 0 * half + 1), scalar)
    assert torch.equal(methods.asyndm_mask(model, half, strength=0.0), stock)
    assert torch.equal(methods.asyndm_mask(model, 0 * half), stock)
    results = {
        "deviation": methods.deviation(model, half),
        "asyndm": methods.asyndm_mask(model, half),
        "words": methods.asyndm_words(model),
    }
    for name, result in results.items():
        assert torch.isfinite(result).all(), name
        for other in (stock, scalar):
            assert differ(result, other) > least, name
    return results


def differ(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# --- compiled networks


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("flux", ["diffusion_model"]),
        ("sd35", ["diffusion_model.{blocks}.0"]),
    ],
)
def test_a_compiled_network_runs_uncompiled_with_a_map(pack, families, family, keys):
    tiny = families[family]
    blocks = {"sd35": "joint_blocks", "flux": "double_blocks"}[family]
    methods, half = Methods(pack, tiny, steps=3), right_half(tiny)
    plain = {run: run(tiny[0], half) for run in (methods.deviation, methods.asyndm_mask)}
    compiled, graphs = tiny[0].clone(), []

    def backend(graph, inputs):
        def counted(*args):
            graphs.append(1)
            return graph.forward(*args)

        return counted

    keys = [key.format(blocks=blocks) for key in keys]
    set_torch_compile_wrapper(compiled, backend=backend, keys=keys)
    first = methods.stock(compiled)
    before = len(graphs)
    assert before, "the compiled network ran"
    for run, wanted in plain.items():
        assert differ(run(compiled, half), wanted) < 1e-5, run.__name__
        assert differ(wanted, first) > 1e-3
    words = methods.asyndm_words(tiny[0])
    masks = methods.trace.runs[-1].masks
    assert differ(methods.asyndm_words(compiled), words) < 1e-5
    again = methods.trace.runs[-1].masks
    assert all(torch.equal(a, b) for a, b in zip(again, masks, strict=True)), "read uncompiled"
    assert torch.equal(methods.stock(compiled), first)
    assert len(graphs) > before, "without a map it is compiled again"
    torch._dynamo.reset()


# --- prompts and calls


@pytest.mark.parametrize("family", FLOW)
def test_areas_masks_and_token_lengths(pack, families, family):
    tiny = families[family]
    methods = Methods(pack, tiny, positive=regional(tiny[1]))
    half = right_half(tiny)
    stock, result = methods.stock(tiny[0]), methods.deviation(tiny[0], half)
    assert torch.equal(methods.deviation(tiny[0], 0 * half), stock)
    assert differ(result, stock) > 1e-3
    assert differ(methods.asyndm_mask(tiny[0], half), stock) > 1e-3
    with pytest.raises(ValueError, match="several positive prompts"):
        methods.asyndm_words(tiny[0])
    left = [[tiny[1][0][0], {**tiny[1][0][1], "area": (8, 4, 0, 0)}]]
    with pytest.raises(ValueError, match="combined or with areas"):
        Methods(pack, tiny, positive=left).asyndm_words(tiny[0])


@pytest.mark.parametrize("family", FLOW)
def test_an_area_is_told_its_own_part_of_the_map(pack, families, family):
    """The map is one in the right half: at the first step that has a deviation, a prompt for the
    left half gives stock's output, one for the right half another."""
    tiny, network = families[family], families[family][0].model.diffusion_model
    same = {}
    for start in (0, 4):
        tokens, extra = tiny[1][0]
        methods = Methods(pack, tiny, positive=[[tokens, {**extra, "area": (8, 4, 0, start)}]])
        outputs = []

        def note(module, args, out, outputs=outputs):
            if out.shape[-1] == 4:  # the area's own call
                outputs[-1].append(out.clone())

        hook = network.register_forward_hook(note)
        for mask in (None, right_half(tiny)):
            outputs.append([])
            methods.deviation(tiny[0], mask, 0.0 if mask is None else D)
        hook.remove()
        stock, told = outputs
        assert len(stock) == len(told) == 4 and torch.equal(stock[0], told[0])
        same[start] = torch.equal(stock[1], told[1])
    assert same == {0: True, 4: False}


@pytest.mark.parametrize("how", ["calc_cond_batch", "function"])
@pytest.mark.parametrize("family", FLOW)
def test_splitting_the_batch_changes_nothing(pack, families, family, how):
    tiny = families[family]
    methods = Methods(pack, tiny)
    whole = works(methods, tiny[0])
    if how == "calc_cond_batch":
        base = add_wrapper(tiny[0], "CALC_COND_BATCH", one_by_one)
    else:
        base = tiny[0].clone()
        base.set_model_unet_function_wrapper(halves)
        half = right_half(tiny)
        assert differ(methods.deviation(base, half), whole["deviation"]) < 1e-5
        assert differ(methods.asyndm_mask(base, half), whole["asyndm"]) < 1e-5
        with pytest.raises(ValueError, match="shown a part of the picture or batch"):
            methods.asyndm_words(base)
        return
    for name, result in works(methods, base).items():
        assert differ(result, whole[name]) < 1e-5, name


@pytest.mark.parametrize("family", FLOW)
def test_a_second_pass_after_cfg(pack, families, family):
    tiny = families[family]
    methods = Methods(pack, tiny)
    works(methods, tiny[0])
    mask = methods.trace.runs[-1].masks[1]
    works(methods, second_pass(tiny[0]))
    assert torch.equal(methods.trace.runs[-1].masks[1], mask), "only the first pass is read"


def test_perturbed_attention_guidance_of_the_core(pack, families):
    tiny = families["sd15"]
    base = PerturbedAttentionGuidance.execute(tiny[0], 2.0)[0]
    works(Methods(pack, tiny, steps=3), base, least=1e-6)  # the sigmas dwarf this network


@pytest.mark.parametrize("length", [2, 3])
def test_context_windows_over_the_batch(pack, families, length):
    tiny = families["sd35"]
    base, half = windowed(tiny[0], length), right_half(tiny)
    masks = torch.cat([half, 1 - half, half, 0 * half])
    methods = Methods(pack, tiny, steps=3, batch=4)
    for run in (methods.deviation, methods.asyndm_mask):
        whole, parts = run(tiny[0], masks), run(base, masks)
        assert differ(whole, methods.stock(tiny[0])) > 1e-3
        if length == 2:  # windows that do not overlap
            assert differ(parts, whole) < 1e-5
    with pytest.raises(ValueError, match="context windows"):
        methods.asyndm_words(base)


def test_dual_model_guider(pack, families, model_files):
    tiny = families["flux"]
    other = comfy.sd.load_diffusion_model(str(model_files["flux"]))
    region = pack("nodes.run.region").Region("mask", mask=right_half(tiny))
    sampler, _ = pack("nodes.run.asyndm").asyndm_sampler(region, 1.0)

    def run(sampler):
        guider = guiders.Guider_DualModel(tiny[0], other)
        guider.set_conds(tiny[1], tiny[2])
        guider.set_cfg(3.0)
        latent = tiny[3].repeat(2, 1, 1, 1)
        noise = comfy.sample.prepare_noise(latent, 5)
        return guider.sample(
            noise, latent, sampler, schedule(tiny[0], 4), disable_pbar=True, seed=5
        )

    stock, result = run(comfy.samplers.sampler_object("euler")), run(sampler)
    same_twice = Methods(pack, tiny).asyndm(tiny[0], region)
    assert differ(result, stock) > 1e-3
    assert differ(result, same_twice) < 1e-5, "both networks have the same weights"


@pytest.mark.parametrize("name", ["dual", "nested"])
def test_dual_cfg_guiders(pack, families, name):
    tiny = families["flux"]
    region = pack("nodes.run.region").Region("mask", mask=right_half(tiny))
    guider = guiders.DualCFGGuider.execute(
        tiny[0],
        tiny[1],
        middle(tiny),
        tiny[2],
        3.0,
        2.0,
        {"dual": "regular", "nested": "nested"}[name],
    )[0]
    latent = tiny[3].repeat(2, 1, 1, 1)
    noise, sigmas = comfy.sample.prepare_noise(latent, 5), schedule(tiny[0], 4)
    runs = []
    for strength in (0.0, 1.0):
        sampler, _ = pack("nodes.run.asyndm").asyndm_sampler(region, strength)
        runs.append(guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=5))
    assert differ(runs[1], runs[0]) > 1e-3


# --- patches of others


@pytest.mark.parametrize("key", ["time", "modulation", "block"])
@pytest.mark.parametrize("family", FLOW)
def test_a_weight_patch(pack, families, family, key):
    names = {
        "sd35": {
            "time": "t_embedder.mlp.0.weight",
            "modulation": "joint_blocks.0.x_block.adaLN_modulation.1.weight",
            "block": "joint_blocks.0.x_block.attn.qkv.weight",
        },
        "flux": {
            "time": "time_in.in_layer.weight",
            "modulation": "double_blocks.0.img_mod.lin.weight",
            "block": "double_blocks.0.img_attn.qkv.weight",
        },
    }
    tiny, methods = families[family], Methods(pack, families[family])
    before = works(methods, tiny[0])
    name = "diffusion_model." + names[family][key]
    base, weight = tiny[0].clone(), tiny[0].model.state_dict()[name]
    change = 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(6)).float()
    assert base.add_patches({name: ("diff", (change * weight.float().std(),))}, 0.8) == [name]
    patched = works(methods, base)
    assert all(differ(patched[n], before[n]) > 1e-4 for n in before)
    after = works(methods, tiny[0])
    assert all(torch.equal(after[n], before[n]) for n in before), "and is gone afterwards"


@pytest.mark.parametrize("family", FLOW)
def test_a_controlnet_sees_the_sampler_sigma(pack, families, family):
    tiny, control = families[family], RecordingControl()
    positive = node_helpers.conditioning_set_values(tiny[1], {"control": control})
    methods = Methods(pack, tiny, positive=positive)
    works(methods, tiny[0])
    sigmas = schedule(tiny[0], 4)[:-1]
    assert all(any(torch.equal(t[:1], s.view(1)) for s in sigmas) for t, _ in control.seen)
    assert differ(methods.stock(tiny[0]), Methods(pack, tiny).stock(tiny[0])) > 1e-7


@pytest.mark.parametrize("family", FLOW)
def test_another_attention_override_is_still_called(pack, families, family):
    tiny, calls = families[family], []

    def override(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    base = tiny[0].clone()
    base.model_options["transformer_options"]["optimized_attention_override"] = override
    methods = Methods(pack, tiny)
    plain = works(methods, tiny[0])
    methods.stock(base)
    own = len(calls)
    assert own
    calls.clear()
    assert torch.equal(methods.asyndm_words(base), plain["words"])
    assert len(calls) == own, "once an attention, read or not"


def test_words_are_read_under_a_replaced_cross_attention(pack, families):
    """As IP-Adapters replace it: queries and keys are read where they are made."""
    tiny = families["sd15"]
    methods = Methods(pack, tiny, steps=3)
    plain = methods.asyndm_words(tiny[0])
    masks = methods.trace.runs[-1].masks

    def replaced(q, k, v, options):
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q, k, v, options["n_heads"])

    base = tiny[0].clone()
    for block in range(2):
        base.set_model_attn2_replace(replaced, "output", block)
    base.set_model_attn2_replace(replaced, "input", 1)
    again = methods.asyndm_words(base)
    assert differ(again, plain) < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(methods.trace.runs[-1].masks, masks, strict=True))
    assert 0 < float(masks[1].mean()) < 1


@pytest.mark.parametrize("family", FLOW)
def test_differential_diffusion(pack, families, family):
    tiny = families[family]
    base = DifferentialDiffusion.execute(tiny[0], 1.0)[0]
    original = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(4))
    gradient = torch.linspace(0, 1, 8).expand(1, 1, 8, 8).contiguous()
    methods = Methods(pack, tiny, latent=original, noise_mask=gradient)
    stock = methods.stock(base)
    ones = torch.ones(1, 8, 8)
    half = methods.deviation(base, right_half(tiny))
    assert differ(half, stock) > 1e-3
    soft = methods.asyndm_mask(base, ones)
    assert torch.equal(soft, stock), "soft inpainting has no token that is wholly free"


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache(pack, families, cache):
    tiny = families["flux"]
    methods = Methods(pack, tiny, steps=10, cfg=1.0)
    base, half = CACHES[cache](tiny[0]), right_half(tiny)
    assert torch.equal(methods.deviation(base, 0 * half), methods.stock(base))
    for result in (methods.deviation(base, half), methods.asyndm_mask(base, half)):
        assert torch.isfinite(result).all()
        assert differ(result, methods.stock(base)) > 1e-3


def test_a_patch_and_asyndm_are_refused_together(pack, families):
    tiny = families["flux"]
    methods = Methods(pack, tiny)
    policy = pack("tpm.policies").Constant(D)
    patched = pack("nodes.run.hook").attach(tiny[0], policy)[0]
    with pytest.raises(ValueError, match="take the patch"):
        methods.asyndm_mask(patched, right_half(tiny))
