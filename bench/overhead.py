"""Time and peak memory of one sampling step: stock against the patch with a fixed D and with a TPM.

    python bench/overhead.py --size tiny --out overhead.md

Random weights, Euler, cfg 1 (one network call a step) and one image: the cheapest step there is,
hence the hardest case for the ratio. All variants run in one process and take turns, round after
round; every ratio is taken inside a round. `stock again` is stock under another name: what it is
off 1 is noise. `make bench` runs this in the host's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from tqdm import tqdm

from async_timestep.bench.parts import frame
from async_timestep.bench.parts.memory import MIB, memory, size
from async_timestep.bench.parts.random_models import prompt, random_tpm
from async_timestep.harness.in_process import import_comfy, pack
from async_timestep.report.tables import markdown

STOCK, AGAIN, FIXED, TPM = "stock", "stock again", "fixed D = 0.5", "TPM"
VARIANTS = (STOCK, AGAIN, FIXED, TPM)
GOALS = f"Goals: {FIXED} <= 1.01 x, {TPM} <= 1.02 x, and {FIXED} adds <= 0.2 ms with no network."
MEDIUM = 24  # blocks of SD3.5-medium; the width is 64 times that
DUAL = 13  # its first blocks with a second self-attention


@dataclass
class Case:
    """A model, what to sample with it, and how the table calls it. stub: see `stubbed`."""

    title: str
    model: object  # ModelPatcher
    positive: list
    latent: torch.Tensor
    steps: int
    rounds: int
    stub: bool = False


@dataclass
class Result:
    """ms: milliseconds per step, one value per round. weights, peak: bytes, see `memory`."""

    ms: dict[str, list[float]]
    weights: dict[str, int]
    peak: dict[str, int]


def sd35_model(depth: int, dual: int, context_width: int, dtype: torch.dtype):
    """An SD3.5 model as ComfyUI builds it, computing in `dtype`, with random weights."""
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models

    linear = {"in_features": context_width, "out_features": 64 * depth}
    side = 384 if depth >= 12 else 64
    config = comfy.supported_models.SD3(
        {
            "in_channels": 16,
            "patch_size": 2,
            "out_channels": 16,
            "depth": depth,
            "input_size": None,
            "adm_in_channels": 2048,
            "context_embedder_config": {"target": "torch.nn.Linear", "params": linear},
            "num_patches": side**2,
            "pos_embed_max_size": side,
            "pos_embed_scaling_factor": None,
            "qk_norm": "rms",
            "x_block_self_attn_layers": list(range(dual)),
        }
    )
    config.set_inference_dtype(dtype, None)
    offload, load = mm.unet_offload_device(), mm.get_torch_device()
    base = config.get_model({}, device=offload)
    rng = torch.Generator(device=offload).manual_seed(1)
    for name, tensor in base.diffusion_model.state_dict().items():
        if tensor.ndim > 1:  # gain 0.7 through every layer: nothing is zero, nothing overflows
            tensor.normal_(0, 0.7 / tensor[0].numel() ** 0.5, generator=rng)
        elif "ln_" in name:
            tensor.fill_(1)
        else:
            tensor.normal_(0, 0.05, generator=rng)
    return comfy.model_patcher.CoreModelPatcher(base, load_device=load, offload_device=offload)


@contextlib.contextmanager
def stubbed(network: torch.nn.Module, stub: bool) -> Iterator[None]:
    """With `stub`, the network answers zeros at once."""
    if stub:
        network.forward = lambda x, *args, **kwargs: torch.zeros_like(x)
    try:
        yield
    finally:
        if stub:
            del network.forward


def measure(case: Case) -> Result:
    """Runs all variants of a case in turns. A first round warms up and measures the memory."""
    import comfy.model_management as mm
    import comfy.sample
    import comfy.samplers

    stock = case.model
    sampling = stock.get_model_object("model_sampling")
    grid = comfy.samplers.calculate_sigmas(sampling, "simple", case.steps)
    fixed, policy = pack("tpm.policies").Constant(0.5), random_tpm(grid)
    attach = pack("nodes.run.hook").attach
    models = {STOCK: stock.clone(), AGAIN: stock.clone()}
    traces = {}
    for name, chosen in ((FIXED, fixed), (TPM, policy)):
        models[name], traces[name] = attach(stock, chosen)
    noise = comfy.sample.prepare_noise(case.latent, 5)
    euler = comfy.samplers.sampler_object("euler")
    cuda = mm.get_torch_device().type == "cuda"

    def run(name: str) -> float:
        """Milliseconds a step of one sampling, the opening of the run included."""
        mm.load_models_gpu([models[name]])  # the change from clone to clone is not the patch's
        gc.collect()
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        comfy.sample.sample_custom(
            models[name], noise, 1.0, euler, grid, case.positive, case.positive, case.latent,
            disable_pbar=True, seed=5,
        )  # fmt: skip
        if cuda:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) * 1e3 / case.steps

    ms, weights, peak = {name: [] for name in VARIANTS}, {}, {}
    with stubbed(stock.model.diffusion_model, case.stub), torch.no_grad():
        for n in tqdm(range(case.rounds + 1), desc=case.title, unit="round"):
            turn = n % len(VARIANTS)  # everyone gets every place in the round
            for name in VARIANTS[turn:] + VARIANTS[:turn]:
                if n:
                    ms[name].append(run(name))
                    continue
                held = [stock.model.diffusion_model, *([policy.module] if name == TPM else [])]
                weights[name] = sum(size(module) for module in held)
                peak[name] = memory(lambda name=name: run(name), weights[name], cuda)
    for name, trace in traces.items():  # a patch that did nothing would be cheap
        told = trace.runs[-1]
        if told.off or len(told.steps) != case.steps:
            raise SystemExit(f"{name} was not applied: {told.summary()}")
    return Result(ms, weights, peak)


def spread(values: list[float], form: str) -> str:
    """Median, and the quartiles behind it."""
    if len(values) < 3:
        return f"{statistics.median(values):{form}}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def table(case: Case, result: Result) -> str:
    """One case with its heading and its size."""
    head = ["", "min ms", "median ms", "added ms (quartiles)", "ratio (quartiles)"]
    head += [] if case.stub else ["peak MiB", "of it weights", "memory ratio"]
    shape = " x ".join(map(str, case.latent.shape))
    told = f"Latents {shape}, {case.steps} steps, {case.rounds} rounds."
    stock, rows = result.ms[STOCK], []
    for name, ms in result.ms.items():
        row = [name, f"{min(ms):.3f}", f"{statistics.median(ms):.3f}"]
        row.append(spread([a - b for a, b in zip(ms, stock, strict=True)], "+.3f"))
        row.append(spread([a / b for a, b in zip(ms, stock, strict=True)], ".4f"))
        if name == STOCK:
            row[3:] = ["", "1"]
        if not case.stub:
            peak, weights = result.peak[name], result.weights[name]
            row += [f"{peak / MIB:.1f}", f"{weights / MIB:.1f}", f"{peak / result.peak[STOCK]:.4f}"]
        rows.append(row)
    return frame.page([f"## {case.title}", told, markdown(head, rows)])


def implied(stub: Result, large: Result) -> str:
    """The ratios without the noise of the large network."""
    step = statistics.median(large.ms[STOCK])
    shown = []
    for name in (FIXED, TPM):
        pairs = zip(stub.ms[name], stub.ms[STOCK], strict=True)
        added = statistics.median(a - b for a, b in pairs)
        shown.append(f"{name} {1 + added / step:.5f}")
    return (
        "The ratios without the network's own noise, from the milliseconds that the patch adds "
        f"with no network on these latents, over the {step:.0f} ms of a stock step: "
        f"{', '.join(shown)}."
    )


def largest_depth(device: str) -> int:
    """Blocks of the largest model whose weights in bfloat16 fit twice into the free memory."""
    free = psutil.virtual_memory().available
    if device == "cuda":
        free = min(free, torch.cuda.mem_get_info()[0])
    # 38: the width of SD3.5-large; on a CPU one of its steps takes minutes
    for depth in (38, MEDIUM, 12) if device == "cuda" else (MEDIUM, 12):
        if 2 * 2 * parameters(depth) < free:
            return depth
    return 6


def parameters(depth: int) -> int:
    """Roughly: 36 w^2 a joint block (two streams), 7 w^2 more with the second attention."""
    width = 64 * depth
    return (36 * depth + 7 * min(DUAL, depth)) * width**2 + 384**2 * width


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """In the order of the tables. A model is built when its turn comes."""
    tiny = sd35_model(2, 1, 64, torch.float32)
    positive = prompt(64, 7)
    small, big = torch.zeros(1, 16, 8, 8), torch.zeros(1, 16, 64, 64)
    if args.size != "large":
        rounds = args.rounds or 60
        yield Case("Tiny network", tiny, positive, small, 20, rounds)
        yield Case("No network", tiny, positive, small, 20, rounds, stub=True)
    if args.size != "tiny":
        yield Case("No network, 512 px", tiny, positive, big, 20, args.rounds or 20, stub=True)
        depth = args.depth or largest_depth(args.device)
        model = sd35_model(depth, DUAL, 4096, torch.bfloat16)
        count = sum(p.numel() for p in model.model.diffusion_model.parameters()) / 1e9
        title = (
            f"Large network: SD3.5-medium's plan, {depth} blocks, {count:.2f} B parameters, bf16"
        )
        yield Case(title, model, prompt(4096, 154), big, args.steps, args.rounds or 3)


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--size", choices=("tiny", "large", "all"), default="tiny")
    parser.add_argument(
        "--rounds", type=int, default=0, help="default: 60, with large latents 20, large network 3"
    )
    parser.add_argument("--steps", type=int, default=3, help="of the large network")
    parser.add_argument("--depth", type=int, default=0, help="its blocks; 0 = the most that fit")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=found)
    frame.threads_option(parser)
    frame.page_option(parser)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    import_comfy(args.device)
    logging.getLogger().setLevel(logging.WARNING)
    name = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    parts = ["# Overhead", frame.made_by(frame.command("overhead"))]
    parts += [frame.machine(name, cores), GOALS]
    results = []
    for case in cases(args):
        results.append(measure(case))
        parts.append(table(case, results[-1]))
    if args.size != "tiny":
        parts.append(implied(*results[-2:]))
    print(frame.write_page(args.out, parts))


if __name__ == "__main__":
    main()
