"""What one training iteration costs beside the frozen network: seconds a phase, and peak memory.

    python bench/rollout_cost.py --family sd35_medium --layers 2 --latent 32 --group 4

Random weights in the true architecture; the trainer's own rollout, decoding and GRPO update,
without prompts and rewards. The default is the paper's shape and wants a GPU; --layers, --latent
and --group cut it down for a CPU, where small parts weigh more than in truth.
"""

from __future__ import annotations

import argparse
import resource
import time
from types import SimpleNamespace

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from async_timestep.bench.parts import frame
from async_timestep.report.tables import markdown
from async_timestep.tpm.network import TimestepPredictionModule, TPMConfig
from async_timestep.training.backbones.diffusers_common import DTYPES
from async_timestep.training.backbones.flux import Flux
from async_timestep.training.backbones.sampling import Tokens
from async_timestep.training.backbones.sd35 import SD35
from async_timestep.training.grpo.rollout import Actor, rollout
from async_timestep.training.grpo.update import update
from async_timestep.training.run.config import BackboneConfig, GRPOConfig, PolicyConfig
from async_timestep.training.run.distributed import synchronize

# layers, steps of the paper, text tokens with match_comfyui
FULL = {"sd35_medium": (24, 15, 154), "flux1_dev": (19, 10, 256)}
PAPER = "1,233 TFLOP an iteration (SD3.5, CFG), 3,504 (Flux) or 6,944 (Flux, true CFG)"


def random_pipeline(family: str, layers: int, dtype: torch.dtype, device: torch.device):
    """What a backbone asks of a pipeline, without text encoders."""
    flux = family == "flux1_dev"
    torch.set_default_dtype(dtype)
    with device:  # at once where it shall lie: the whole Flux in float32 would not fit everywhere
        if flux:
            transformer = diffusers.FluxTransformer2DModel(
                num_layers=layers,
                num_single_layers=2 * layers,
                guidance_embeds=True,
            )
        else:
            transformer = diffusers.SD3Transformer2DModel(
                num_layers=layers,
                num_attention_heads=24,
                caption_projection_dim=1536,
                pos_embed_max_size=384 if layers == FULL[family][0] else 64,  # gigabytes of sines
                dual_attention_layers=tuple(range(min(13, layers))),
                qk_norm="rms_norm",
            )
        torch.set_default_dtype(torch.float32)
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.5,
            shift_factor=0.06,
        )
    projected = [SimpleNamespace(config=SimpleNamespace(projection_dim=n)) for n in (768, 1280)]
    projected[0].text_projection = SimpleNamespace(weight=torch.eye(768))
    return SimpleNamespace(
        transformer=transformer,
        vae=vae,
        vae_scale_factor=8,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=flux),
        text_encoder=projected[0],
        text_encoder_2=projected[1],
        components={"transformer": transformer, "vae": vae},
    )


def clocked(device: torch.device, run, *inputs) -> tuple:
    """What a call returns, and the seconds until the device was done with it."""
    synchronize(device)
    start = time.perf_counter()
    result = run(*inputs)
    synchronize(device)
    return result, time.perf_counter() - start


def random_backbone(args: argparse.Namespace, device: torch.device):
    """A backbone that clocks its velocity, and one prompt for the whole group."""

    class Random(Flux if args.family == "flux1_dev" else SD35):
        seconds = 0.0

        def load(self):
            return random_pipeline(args.family, args.layers, self.dtype, device)

        def velocity(self, x, t_star, conditioning):
            v, seconds = clocked(device, super().velocity, x, t_star, conditioning)
            self.seconds += seconds
            return v

    mode = "cfg" if args.family == "sd35_medium" or args.true_cfg else "embedded"
    config = BackboneConfig(
        name=args.family,
        precision=args.precision,
        guidance=5.0,
        guidance_mode=mode,
        resolution=8 * args.latent,
        batch=args.batch,
        decode_batch=4,
        compile=args.compile and device.type != "meta",
    )
    backbone = Random(config, device, offload_text=True)  # there is no text encoder to move
    tokens = torch.randn(1, FULL[args.family][2], 4096).to(device, backbone.dtype)
    backbone.empty = tokens, torch.randn(1, backbone.pooled_dim, device=device)
    return backbone, Tokens(("",), *backbone.empty).rows([0] * args.group)


def work(args: argparse.Namespace) -> tuple[float, float]:
    """TFLOP of an iteration's denoising and decoding, counted on tensors without memory."""
    (backbone, prompts), counts = random_backbone(args, torch.device("meta")), []
    one = torch.empty(1, 16, args.latent, args.latent, device="meta")
    calls = ((backbone.velocity, one, one[0, 0, 0, :1], prompts.rows([0])), (backbone.decode, one))
    for run, *inputs in calls:
        with FlopCounterMode(display=False) as counter:
            run(*inputs)
        counts.append(counter.get_total_flops() * args.group / 1e12)
    return counts[0] * args.steps, counts[1]


