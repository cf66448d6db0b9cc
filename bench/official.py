"""The official AsynDM code and ours beside each other: timesteps, step, network, masks, whole loop.

    python bench/official.py --official PATH_TO_CHECKOUT --out docs/measurements/asyndm_official.md

The checkout is of hu-zijing/AsynDM. Its `main` runs unchanged (parts/official_side.py) on a random
UNet of SD2.1's plan; ours runs the same weights in ComfyUI's network. What differs by intention is
lined up here and nowhere else: the grid is the official 1001, 981, ..., 21, 1 whose first interval
is not evaluated (the virtual start), then 0; a pixel's noise level is rounded to whole timesteps;
both get the same noise; the step from t = 1 to t = 0 is done from our last denoised. Exit code 1
where a bound is missed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import official_side as side
from async_timestep.bench.parts.official_ours import sampled
from async_timestep.bench.parts.official_stubs import TOKENS
from async_timestep.bench.parts.official_words import words
from async_timestep.bench.parts.peers_load import relative
from async_timestep.harness.in_process import pack

CURVES = {"quadratic": "bin", "linear": "lin", "exponential": "exp"}
CFG, ITEMS = 5.0, [1, 3]  # items: word indices, one less than their token's


class Checks(frame.Table):
    """Rows of what was compared, how far it is off, and how far it may be."""

    def __init__(self) -> None:
        super().__init__(["check", "found", "bound", ""])
        self.missed = 0

    def check(self, what: str, found: float, bound: float | None = None, note: str = "") -> None:
        fine = bound is None or found <= bound
        self.missed += not fine
        limit = "-" if bound is None else f"{bound:g}"
        self.add(what, f"{found:.3g}", limit, f"{'' if fine else 'MISSED '}{note}")


def timesteps(official, table: Checks, steps: int = 50) -> None:
    """1. A whole trajectory under a mask that toggles at random, official float32 and float64."""
    lag, spacing, rng = pack("asyndm.lag"), 1000 / steps, torch.Generator().manual_seed(1)
    masks = torch.rand(steps, 32, 32, generator=rng) < 0.5
    for name, curve in CURVES.items():
        linear, concave = side.schedules(official, steps, curve)
        for k in (0.3, 0.5, 0.7):
            states = [torch.full((32, 32), 1001.0, dtype=d) for d in (torch.float32, torch.float64)]
            d = torch.zeros(32, 32)
            worst, rough, whole, near = 0.0, 0.0, 0, 0
            for i, inside in enumerate(masks):
                r = steps - i  # the last interval, 1 to 0, is the same for all pixels
                for n, t in enumerate(states):
                    told = inside.to(t)
                    states[n] = (1 - told) * linear(t, r) + told * concave(t, r, k=k)
                d = lag.next_lag(d, k * inside.float(), i, steps, name)
                ours = 1001 - spacing * (i + 1 - d.double())
                worst = max(worst, float((ours - states[1]).abs().max()))
                rough = max(rough, float((states[0].double() - states[1]).abs().max()))
                differ = ours.round() != states[0].double().round()
                whole += int(differ.sum())
                near += int((differ & ((states[1].frac() - 0.5).abs() < 1e-3)).sum())
            table.check(
                f"timesteps, {name}, k {k}",
                worst,
                1e-3,
                f"official fp32 off its fp64 by {rough:.1e}; rounded otherwise: {whole} of "
                f"{masks.numel()}, {near} of them ties",
            )
            table.check(f"rounded otherwise, no tie, {name}, k {k}", whole - near, 0)


def ddim_step(official, table: Checks) -> None:
    """2. Random (t, t') a pixel, an eighth of them equal, against the step in VE form."""
    steps, rng = pack("asyndm.steps"), torch.Generator().manual_seed(2)
    shape = (2, 4, 64, 64)
    t = torch.randint(1, 1000, (2, 1, 64, 64), generator=rng)
    after = (t * torch.rand(t.shape, generator=rng)).long()
    after[:, :, :8] = t[:, :, :8]
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        scheduler = side.scheduler()
        scheduler.alphas_cumprod = alphas = scheduler.alphas_cumprod.to(dtype)
        x, eps, fresh = (torch.randn(shape, generator=rng).to(dtype) for _ in range(3))
        s, s_next = (((1 - alphas[n]) / alphas[n]) ** 0.5 for n in (t, after))
        official.ddim.randn_tensor = lambda *a, fresh=fresh, **k: fresh
        for eta in (0.0, 0.5, 1.0):
            theirs, _, x0 = official.ddim.asyn_ddim_step_with_logprob(
                scheduler, eps, t.expand(shape), after.expand(shape), x, eta=eta
            )
            ve = x * (1 + s**2) ** 0.5
            ours = steps.ancestral_step(ve, ve - s * eps, s, s_next, fresh, eta)
            ours = ours / (1 + s_next**2) ** 0.5
            still = relative(ours[:, :, :8], x[:, :, :8])
            name = f"DDIM step, eta {eta:g}, {str(dtype)[6:]}"
            table.check(name, relative(ours, theirs), bound, f"where t = t': {still:.1e}")
    official.ddim.randn_tensor = side.ORIGINAL


def region_of(k: float = 1.0):
    columns = {f"word {n}": [n + 1] for n in ITEMS}
    return pack("nodes.run.region").Region("words", columns=columns, strengths=(k, k))


def network(official, table: Checks, unet, patcher, texts) -> None:
    """3, 4. One call with a map of times: noise prediction, attention maps, masks."""
    trackers, scope = pack("nodes.run.tracker"), pack("nodes.pixels.scope")
    time = pack("nodes.run.times").ModelTime(patcher.model.model_sampling)
    record = pack("report.trace").Run("one call", "sd21", [])
    rng, base = torch.Generator().manual_seed(4), patcher.model
    for label, spread in (("one time", 0), ("5 times", 5), ("170 times", 170), ("999 times", 999)):
        t = torch.full((1, 64, 64), 700)
        if spread:
            values = torch.randint(1, 1000, (spread,), generator=rng)
            t = values[torch.randint(0, spread, (1, 64, 64), generator=rng)]
        x = torch.randn(1, 4, 64, 64, generator=rng)
        (out,), extra = official.forward(
            unet,
            torch.cat([x, x]),
            t.reshape(1, -1).repeat(2, 1),
            return_dict=False,
            encoder_hidden_states=torch.cat(texts),
            return_extra_inf=True,
            extra_input={"used_layer_size": 16, "item_idx": ITEMS},
        )
        sigma = base.model_sampling.sigmas[t].unsqueeze(1)
        cond = {"uuid": "positive", "cross_attn": texts[1]}
        cond["model_conds"] = {"c_crossattn": SimpleNamespace(cond=texts[1])}
        guider = SimpleNamespace(model_options={}, inner_model=base, conds={"positive": [cond]})
        times = time.of_map(sigma)[:, 0]
        pixels = scope.pixel_map(base.diffusion_model, times, torch.tensor([700.0]), sigma)
        kept = []
        hook = base.diffusion_model.register_forward_hook(
            lambda m, a, out, kept=kept: kept.append(out)
        )
        call = {"cond_or_uncond": [1, 0], "uuids": ["negative", "positive"]}
        ve = (x * (1 + sigma**2) ** 0.5).repeat(2, 1, 1, 1)
        with trackers.RegionTracker(region_of(), record) as tracker:
            tracker.fit(guider, x.shape, x.device)
            maps = watched(tracker, "weight_of")
            with tracker.evaluation(pixels, {"transformer_options": call}) as options:
                base.apply_model(
                    ve, torch.ones(2), None, torch.cat(texts), None, options["transformer_options"]
                )
            weight = tracker.weight
        hook.remove()
        table.check(f"network, {label}", relative(kept[0], out), 1e-4)
        theirs = extra["cross_mask"].transpose(1, 2).view(1, len(ITEMS), 16, 16)
        table.check(f"attention maps, {label}", relative(maps[0], theirs), 1e-5)
        masks = (theirs >= theirs.mean((2, 3), keepdim=True)).any(1, keepdim=True).float()
        whole = torch.nn.functional.interpolate(masks, (64, 64))
        differ = int((weight != whole).sum())
        table.check(f"masks, {label}, cells", differ, 0, f"mask covers {float(whole.mean()):.0%}")


def watched(owner, name: str) -> list:
    """The first arguments that a method of this one object gets from now on."""
    seen, original = [], getattr(owner, name)

    def noting(first, *args):
        seen.append(first)
        return original(first, *args)

    setattr(owner, name, noting)
    return seen


def loop(official, table: Checks, unet, patcher, texts, steps: int, eta: float) -> None:
    """5. The whole official `main` against our sampler."""
    theirs = side.run(official, unet, texts, steps, eta, ITEMS, [0.5] * len(ITEMS))
    prompts = [[[text, {}]] for text in reversed(texts)]
    ours = sampled(patcher, region_of(), theirs, prompts, steps, eta, CFG)
    compare(table, f"{steps} steps, eta {eta:g}", theirs, ours, eta)


def compare(table, label: str, theirs, ours, eta: float) -> None:
    """Every step's input, then the end, which needs the step to t = 0."""
    masks = 0
    for official_mask, own in zip(theirs.masks[:-1], ours.masks[2:], strict=False):
        cells = official_mask.any(2).view(1, 1, 16, 16).float()
        whole = torch.nn.functional.interpolate(cells, (64, 64))[:, 0]
        masks += int((own != whole).sum())
    worst, begins, times = 0.0, None, 0
    for n, (t, before) in enumerate(zip(theirs.t, theirs.before, strict=True)):
        s = ours.levels[n]
        times += int(((ours.space.forward(s[:, 0].double()) - t).abs() > 0.1).sum())
        error = relative(ours.x[n + 1] / (1 + s**2) ** 0.5, before)
        worst = max(worst, error)
        if error > 1e-4 and begins is None:
            begins = n
    note = "" if begins is None else f"above 1e-4 from step {begins}"
    table.check(f"loop, {label}, pixels with another rounded time", times, 0)
    table.check(f"loop, {label}, mask pixels that differ", masks, 0)
    table.check(f"loop, {label}, latents", worst, 1e-4, note)
    table.check(f"loop, {label}, last x0", relative(ours.last, theirs.x0[-1]), 1e-4)
    final = ours.at_zero(theirs.fresh[-1], eta)
    table.check(f"loop, {label}, last latent (t = 0)", relative(final, theirs.after[-1]), 1e-4)


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--official", type=Path, required=True, help="the checkout")
    parser.add_argument("--steps", type=int, nargs="*", default=[10, 50], help="of the loops")
    frame.page_option(parser)
    args = parser.parse_args()
    official = side.load(args.official.resolve())
    frame.comfyui()
    rng, table = torch.Generator().manual_seed(3), Checks()
    texts = [torch.randn(1, TOKENS, side.WIDTH, generator=rng) for _ in range(2)]
    timesteps(official, table)
    ddim_step(official, table)
    unet = side.tiny_unet()
    network(official, table, unet, side.as_comfy(unet), texts)
    listed = words(official, table.check)
    unet = side.tiny_unet(layers=1, first=False)  # 120 evaluations
    patcher = side.as_comfy(unet)
    for steps in args.steps:
        for eta in (0.0, 1.0):
            loop(official, table, unet, patcher, texts, steps, eta)
    made_by = frame.made_by(frame.command("official", frame.chosen(args, official="CHECKOUT")))
    parts = [made_by, "# AsynDM: the official code and ours", str(table)]
    frame.write_page(args.out, [*parts, "## Items on other tokens", listed])
    print(listed, end="")
    sys.exit(bool(table.missed))


if __name__ == "__main__":
    main()
