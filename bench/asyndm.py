"""What AsynDM and a regional deviation cost a step, over ComfyUI's euler on the same network.

    python bench/asyndm.py --size mid --official CHECKOUT --out docs/measurements/asyndm_cost.md

Random weights, one image, cfg 1 (one call a step: the hardest case for the ratio), one thread. Each
variant runs beside a stock run, the two taking turns step by step, and a ratio is that of two steps
in a row at which pixels have their own times: a machine's drift is slower than that. Milliseconds
are the process's CPU time, which other processes disturb less than the clock.
With a checkout of hu-zijing/AsynDM, its UNet forward is measured over diffusers' own, with CFG.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import official_side as side
from async_timestep.bench.parts.asyndm_memory import computed
from async_timestep.bench.parts.memory import MIB, memory, size
from async_timestep.bench.parts.random_models import cut_sd35, prompt, randomized
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown

STEPS, MAPPED = 8, range(1, 7)  # the grid, and its steps at which pixels have their own times
GOALS = (
    "Goals: AsynDM on a UNet <= 1.03 and <= 0.3 of the official overhead, on a DiT <= 1.05; "
    "regional deviation <= 1.05; peak memory <= 1.05."
)
KINDS = {"unet": "UNet", "sd35": "SD3.5", "flux": "Flux"}  # --only -> part of a case's title
VARIANTS = ("stock", "stock again", "mask", "soft mask", "words", "regional")
UNETS = {"tiny": (64, 64, 128, 128), "mid": (128, 256, 512, 512), "sd15": (320, 640, 1280, 1280)}


@dataclass
class Case:
    title: str
    model: object
    positive: list
    latent: torch.Tensor


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


def variants(case: Case) -> dict:
    """name -> (model, sampler)."""
    import comfy.samplers

    regions, nodes = pack("nodes.run.region"), pack("nodes.run.asyndm")
    hard = torch.zeros(1, *case.latent.shape[2:])
    edge = hard.shape[1] // 4
    hard[:, edge:-edge, edge:-edge] = 1
    soft = torch.rand(hard.shape, generator=torch.Generator().manual_seed(1))
    mask, grey = regions.Region("mask", mask=hard), regions.Region("mask", mask=soft)
    words = regions.Region("words", columns={"a": [2], "b": [4, 5]}, strengths=(1.0, 1.0))
    static = regions.Region("words", columns={"a": [2]}, strengths=(1.0,), static=True)
    euler = comfy.samplers.sampler_object("euler")
    out = {"stock": (case.model, euler), "stock again": (case.model, euler)}
    for name, region in (("mask", mask), ("soft mask", grey), ("words", words), ("static", static)):
        out[name] = (case.model, nodes.asyndm_sampler(region, 0.5)[0])
    constant = pack("tpm.policies").Constant(0.5)
    out["regional"] = (pack("nodes.run.hook").attach(case.model, constant, region=mask)[0], euler)
    return out


def sample(case: Case, model, sampler, callback=None) -> None:
    import comfy.sample
    import comfy.samplers

    grid = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", STEPS
    )
    noise = comfy.sample.prepare_noise(case.latent, 5)
    comfy.sample.sample_custom(
        model.clone(), noise, 1.0, sampler, grid, case.positive, case.positive, case.latent,
        callback=callback, disable_pbar=True, seed=5,
    )  # fmt: skip


def in_turns(case: Case, pair: tuple, runs: int) -> list[tuple[float, float]]:
    """CPU milliseconds of the mapped steps of two samplings that advance one step each in turn."""
    base = case.model.model
    gates, done = [threading.Semaphore(0) for _ in pair], threading.Semaphore(0)

    def work(gate: threading.Semaphore, model, sampler) -> None:
        torch.set_grad_enabled(False)  # both are settings of a thread
        torch.set_num_threads(1)

        def hand_over(*_) -> None:
            mine = base.current_patcher  # the other run sets its own, and clears it at its end
            done.release()
            gate.acquire()
            base.current_patcher = mine

        gate.acquire()
        for _ in range(runs):
            sample(case, model, sampler, hand_over)
        done.release()

    threads = [
        threading.Thread(target=work, args=(gate, *what), daemon=True)
        for gate, what in zip(gates, pair, strict=True)
    ]
    for thread in threads:
        thread.start()
    out = []
    for n in range(runs * STEPS + 1):  # the last turn ends the runs
        took = [0.0, 0.0]
        for side_of in (0, 1) if n % 2 else (1, 0):
            started = time.process_time()
            gates[side_of].release()
            done.acquire()
            took[side_of] = 1e3 * (time.process_time() - started)
        if n % STEPS in MAPPED:
            out.append((took[0], took[1]))
    for thread in threads:
        thread.join()
    return out


def middle(ratios: list[float]) -> tuple[float, float]:
    """Median, and its standard error (1.25 times the mean's)."""
    return statistics.median(ratios), 1.25 * statistics.stdev(ratios) / len(ratios) ** 0.5


def whole_run(case: Case, model, sampler) -> float:
    started = time.process_time()
    sample(case, model, sampler)
    return time.process_time() - started


def measure(case: Case, reps: int) -> str:
    runs = variants(case)
    import comfy.model_management as mm

    mm.load_models_gpu([case.model])
    weights, peaks = size(case.model.model.diffusion_model), {}
    for name in VARIANTS:  # warms up, and the memory
        if name != "stock again":
            peaks[name] = memory(lambda name=name: sample(case, *runs[name]), weights, False)
    table = frame.Table(["", "ms a step", "stock beside it", "ratio", "peak MiB", "memory ratio"])
    table.add("stock", "", "", "", f"{peaks['stock'] / MIB:.1f}", "")
    for name in VARIANTS[1:]:
        took = in_turns(case, (runs["stock"], runs[name]), reps)
        ratio, error = middle([ours / stock for stock, ours in took])
        stock, ours = (statistics.median(side_of) for side_of in zip(*took, strict=True))
        row = [name, f"{ours:.1f}", f"{stock:.1f}", f"{ratio:.4f} ± {error:.4f}", "", ""]
        if name in peaks:
            row[4:] = [f"{peaks[name] / MIB:.1f}", f"{peaks[name] / peaks['stock']:.4f}"]
        table.add(*row)
    whole = [whole_run(case, *runs[name]) for name in ("static", "stock")]
    table.add("static, whole run", "", "", f"{whole[0] / whole[1]:.2f}", "", "")
    return frame.page([f"## {case.title}", str(table)])


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
    for n in range(4 * reps + 1):  # the first warms up
        for name, call in calls.items():
            started = time.process_time()
            call()
            if n:
                ms[name].append(1e3 * (time.process_time() - started))
    rows = []
    for name, values in ms.items():
        ratio, error = middle([a / b for a, b in zip(values, ms["diffusers"], strict=True)])
        rows.append([name, f"{statistics.median(values):.1f}", f"{ratio:.4f} ± {error:.4f}"])
    told = "The official code on the same weights, a call of batch 2:"
    return frame.page([told, markdown(["", "ms", "ratio"], rows)])


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--official", type=Path, help="a checkout of hu-zijing/AsynDM")
    parser.add_argument("--size", choices=sorted(UNETS), default="tiny")
    parser.add_argument("--only", choices=sorted(KINDS), help="one kind of network")
    parser.add_argument("--reps", type=int, default=5, help="runs of 8 steps a variant")
    frame.page_option(parser)
    args = parser.parse_args()
    official = side.load(args.official.resolve()) if args.official else None
    frame.comfyui()
    shown = frame.chosen(args, official="CHECKOUT", size="", only="", reps="")
    parts = [frame.made_by(frame.command("asyndm", shown)), "# Cost of AsynDM", GOALS]
    for case, unet in cases(args):
        if args.only and KINDS[args.only] not in case.title:
            continue
        parts.append(measure(case, args.reps))
        print(parts[-1], flush=True)
        if unet is not None:
            parts.append(official_overhead(official, unet, args.reps))
            print(parts[-1], flush=True)
    parts.append(computed(pack("nodes.pixels.attention").BLOCK))
    print(parts[-1])
    frame.write_page(args.out, parts)


if __name__ == "__main__":
    main()
