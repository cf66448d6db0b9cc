"""What AsynDM and a regional deviation cost a step, over ComfyUI's euler on the same network.

    python bench/asyndm.py --size mid --official PATH_TO_CHECKOUT --out docs/asyndm_cost.md

Random weights, one image, cfg 1 (one call a step: the hardest case for the ratio), one thread. The
variants take turns; a ratio is taken inside a round, over the steps at which pixels have their own
times. Milliseconds are the process's CPU time, which other processes disturb less than the clock.
With a checkout of hu-zijing/AsynDM, its UNet forward is measured on the same weights over
diffusers' own, both with CFG, as it needs. The memory of Flux and SDXL is computed from shapes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
import official_side as side  # noqa: E402
from overhead import MIB, import_comfy, memory, pack, prompt, size  # noqa: E402

STEPS, MAPPED = 4, (1, 2)  # the grid, and its steps at which pixels have their own times
GOALS = (
    "Goals: AsynDM on a UNet <= 1.03 and <= 0.3 of the official overhead, on a DiT <= 1.05; "
    "regional deviation <= 1.05; peak memory <= 1.05."
)
VARIANTS = ("stock", "stock again", "mask", "soft mask", "words", "regional")
UNETS = {"tiny": (64, 64, 128, 128), "mid": (128, 256, 512, 512), "sd15": (320, 640, 1280, 1280)}


@dataclass
class Case:
    title: str
    model: object
    positive: list
    latent: torch.Tensor


def randomized(network: torch.nn.Module) -> None:
    rng = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if tensor.ndim > 1:
            tensor.normal_(0, 0.7 / tensor[0].numel() ** 0.5, generator=rng)
        else:
            gain = ("norm" in name or "ln_" in name) and not name.endswith("bias")
            tensor.fill_(float(gain))


def flux_model(double: int, single: int, dtype: torch.dtype):
    """Flux.1's widths with few blocks."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.Flux({
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "hidden_size": 3072, "num_heads": 24, "context_in_dim": 4096, "vec_in_dim": 768,
        "mlp_ratio": 4.0, "depth": double, "depth_single_blocks": single,
        "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
        "guidance_embed": True,
    })  # fmt: skip
    config.set_inference_dtype(dtype, None)
    base, cpu = config.get_model({}, ""), torch.device("cpu")
    randomized(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def cases(args: argparse.Namespace):
    """(Case, diffusers UNet of the same weights or None)."""
    tiny = args.size == "tiny"
    channels = UNETS[args.size]
    torch.manual_seed(0)
    unet = side.sd21_unet(channels, 64, 768, 1 if tiny else 2)
    count = sum(p.numel() for p in unet.parameters()) / 1e6
    text = torch.randn(1, 77, 768)
    title = f"UNet, SD's plan, {count:.0f} M parameters, fp32, latents 64 x 64"
    yield Case(title, side.as_comfy(unet), [[text, {}]], torch.zeros(1, 4, 64, 64)), unet
    if args.size == "sd15":
        return
    blocks, cells = (2, 32) if tiny else (4, 64)
    model = cut_sd35(blocks)
    title = (
        f"DiT, SD3.5-medium's width 1536, {blocks} blocks, fp32, {(cells // 2) ** 2} + 154 tokens"
    )
    yield Case(title, model, prompt(4096, 154), torch.zeros(1, 16, cells, cells)), None
    cells = 16 if tiny else 32
    pooled = {"pooled_output": torch.randn(1, 768)}
    title = f"DiT, Flux's width 3072, 1 + 1 blocks, fp32, {(cells // 2) ** 2} + 256 tokens"
    yield Case(title, flux_model(1, 1, torch.float32), [[torch.randn(1, 256, 4096), pooled]],
               torch.zeros(1, 16, cells, cells)), None  # fmt: skip


def cut_sd35(blocks: int):
    """SD3.5-medium with its first blocks only, half of them with a second attention."""
    import comfy.model_patcher
    import comfy.supported_models

    linear = {"in_features": 4096, "out_features": 1536}
    config = comfy.supported_models.SD3({
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 24, "input_size": None,
        "adm_in_channels": 2048, "num_patches": 64**2, "pos_embed_max_size": 64,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": linear},
        "pos_embed_scaling_factor": None, "qk_norm": "rms", "num_blocks": blocks,
        "x_block_self_attn_layers": list(range(blocks // 2)),
    })  # fmt: skip
    config.set_inference_dtype(torch.float32, None)
    base, cpu = config.get_model({}, ""), torch.device("cpu")
    randomized(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def variants(case: Case) -> dict:
    """name -> (model, sampler)."""
    import comfy.samplers

    masking, nodes = pack("nodes.pixels.masking"), pack("nodes.asyndm")
    hard = torch.zeros(1, *case.latent.shape[2:])
    edge = hard.shape[1] // 4
    hard[:, edge:-edge, edge:-edge] = 1
    soft = torch.rand(hard.shape, generator=torch.Generator().manual_seed(1))
    mask, grey = masking.Region("mask", mask=hard), masking.Region("mask", mask=soft)
    words = masking.Region("words", columns={"a": [2], "b": [4, 5]}, strengths=(1.0, 1.0))
    static = masking.Region("words", columns={"a": [2]}, strengths=(1.0,), static=True)
    euler = comfy.samplers.sampler_object("euler")
    out = {"stock": (case.model, euler), "stock again": (case.model, euler)}
    for name, region in (("mask", mask), ("soft mask", grey), ("words", words), ("static", static)):
        out[name] = (case.model, nodes.asyndm_sampler(region, 0.5)[0])
    constant = pack("tpm.policies").Constant(0.5)
    out["regional"] = (pack("nodes.hook").attach(case.model, constant, region=mask)[0], euler)
    return out


def sample(case: Case, model, sampler) -> list[float]:
    """CPU milliseconds of each step; entry 0 holds the opening of the run and a static's pass."""
    import comfy.sample
    import comfy.samplers

    grid = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", STEPS
    )
    noise = comfy.sample.prepare_noise(case.latent, 5)
    stamps = [time.process_time()]
    comfy.sample.sample_custom(
        model.clone(), noise, 1.0, sampler, grid, case.positive, case.positive, case.latent,
        callback=lambda *a: stamps.append(time.process_time()), disable_pbar=True, seed=5,
    )  # fmt: skip
    return [1e3 * (b - a) for a, b in zip(stamps, stamps[1:], strict=False)]


def measure(case: Case, reps: int) -> str:
    runs = variants(case)
    import comfy.model_management as mm

    mm.load_models_gpu([case.model])
    ms = {name: [] for name in VARIANTS}
    weights, peaks = size(case.model.model.diffusion_model), {}
    for name in VARIANTS:  # warms up, and the memory
        if name != "stock again":
            peaks[name] = memory(lambda name=name: sample(case, *runs[name]), weights, False)
    for n in range(reps):
        turn = n % len(VARIANTS)
        for name in VARIANTS[turn:] + VARIANTS[:turn]:
            took = sample(case, *runs[name])
            ms[name] += [took[i] for i in MAPPED]
    stock = ms["stock"]
    lines = [
        f"## {case.title}",
        "",
        "| | ms a step | ratio | peak MiB | memory ratio |",
        "|---" * 5 + "|",
    ]
    for name in VARIANTS:
        ratio = statistics.median(a / b for a, b in zip(ms[name], stock, strict=True))
        row = [name, f"{statistics.median(ms[name]):.1f}", f"{ratio:.4f}", "", ""]
        if name in peaks:
            row[3:] = [f"{peaks[name] / MIB:.1f}", f"{peaks[name] / peaks['stock']:.4f}"]
        lines.append(f"| {' | '.join(row)} |")
    whole = [sum(sample(case, *runs[name])) for name in ("static", "stock")]
    lines.append(f"| static, whole run | | {whole[0] / whole[1]:.3f} | | |")
    return "\n".join(lines) + "\n"


def official_overhead(official, unet, reps: int) -> str:
    """diffusers' UNet, the official forward with one time, and with a map; batch 2."""
    if official is None:
        return ""
    rng = torch.Generator().manual_seed(2)
    x, text = torch.randn(2, 4, 64, 64, generator=rng), torch.randn(2, 77, 768, generator=rng)
    t = torch.randint(400, 500, (2, 4096), generator=rng)
    extra = {"used_layer_size": 16, "item_idx": [1, 3]}
    told = {"encoder_hidden_states": text, "return_dict": False}
    calls = {
        "diffusers": lambda: unet(x, torch.tensor(500), **told),
        "official, one time": lambda: official.forward(unet, x, torch.tensor(500), **told),
        "official, a map": lambda: official.forward(
            unet, x, t, extra_input=extra, return_extra_inf=True, **told
        ),
    }
    ms = {name: [] for name in calls}
    for n in range(reps + 1):
        for name, call in calls.items():
            started = time.process_time()
            call()
            if n:
                ms[name].append(1e3 * (time.process_time() - started))
    base = statistics.median(ms["diffusers"])
    lines = ["The official code on the same weights, a call of batch 2:", "", "| | ms | ratio |"]
    lines += ["|---|---|---|"]
    for name, values in ms.items():
        middle = statistics.median(values)
        lines.append(f"| {name} | {middle:.1f} | {middle / base:.4f} |")
    return "\n".join(lines) + "\n"


def computed() -> str:
    """Peak of what AsynDM adds at 1024 x 1024 in 16 bits, beside weights and activations."""
    half, lines = 2, ["| | added MiB | weights + activations MiB | share |", "|---|---|---|---|"]
    block = pack("nodes.pixels.attention").BLOCK
    scores = 3 * 4 * block  # scores in 16 and 32 bits, their softmax in 32, of some heads

    def row(name: str, added: float, weights: float, active: float) -> None:
        whole = (weights + active) / MIB
        lines.append(f"| {name} | {added / MIB:.1f} | {whole:.0f} | {added / MIB / whole:.2%} |")

    image, text, width = 4096, 512, 3072
    weights = 11.9e9 * half
    active = (image + text) * width * half * (1 + 1 + 7 + 5)  # x, norm, linear1, attention | mlp
    double = 6 * image * width * half  # two shifts, scales, gates
    single = 3 * (image + text) * width * half
    row("Flux, gathered modulation of a double block", double, weights, active)
    row("Flux, of a single block", single, weights, active)
    row("Flux, attention reading", scores, weights, active)
    batch, pixels, channels = 2, 128 * 128, 320
    weights = 2.57e9 * half
    skips = (3 * 320 * 128**2 + 3 * 640 * 64**2 + 3 * 1280 * 32**2) * batch * half
    active = skips + 4 * batch * pixels * 3 * channels * half  # the last blocks: concat, norm, conv
    row("SDXL, CFG, gathered time of a ResBlock", batch * channels * pixels * half, weights, active)
    row("SDXL, attention reading", min(scores, 3 * 4 * 20 * 1024 * 77), weights, active)
    return "\n".join(["## Memory at 1024 x 1024, computed", "", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--official", type=Path, help="a checkout of hu-zijing/AsynDM")
    parser.add_argument("--size", choices=sorted(UNETS), default="tiny")
    parser.add_argument("--reps", type=int, default=5, help="rounds, two steps each")
    parser.add_argument("--out", type=Path, help="write the tables to this .md file too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    official = side.load(args.official.resolve()) if args.official else None
    import_comfy("cpu")
    shown = ["--official CHECKOUT"] * bool(args.official) + [f"--size {args.size}"]
    command = " ".join(["python bench/asyndm.py", *shown, f"--reps {args.reps}"])
    parts = [f"Made by `{command}`.", "# Cost of AsynDM", GOALS]
    for case, unet in cases(args):
        parts.append(measure(case, args.reps))
        print(parts[-1], flush=True)
        if unet is not None:
            parts.append(official_overhead(official, unet, args.reps))
            print(parts[-1], flush=True)
    parts.append(computed())
    print(parts[-1])
    if args.out:
        args.out.write_text("\n\n".join(part.rstrip() for part in parts if part) + "\n")


if __name__ == "__main__":
    main()
