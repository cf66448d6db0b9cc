"""What one training iteration costs beside the frozen network: seconds a phase, and peak memory.

    python bench/rollout_cost.py --family sd35_medium --layers 1 --latent 32 --group 4

Random weights in the true architecture, the trainer's own rollout, decoding and GRPO update. Without
--layers, --latent and --group it is the paper's shape, which wants a GPU of 40 GB (SD3.5) or 64 GB
(Flux); cut down, it runs on a CPU, but then the TPM's and the autoencoder's shares are too large.
Prompts and rewards are left out. The floor is the FLOP of a phase over --peak, which nothing beats.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tpm.network import TimestepPredictionModule, TPMConfig
from training.backbones import Conditioning
from training.backbones.diffusers_common import DTYPES
from training.backbones.flux import Flux
from training.backbones.sd35 import SD35
from training.config import BackboneConfig, GRPOConfig, PolicyConfig
from training.grpo import update
from training.rollout import Actor, rollout, settle

FULL = {"sd35_medium": (24, 15), "flux1_dev": (19, 10)}  # layers, steps of the paper
TOKENS = {"sd35_medium": 154, "flux1_dev": 256}  # with match_comfyui
PAPER = "1,233 TFLOP (SD3.5, CFG), 3,504 (Flux) or 6,944 (Flux, true CFG) an iteration of 16 images"


def random_pipeline(family: str, layers: int, dtype: torch.dtype, device: torch.device):
    """What a backbone asks of a pipeline, without text encoders."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxTransformer2DModel,
        SD3Transformer2DModel,
    )

    flux = family == "flux1_dev"
    torch.set_default_dtype(dtype)
    with device:  # at once where it shall lie: the whole Flux in float32 would not fit everywhere
        if flux:
            transformer = FluxTransformer2DModel(
                num_layers=layers, num_single_layers=2 * layers, guidance_embeds=True
            )
        else:
            transformer = SD3Transformer2DModel(
                num_layers=layers, num_attention_heads=24, caption_projection_dim=1536,
                pos_embed_max_size=384, dual_attention_layers=tuple(range(min(13, layers))),
                qk_norm="rms_norm",
            )  # fmt: skip
        torch.set_default_dtype(torch.float32)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
            use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5, shift_factor=0.06,
        )  # fmt: skip
    projected = [SimpleNamespace(config=SimpleNamespace(projection_dim=n)) for n in (768, 1280)]
    projected[0].text_projection = torch.nn.Linear(768, 768)
    torch.nn.init.eye_(projected[0].text_projection.weight)
    return SimpleNamespace(
        transformer=transformer, vae=vae, vae_scale_factor=8,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=flux),
        text_encoder=projected[0], text_encoder_2=projected[1],
        components={"transformer": transformer, "vae": vae},
    )  # fmt: skip


def random_backbone(args: argparse.Namespace, device: torch.device):
    kind = Flux if args.family == "flux1_dev" else SD35

    class Random(kind):
        seconds = 0.0

        def load(self):
            return random_pipeline(args.family, args.layers, self.dtype, device)

        def velocity(self, x, t_star, conditioning):
            settle(device)
            start = time.perf_counter()
            v = super().velocity(x, t_star, conditioning)
            settle(device)
            self.seconds += time.perf_counter() - start
            return v

    mode = "cfg" if args.family == "sd35_medium" or args.true_cfg else "embedded"
    config = BackboneConfig(
        name=args.family, precision=args.precision, guidance=5.0, guidance_mode=mode,
        resolution=8 * args.latent, batch=args.batch, decode_batch=args.decode_batch,
        compile=args.compile,
    )  # fmt: skip
    backbone = Random(config, device, offload_text=True)  # there is no text encoder to move
    conditioning = random_prompts(backbone, args)
    empty = conditioning.rows([0])
    backbone.empty = empty.tokens, empty.pooled
    return backbone, conditioning


def random_prompts(backbone, args: argparse.Namespace) -> Conditioning:
    """One prompt for the whole group, in the precision and of the length of a real one."""
    tokens = torch.randn(1, TOKENS[args.family], 4096).to(backbone.device, backbone.dtype)
    pooled = torch.randn(1, backbone.pooled_dim, device=backbone.device)
    return Conditioning(("",), tokens, pooled).rows([0] * args.group)


