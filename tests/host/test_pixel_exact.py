"""AsynDM and the regional hook in whole sampling runs: what they equal, refuse, leave behind."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from brute_force import patch_of
from pixel_runs import Runs
from test_pixel_forward import SUPPORTED, error

import comfy.model_management
import comfy.sample
import comfy.samplers
from async_timestep.harness.tiny_families import BUILDERS

REFUSED = ("pixart", "auraflow", "cosmos_predict2", "hidream", "omnigen2", "ernie")
SAMPLERS = ("euler", "ddim", "euler_ancestral")
FEW = ("sd21", "flux", "wan")
BLOCKS = (
    "output_blocks",
    "joint_blocks",
    "double_blocks",
    "transformer_blocks",
    "layers",
    "blocks",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, pack):
    """A family by its name; loaded once."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = Runs(BUILDERS[name](tmp_path_factory.getbasetemp()), pack)
        return loaded[name]

    return load


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SUPPORTED)
def test_asyndm_without_strength_or_mask_is_stock(tiny, name, sampler):
    """Bit for bit; a mask of 1e-30 takes no shortcut: its pixels' own levels are the grid's."""
    t = tiny(name)
    stock = t.run(sampler)
    assert torch.equal(t.asyn(t.half, 0.0, sampler), stock)
    assert torch.equal(t.asyn(t.half * 0, 1.0, sampler), stock)
    assert torch.equal(t.asyn(t.half * 1e-30, 1.0, sampler), stock)
    moved = t.asyn(t.half, 1.0, sampler)
    assert torch.isfinite(moved).all() and error(moved, stock) > 1e-3


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", SUPPORTED)
def test_regional_hook_without_deviation_or_mask_is_stock(tiny, name, sampler):
    """Bit for bit; and with a mask of ones it is the hook without a mask."""
    t = tiny(name)
    stock, plain = t.run(sampler), t.run(sampler, t.attached(None))
    assert torch.equal(t.run(sampler, t.attached(t.half, 0.0)), stock)
    assert torch.equal(t.run(sampler, t.attached(t.half * 0)), stock)
    assert torch.equal(t.run(sampler, t.attached(t.half * 0 + 1)), plain)
    moved = t.run(sampler, t.attached(t.half))
    assert error(moved, stock) > 1e-3 and error(moved, plain) > 1e-3


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_mask_of_ones_is_the_stock_sampler_on_lagged_sigmas(tiny, name):
    t = tiny(name)
    sigmas = t.lagged(0.8)
    expected, close = t.run("euler", sigmas=sigmas), t.close(partial(t.run, "euler"), sigmas)
    assert error(t.run("euler"), expected) > max(1e-3, 10 * close)
    assert error(t.asyn(None, 0.8), expected) <= close
    assert error(t.asyn(t.half * 0 + 1, 0.8), expected) <= close


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.5), ("ddim", 1.0), ("euler_ancestral", 1.0)])
@pytest.mark.parametrize("name", ["sd21", "flux"])
def test_with_noise_too(tiny, name, sampler, eta):
    """ComfyUI's euler_ancestral with this eta on the lagged sigmas draws the same noise."""
    t = tiny(name)
    stock = comfy.samplers.ksampler("euler_ancestral", {"eta": eta})
    sigmas = t.lagged(0.8)
    expected, close = t.run(stock, sigmas=sigmas), t.close(partial(t.run, stock), sigmas)
    assert error(t.asyn(None, 0.8, sampler, eta), expected) <= close
    assert error(t.run(stock), expected) > max(1e-3, 10 * close)


@pytest.mark.parametrize("name", SUPPORTED)
def test_soft_mask_is_a_smaller_strength(tiny, name):
    t = tiny(name)
    soft, hard = t.asyn(t.half * 0.5, 0.8), t.asyn(t.half, 0.4)
    torch.testing.assert_close(soft, hard, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SUPPORTED)