def measure(args: argparse.Namespace, device: torch.device) -> list[tuple[str, float, float]]:
    """(phase, seconds, TFLOP or 0) of one iteration after a warm-up."""
    backbone, prompts = random_backbone(args, device)
    policy, grpo = PolicyConfig(), GRPOConfig(num_generations=args.group)
    network = TPMConfig(
        pooled_dim=backbone.pooled_dim,
        pooled_split=backbone.pooled_split,
        raw_cap=policy.raw_cap,
        global_conditioning=policy.global_conditioning,
    )
    module = TimestepPredictionModule(network).to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=grpo.lr)
    seeds = [torch.Generator().manual_seed(i) for i in range(args.group)]
    noise, sigmas = backbone.noise(seeds), backbone.sigmas(args.steps)
    if device.type == "cuda" or args.compile:  # the first call looks for kernels
        backbone.velocity(noise, torch.ones(args.group, device=device), prompts)
        backbone.decode(noise)
    backbone.seconds = 0.0

    actor = Actor(module, policy, seeds)
    (latents, states), sampling = clocked(device, rollout, backbone, actor, prompts, noise, sigmas)
    images, decoding = clocked(device, backbone.decode, latents)
    if not images.isfinite().all():
        raise SystemExit("The random network's values are not finite; try --precision fp32.")
    advantage, alive = torch.linspace(-1, 1, args.group)[None], torch.ones(1, dtype=torch.bool)
    result, updating = clocked(device, update, module, optimizer, states, advantage, alive, grpo)
    denoise, decode = work(args)
    return [
        ("denoiser, frozen", backbone.seconds, denoise),
        ("TPM decides", actor.seconds, 0.0),
        ("integration, states", sampling - backbone.seconds - actor.seconds, 0.0),
        ("decode", decoding, decode),
        (f"TPM update, {result.optimizer_steps} optimizer steps", updating, 0.0),
    ]


def table(args: argparse.Namespace, rows: list[tuple[str, float, float]], peak: str) -> str:
    total = sum(seconds for _, seconds, _ in rows)
    shape = f"latents 16 x {args.latent} x {args.latent}, {args.steps} steps, {args.group} images"
    head = ["phase", "seconds", "share", "TFLOP", "TFLOP/s", "floor, s", "times the floor"]
    told = f"{args.family} of {args.layers} layers, {shape}, {args.precision}, {args.where}."
    lines = []
    for name, seconds, flop in rows:
        cells = [name, f"{seconds:.3f}", f"{seconds / total:.1%}", *["-"] * 4]
        if flop:
            floor = flop / args.peak
            cells[3:] = (f"{n:.3g}" for n in (flop, flop / seconds, floor, seconds / floor))
        lines.append(cells)
    lines.append(["total", f"{total:.3f}", "100%", "", "", "", ""])
    outside = 1 - rows[0][1] / total
    legend = (
        f"Outside the frozen denoiser: {outside:.1%} of the wall time. Peak memory: {peak}.\n"
        f"Floor at {args.peak:g} TFLOP/s. The paper's shape, with rewards: {PAPER}."
    )
    return frame.page([f"`{frame.command('rollout_cost')}`", told, markdown(head, lines), legend])


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--family", choices=sorted(FULL), default="sd35_medium")
    parser.add_argument("--layers", type=int, help="blocks (Flux: twice as many single ones)")
    parser.add_argument("--latent", type=int, default=64, help="cells a side, 64 is 512 px")
    parser.add_argument("--group", type=int, default=16, help="images of the one prompt")
    parser.add_argument("--steps", type=int, help="K; the paper's if not given")
    parser.add_argument("--precision", choices=sorted(DTYPES), help="fp16 on CUDA, else fp32")
    parser.add_argument("--true-cfg", action="store_true", help="Flux: two passes")
    parser.add_argument("--batch", type=int, default=0, help="images a pass; 0: all")
    parser.add_argument("--compile", action="store_true", help="torch.compile the frozen network")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s; H200, dense fp16: 989")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.manual_seed(0)
    layers, steps, _ = FULL[args.family]
    args.layers, args.steps = args.layers or layers, args.steps or steps
    args.precision = args.precision or ("fp16" if cuda else "fp32")
    args.where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    rows = measure(args, torch.device("cuda" if cuda else "cpu"))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB, on Linux
    used = torch.cuda.max_memory_allocated() if cuda else most
    peak = f"{used / 2**30:.1f} GiB of the {'device' if cuda else 'process'}"
    print(table(args, rows, peak), end="")


if __name__ == "__main__":
    main()