def tflop(run, *inputs) -> float:
    """Teraflop of a call; a multiply-add is 2."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*inputs)
    return counter.get_total_flops() / 1e12


def measure(args: argparse.Namespace, device: torch.device) -> list[tuple[str, float, float]]:
    """(phase, seconds, TFLOP or 0) of one iteration after a warm-up."""
    backbone, conditioning = random_backbone(args, device)
    policy, grpo = PolicyConfig(), GRPOConfig(group=args.group)
    network = TPMConfig(
        pooled_dim=backbone.pooled_dim, pooled_split=backbone.pooled_split, raw_cap=policy.raw_cap,
        global_conditioning=policy.global_conditioning,
    )  # fmt: skip
    module = TimestepPredictionModule(network).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=grpo.lr)
    seeds = [torch.Generator().manual_seed(i) for i in range(args.group)]
    noise, sigmas = backbone.noise(seeds), backbone.sigmas(args.steps)
    one, time_one = noise[:1], torch.ones(1, device=device)
    plain = backbone.velocity if not args.compile else backbone.forward
    inputs = (one, time_one, conditioning.rows([0]))
    denoise = 0.0 if args.compile else tflop(plain, *inputs) * args.steps * args.group
    decode = tflop(backbone.decode, one) * args.group
    if device.type == "cuda" or args.compile:
        backbone.velocity(noise, torch.ones(args.group, device=device), conditioning)
    backbone.seconds = 0.0

    def clocked(run, *inputs):
        settle(device)
        start = time.perf_counter()
        result = run(*inputs)
        settle(device)
        return result, time.perf_counter() - start

    actor = Actor(module, policy, seeds)
    (latents, states), sampling = clocked(rollout, backbone, actor, conditioning, noise, sigmas)
    images, decoding = clocked(backbone.decode, latents)
    if not (latents.isfinite().all() and images.isfinite().all()):
        raise SystemExit(
            "The random network gave values that are not finite; try --precision fp32."
        )
    advantage = torch.linspace(-1, 1, args.group, device=device)[None]
    alive = torch.ones(1, dtype=torch.bool, device=device)
    result, updating = clocked(update, module, optimizer, states, advantage, alive, grpo)
    rest = sampling - backbone.seconds - actor.seconds
    return [
        ("denoiser, frozen", backbone.seconds, denoise),
        ("TPM decides", actor.seconds, 0.0),
        ("integration, states", rest, 0.0),
        ("decode", decoding, decode),
        (f"TPM update, {result.steps} optimizer steps", updating, 0.0),
    ]


def table(args: argparse.Namespace, rows: list[tuple[str, float, float]], peak: str) -> str:
    total = sum(seconds for _, seconds, _ in rows)
    out = [f"`python bench/rollout_cost.py {shlex.join(sys.argv[1:])}`", ""]
    out += [
        f"{args.family}, {args.layers} of {FULL[args.family][0]} layers, latents 16 x {args.latent} "
        f"x {args.latent}, {args.steps} steps, {args.group} images, {args.precision}, {args.where}.",
        "",
        "| phase | seconds | share | TFLOP | TFLOP/s | floor, s | times the floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seconds, work in rows:
        cells = [name, f"{seconds:.3f}", f"{seconds / total:.1%}"]
        floor = work / args.peak
        known = [f"{work:.3g}", f"{work / seconds:.3g}", f"{floor:.3g}", f"{seconds / floor:.3g}"]
        out.append("| " + " | ".join(cells + (known if work else ["-"] * 4)) + " |")
    outside = 1 - rows[0][1] / total
    out += [f"| total | {total:.3f} | 100% | | | | |", ""]
    out += [f"Outside the frozen denoiser: {outside:.1%} of the wall time. Peak memory: {peak}."]
    out += [f"Floor at {args.peak:g} TFLOP/s. The paper's shape, rewards included: {PAPER}."]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=sorted(FULL), default="sd35_medium")
    parser.add_argument("--layers", type=int, help="blocks (Flux: twice as many single ones)")
    parser.add_argument("--latent", type=int, default=64, help="cells a side, 64 is 512 px")
    parser.add_argument("--group", type=int, default=16, help="images of the one prompt")
    parser.add_argument("--steps", type=int, help="K; the paper's if not given")
    parser.add_argument("--precision", choices=sorted(DTYPES), help="fp16 on CUDA, else fp32")
    parser.add_argument("--true-cfg", action="store_true", help="Flux: two passes")
    parser.add_argument("--batch", type=int, default=0, help="images a pass, 0 is all")
    parser.add_argument("--decode-batch", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="torch.compile; no FLOP then")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s; H200, dense fp16: 989")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    args.layers = args.layers or FULL[args.family][0]
    args.steps = args.steps or FULL[args.family][1]
    args.precision = args.precision or ("fp16" if cuda else "fp32")
    args.where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    torch.manual_seed(0)
    rows = measure(args, device)
    if cuda:
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the device"
    else:  # KiB, on Linux
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        peak = f"{used:.1f} GiB of the process"
    print(table(args, rows, peak))


if __name__ == "__main__":
    main()