def test_images_of_a_batch_have_their_own_masks(tiny, name):
    """Each is its own single run with the same noise; CFG 1 and 3. Videos have a mask an image as
    (B, 1, 1, H, W): ComfyUI takes (T, H, W) for frames."""
    t = tiny(name)
    masks = torch.cat([t.half, t.half.flip(-1) * 0.5])
    if t.empty.ndim == 5 and t.empty.shape[2] > 1:
        masks = masks[:, None, None]
    latent = t.empty.repeat(2, *[1] * (t.empty.ndim - 1))
    noise = comfy.sample.prepare_noise(latent, 5)
    cfg = 1.0 if name in FEW else 3.0
    both = t.asyn(masks, 1.0, noise=noise, latent=latent, cfg=cfg)
    hooked = t.run("euler", t.attached(masks), noise=noise, latent=latent, cfg=cfg)
    close = t.close(partial(t.asyn, masks, 1.0, latent=latent, cfg=cfg), noise=noise)
    assert error(both[1:], both[:1]) > max(1e-3, 10 * close)
    for b in range(2):
        one, mask = noise[b : b + 1], masks[b : b + 1]
        assert error(both[b : b + 1], t.asyn(mask, 1.0, noise=one, cfg=cfg)) <= close
        alone = t.run("euler", t.attached(mask), noise=one, cfg=cfg)
        assert error(hooked[b : b + 1], alone) <= close


class Stopped(Exception):
    pass


@pytest.mark.parametrize("name", SUPPORTED)
def test_an_error_inside_the_network_leaves_nothing(tiny, name):
    """In the middle of the third call, whose pixels have levels of their own."""
    t = tiny(name)
    stock = t.run("euler")
    block = next(getattr(t.network, b) for b in BLOCKS if hasattr(t.network, b))[-1]
    block = block[0] if isinstance(block, torch.nn.Sequential) else block
    for sampler, model in ((t.sampler(t.half, 1.0)[0], None), ("euler", t.attached(t.half))):
        calls, own = [], []

        def fail(*args, calls=calls, own=own):
            calls.append(any(m._forward_hooks for m in t.network.modules() if m is not block))
            if len(calls) == 3:
                own[0].remove()
                raise Stopped

        own.append(block.register_forward_hook(fail))
        try:
            with pytest.raises(Stopped):
                t.run(sampler, model)
        finally:
            own[0].remove()
        assert calls == [False, True, True] or name in ("wan", "ltxv"), "hooks come with a map"
        assert torch.equal(t.run("euler"), stock)


@pytest.mark.parametrize("name", SUPPORTED)
def test_an_interrupt_leaves_nothing(tiny, name):
    t = tiny(name)
    stock = t.run("euler")

    def stop(i, denoised, x, total):
        if i == 2:
            raise comfy.model_management.InterruptProcessingException

    for sampler, model in ((t.sampler(t.half, 1.0)[0], None), ("euler", t.attached(t.half))):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            t.run(sampler, model, callback=stop)
        assert torch.equal(t.run("euler"), stock)


@pytest.mark.parametrize("name", REFUSED)
def test_other_families_are_refused_before_the_network_runs(tiny, name):
    """One sentence; with strength 0 and scale 0 they run as stock."""
    t = tiny(name)
    ran, stock = [], t.run("euler", sigmas=t.sigmas[-3:])
    sampler = t.sampler(t.half, 1.0)[0]
    sentence = r"This model's network \(\w+\) cannot be told one time a pixel; .*\.$"
    handle = t.network.register_forward_pre_hook(lambda *args: ran.append(args))
    try:
        with pytest.raises(ValueError, match=sentence):
            comfy.sample.sample_custom(
                t.model, torch.zeros_like(t.empty), 3.0, sampler, t.sigmas, t.positive, t.negative,
                t.empty, disable_pbar=True,
            )  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            t.attached(t.half)
    finally:
        handle.remove()
    assert not ran
    assert torch.equal(t.asyn(t.half, 0.0, sigmas=t.sigmas[-3:]), stock)
    assert torch.equal(t.run("euler", t.attached(t.half, scale=0), sigmas=t.sigmas[-3:]), stock)


