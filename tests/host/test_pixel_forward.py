"""A map of times in one call of our code is the network's forward with every token told its time.

The reference is `brute_force`: no table of distinct times, no gathering. Its equation is written
there. Errors are relative to the largest number of the network's output; measured up to 5e-6.
"""

from __future__ import annotations

import copy

import brute_force
import pytest
import torch
from sampling import LATENTS, TIMES, shaken

import comfy.sample
import comfy.samplers
from async_timestep.harness.tiny_families import BUILDERS
from comfy.model_sampling import CONST, V_PREDICTION

SUPPORTED = (
    "sd21", "sdxl", "sd3", "sd35_dual", "flux", "flux2", "chroma", "hunyuan_video", "qwen_image",
    "lumina2", "z_image", "wan", "ltxv",
)  # fmt: skip
# HunyuanVideo's own forward takes no odd sizes
SIZES = {"hunyuan_video": (2, 10, 6), "wan": (2, 9, 7), "ltxv": (2, 3, 5), "qwen_image": (1, 9, 7)}


@pytest.fixture(scope="module", params=SUPPORTED)
def tiny(request, tmp_path_factory, pack):
    return Tiny(request.param, BUILDERS[request.param](tmp_path_factory.getbasetemp()), pack)


class Call:
    """One evaluation: what the network was given, what it answered, and the denoised latent."""

    def __init__(self):
        self.x = self.time = self.out = self.denoised = None
        self.conditions = {}