@pytest.fixture
def levels(monkeypatch, pack):
    """The levels (s, s') of every step that AsynDM takes."""
    module, seen = pack("nodes.run.asyndm"), []
    original = module.step

    def step(settings, sampling, x, denoised, s, s_next, noise):
        seen.append((s, s_next))
        return original(settings, sampling, x, denoised, s, s_next, noise)

    monkeypatch.setattr(module, "step", step)
    return seen


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", FEW)
def test_parts_of_a_schedule_meet_at_their_end(tiny, levels, name, sampler):
    """denoise 0.5, both stages of split sigmas, 2 steps and 1: all pixels have the last node's
    sigma, and the one before it too where the last is 0; none rises."""
    t = tiny(name)
    full = comfy.samplers.calculate_sigmas(t.sampling, "simple", 8)
    latent = torch.randn(t.empty.shape, generator=torch.Generator().manual_seed(2))
    parts = {"denoise": full[-5:], "one": full[:4], "two": full[3:], "2": full[:3], "1": full[:2]}
    for part, sigmas in parts.items():
        levels.clear()
        out = t.asyn(t.half, 1.0, sampler, eta=0.5, sigmas=sigmas, latent=latent)
        assert torch.isfinite(out).all(), part
        assert len(levels) == (0 if part == "1" else len(sigmas) - 1)
        for s, s_next in levels:
            assert (s_next <= s).all(), part
        if levels:
            assert (levels[-1][1] == sigmas[-1]).all(), part
            assert sigmas[-1] > 0 or (levels[-1][0] == sigmas[-2]).all(), part
            assert any(len(s.unique()) == 2 for s, _ in levels), part
    for sigmas in (full[-2:], full[-3:]):  # nothing lies between the ends
        assert torch.equal(
            t.asyn(t.half, 1.0, sampler, sigmas=sigmas, latent=latent),
            t.run(sampler, sigmas=sigmas, latent=latent),
        )


@pytest.mark.parametrize("name", FEW)
def test_inpainting_keeps_its_picture_on_the_common_grid(tiny, name):
    """Where the inpaint mask is 0 the latents are the stock run's, and no pixel lags there or on a
    token that the mask cuts."""
    t = tiny(name)
    latent = torch.randn(t.empty.shape, generator=torch.Generator().manual_seed(2))
    keep = torch.zeros(1, 1, *t.empty.shape[-2:])
    keep[..., 1:, :] = 1  # cuts the tokens of 2 x 2 in their middle
    sampler, trace = t.sampler(None, 1.0)
    stock = t.run("euler", latent=latent, noise_mask=keep)
    out = t.run(sampler, latent=latent, noise_mask=keep)
    outside = (keep == 0).expand(out[:, :, 0].shape if out.ndim == 5 else out.shape)
    for frame in out.unbind(2) if out.ndim == 5 else [out]:
        assert frame[outside].isfinite().all()
    flat = outside.unsqueeze(2).expand(out.shape) if out.ndim == 5 else outside
    assert torch.equal(out[flat], stock[flat])
    assert error(out[flat], latent[flat]) <= 1e-5
    assert error(out[~flat], stock[~flat]) > 1e-3
    cut = patch_of(t.network)[-1]
    for weight in trace.runs[-1].masks:
        assert (weight[..., :cut, :] == 0).all() and (weight[..., cut:, :] == 1).all()


def test_a_get_modulations_of_another_pack_is_kept(tiny, monkeypatch):
    """Chroma's is replaced for the length of a call: theirs is called, and stands there again."""
    t = tiny("chroma")
    plain, original, called = t.asyn(t.half, 1.0), t.network.get_modulations, []

    def theirs(*args, **kwargs):
        called.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(t, "nothing_is_left", lambda: None)
    t.network.get_modulations = theirs
    try:
        assert torch.equal(t.asyn(t.half, 1.0), plain)
        assert called and vars(t.network)["get_modulations"] is theirs
    finally:
        vars(t.network).pop("get_modulations", None)