class Tiny:
    def __init__(self, name, family, pack):
        self.name, self.pack = name, pack
        self.model, self.positive, self.negative, self.empty = family
        self.base, self.network = self.model.model, self.model.model.diffusion_model
        self.sampling = self.model.get_model_object("model_sampling")
        self.sigma = torch.tensor(float(self.sampling.percent_to_sigma(0.3)))
        self.u = float(self.sampling.timestep(self.sigma.view(1)))
        self.patch = brute_force.patch_of(self.network)
        self.size = SIZES.get(name, (9, 7))

    def whole(self, tokens: torch.Tensor, size=None) -> torch.Tensor:
        """A map (B, *grid) of tokens on the latent's pixels (B, *size)."""
        for axis, (p, n) in enumerate(zip(self.patch, size or self.size, strict=True), start=1):
            tokens = tokens.repeat_interleave(p, axis).narrow(axis, 0, n)
        return tokens

    def grid(self, size=None) -> tuple[int, ...]:
        return tuple(-(-n // p) for n, p in zip(size or self.size, self.patch, strict=True))

    def call(self, batch=1, pixels=None, size=None, cfg=1.0, scalar=None) -> Call:
        """pixels(x): the map for our code, or None; scalar: a time for the stock network."""
        region = self.pack("nodes.run.region").Region("all")
        record = self.pack("report.trace").Run("a map", self.name, [])
        call, size = Call(), size or self.size

        def given(module, args, kwargs):
            call.x, call.time, call.conditions = args[0].clone(), args[1].clone(), kwargs

        def answered(module, args, out):
            call.out = out.clone()

        def sample(model, x, sigmas, extra_args, callback, disable):
            given = extra_args["model_options"]
            with self.pack("nodes.run.tracker").RegionTracker(region, record) as tracker:
                tracker.fit(model.inner_model, x.shape, x.device)
                with tracker.evaluation(None if pixels is None else pixels(x), given) as told:
                    options = given if pixels is None else told
                    sigma = sigmas[0] * x.new_ones(len(x))
                    denoised = model(x, sigma, **{**extra_args, "model_options": options})
            call.latent, call.denoised = x, denoised
            return x

        noise = torch.randn(
            batch, self.empty.shape[1], *size, generator=torch.Generator().manual_seed(7)
        )
        hooks = [
            self.network.register_forward_pre_hook(given, with_kwargs=True),
            self.network.register_forward_hook(answered),
        ]
        if scalar is not None:
            self.base.process_timestep = lambda t, **kwargs: scalar.repeat(len(t) // batch)
        try:
            comfy.sample.sample_custom(
                self.model, noise, cfg, comfy.samplers.KSAMPLER(sample),
                torch.stack([self.sigma, self.sigma * 0.9]), self.positive, self.negative,
                torch.zeros_like(noise), disable_pbar=True, seed=1,
            )  # fmt: skip
        finally:
            vars(self.base).pop("process_timestep", None)
            for hook in hooks:
                hook.remove()
        return call

    def ours(self, tokens: torch.Tensor, size=None, cfg=1.0, sigma=None) -> Call:
        """Our code with a map of times (B, *grid); text has the sampler's time."""
        pixel_map = self.pack("nodes.pixels.scope").pixel_map
        base = torch.full((len(tokens),), self.u)
        times = self.whole(tokens, size)
        return self.call(
            len(tokens), lambda x: pixel_map(self.network, times, base, sigma), size, cfg
        )

    def close(self, call: Call, tokens: torch.Tensor, base=None) -> float:
        """The tolerance for the answer: what ten roundings of all that goes in make of it."""
        wrong = copy.copy(call)
        wrong.x = shaken(call.x, LATENTS)
        others = None if base is None else shaken(base, TIMES)
        found = error(
            self.brute(wrong, shaken(tokens, TIMES, seed=2), others), self.brute(call, tokens, base)
        )
        assert found < 5e-3, "the network amplifies rounding"
        return max(found, 1e-5)

    def brute(self, call: Call, tokens: torch.Tensor, base=None) -> torch.Tensor:
        """The reference for the network call that our code made."""
        chunks = len(call.x) // len(tokens)
        base = torch.full((len(tokens),), self.u) if base is None else base
        times = tokens.flatten(1).repeat(chunks, 1)
        return brute_force.run(self.network, times, call.x, base.repeat(chunks), **call.conditions)


def error(out: torch.Tensor, expected: torch.Tensor) -> float:
    return float((out - expected).abs().max() / expected.abs().max())


def half(tiny, size=None, share=0.7) -> torch.Tensor:
    tokens = torch.full((1, *tiny.grid(size)), tiny.u)
    tokens[..., tokens.shape[-1] // 2 :] *= share
    return tokens


def four_levels(tiny, size=None) -> torch.Tensor:
    count = torch.arange(torch.Size(tiny.grid(size)).numel()).view(1, *tiny.grid(size))
    return tiny.u * torch.tensor([1.0, 0.9, 0.75, 0.5])[count % 4]


def anything(tiny, batch=1, size=None) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return tiny.u * (0.4 + 0.6 * torch.rand(batch, *tiny.grid(size), generator=rng))


MAPS = {
    "half": half,
    "four levels": four_levels,
    "random": anything,
    "two images": lambda tiny: torch.cat([half(tiny), anything(tiny)]),
    "one image without the base time": lambda tiny: half(tiny) * 0.8,
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_mean_per_token(tiny, name):
    tokens = MAPS[name](tiny)
    call = tiny.ours(tokens)
    assert len(call.x) == len(tokens)
    found = error(call.out, tiny.brute(call, tokens))
    print(f"{tiny.name}, {name}: {found:.1e}")
    assert found <= tiny.close(call, tokens)


def test_a_map_reaches_both_chunks_of_cfg(tiny):
    """ComfyUI stacks cond and uncond: 2 chunks of 2 images with different maps."""
    tokens = torch.cat([four_levels(tiny), anything(tiny)])
    call = tiny.ours(tokens, cfg=3.0)
    assert len(call.x) == 4
    found = error(call.out, tiny.brute(call, tokens))
    print(f"{tiny.name}, chunks: {found:.1e}")
    assert found <= tiny.close(call, tokens)


def test_a_map_fits_square_latents(tiny):
    size = tuple(tiny.empty.shape[2:])
    tokens = anything(tiny, 2, size)
    call = tiny.ours(tokens, size)
    assert error(call.out, tiny.brute(call, tokens)) <= tiny.close(call, tokens)


def test_the_reference_with_one_time_is_the_stock_forward(tiny):
    time = torch.tensor([tiny.u, tiny.u * 0.7])
    stock = tiny.call(2, scalar=time)
    tokens = time.view(2, *[1] * len(tiny.size)).expand(2, *tiny.grid())
    found = error(tiny.brute(stock, tokens, base=time), stock.out)
    print(f"{tiny.name}, reference: {found:.1e}")
    assert found <= tiny.close(stock, tokens, base=time)


def test_a_uniform_map_is_the_scalar_call(tiny):
    """Bit for bit, also where the two images have different times, neither the sampler's."""
    time = torch.tensor([tiny.u * 0.9, tiny.u * 0.7])
    tokens = time.view(2, *[1] * len(tiny.size)).expand(2, *tiny.grid())
    assert torch.equal(tiny.ours(tokens).out, tiny.call(2, scalar=time).out)


def test_half_a_map_is_no_scalar_call(tiny):
    """So the comparisons above can fail."""
    call = tiny.ours(half(tiny))
    least = max(1e-3, 10 * tiny.close(call, half(tiny)))
    for share in (1.0, 0.7):
        assert error(tiny.call(scalar=torch.tensor([tiny.u * share])).out, call.out) > least


def test_an_image_is_not_moved_by_the_others_map(tiny):
    """Image 0 has one time, image 1 a map: image 0 is its own scalar call."""
    tokens = torch.cat([torch.full((1, *tiny.grid()), tiny.u * 0.8), half(tiny)])
    time = torch.tensor([tiny.u * 0.8, tiny.u])
    call = tiny.ours(tokens)
    assert error(call.out[0], tiny.call(2, scalar=time).out[0]) <= tiny.close(call, tokens)


def test_input_and_denoised_have_the_level_of_their_pixel(tiny):
    """eps, v: x / sqrt(s^2 + 1) goes in; x0 = x - s out, or x / (s^2 + 1) - s out / sqrt(s^2 + 1).
    Flow: x goes in; x0 = x - s out. All for each pixel's own s and time."""
    levels = tiny.sigma * (0.6 + 0.4 * anything(tiny) / tiny.u)
    tokens = tiny.sampling.timestep(levels.flatten()).float().view_as(levels)
    s = tiny.whole(levels).unsqueeze(1)
    call = tiny.ours(tokens, sigma=s)
    x, out = call.latent, tiny.brute(call, tokens)
    scale = 1.0 if isinstance(tiny.sampling, CONST) else (s**2 + 1) ** 0.5
    assert error(call.x, x / scale) <= 1e-6
    expected = x - s * out
    if isinstance(tiny.sampling, V_PREDICTION):
        expected = x / (s**2 + 1) - s * out / scale
    assert error(call.denoised, expected) <= tiny.close(call, tokens)
