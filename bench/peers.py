"""This pack beside the nodes that users would pick instead: cost, and what each does to the field.

    python bench/peers.py --detail-daemon CHECKOUT --selective-sigma CHECKOUT --out peers.md

One process, one graph, one seed, Euler; the peers' nodes run unchanged from the checkouts. The
variants take turns, round after round; a ratio is taken inside a round, `stock again` shows the
noise. Milliseconds are the process's CPU time. The field is measured from outside, see
bench/parts/peers_field.py. Without a checkout its rows are left out.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import peers_load as load
from async_timestep.bench.parts.memory import MIB, memory, size
from async_timestep.bench.parts.peers_field import Field, measure
from async_timestep.bench.parts.peers_methods import detail_daemon, deviated, five_points
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown

STOCK, AGAIN = "stock Euler", "stock again"
CUT = 0.1  # of sigma, at its highest, for every method that is set by a cut
HEAD = (
    "", "network calls, 8 steps", "ms a step", "time / stock", "peak memory / stock",
    "step / network output", "rest", "time told / true", "input scale / true", "sigma in schedule",
)  # fmt: skip


@dataclass
class Variant:
    model: object
    sampler: object
    own_levels: bool = False  # of each pixel
    mapped: bool = False  # a time for every pixel


def variants(setup: load.Setup, peers: dict) -> dict[str, Variant]:
    """By the row's name. Every method with a cut takes 10 % of sigma at its peak."""
    import comfy.samplers

    euler, model = comfy.samplers.sampler_object("euler"), setup.model
    out = {STOCK: Variant(model, euler), AGAIN: Variant(model, euler)}
    out["Deviation 0.5"] = Variant(deviated(model, 0.5), euler)
    bump = {"unit": "percent", "curve": five_points(setup.steps)}
    out["Deviation 1 percent, bump"] = Variant(deviated(model, 1.0, **bump), euler)
    bump["mode"] = "follow_time"
    out["the same, follow_time"] = Variant(deviated(model, 1.0, **bump), euler)
    if setup.tpm is not None:
        out["TPM"] = Variant(deviated(model, setup.tpm), euler)
    region = pack("nodes.run.region").Region("mask", mask=load.central(setup))
    out["Deviation 0.5 in a mask"] = Variant(deviated(model, 0.5, region), euler, mapped=True)
    asyndm = pack("nodes.run.asyndm").asyndm_sampler(region, 0.5)[0]
    out["AsynDM in a mask"] = Variant(model, asyndm, own_levels=True, mapped=True)
    if "detail_daemon" in peers:
        nodes = peers["detail_daemon"]
        daemon = detail_daemon(nodes, euler, detail_amount=10 * CUT, cfg_scale_override=1.0)
        out["Detail Daemon"] = Variant(model, daemon)
        node = nodes.NODE_CLASS_MAPPINGS["LyingSigmaSampler"]
        lying = node.go(euler, -CUT, start_percent=0.1, end_percent=0.9)[0]
        out["Lying Sigma"] = Variant(model, lying)
    if "selective_sigma" in peers:
        node = peers["selective_sigma"].NODE_CLASS_MAPPINGS["SelectiveSigmaDetailerNode"]
        out["Selective Sigma Detailer"] = Variant(model, node().go(euler, CUT, 0.5)[0])
    return out


def costs(setup: load.Setup, rows: dict[str, Variant], rounds: int):
    """({name: CPU milliseconds of a step, one per round}, {name: peak bytes})."""
    import comfy.model_management as mm

    mm.load_models_gpu([setup.model])
    weights, names = size(setup.model.model.diffusion_model), list(rows)
    ms, peaks = {name: [] for name in rows}, {}

    def once(name: str) -> float:
        gc.collect()
        started = time.process_time()
        load.sample(setup, rows[name].model, rows[name].sampler)
        return (time.process_time() - started) * 1e3 / setup.steps

    for name in names:  # warms up, and the memory
        held = weights + (size(setup.tpm.module) if name == "TPM" else 0)
        peaks[name] = memory(lambda name=name: once(name), held, False)
    for n in range(rounds):
        turn = n % len(names)
        for name in names[turn:] + names[:turn]:
            ms[name].append(once(name))
    return ms, peaks


def span(values: list[float]) -> str:
    """One number where all agree to three places, else lowest to highest."""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def table_row(name: str, ms: dict, peaks: dict, seen: Field, times_seen: bool) -> list[str]:
    ratios = sorted(a / b for a, b in zip(ms[name], ms[STOCK], strict=True))
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    return [
        name,
        str(seen.calls),
        f"{statistics.median(ms[name]):.2f}",
        f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})" if name != STOCK else "1",
        f"{peaks[name] / peaks[STOCK]:.3f}",
        span(seen.length),
        f"{max(seen.rest):.0e}",
        span([t for pair in seen.time for t in pair]) if times_seen else "a map",
        span(seen.scale),
        f"{seen.found} of {seen.calls}",
    ]


def table(setup: load.Setup, peers: dict, rounds: int) -> str:
    rows = variants(setup, peers)
    ms, peaks = costs(setup, rows, rounds)
    seen = {name: measure(setup, v.model, v.sampler, v.own_levels) for name, v in rows.items()}
    embedder = hasattr(setup.model.model.diffusion_model, "t_embedder")
    shape = " x ".join(map(str, setup.latent.shape))
    told = (
        f"Latents {shape}, {setup.steps} steps, {rounds} rounds, peak memory of stock "
        f"{peaks[STOCK] / MIB:.0f} MiB."
    )
    cells = [table_row(n, ms, peaks, seen[n], embedder or not v.mapped) for n, v in rows.items()]
    return frame.page([f"## {setup.title}", told, markdown(HEAD, cells)])


LEGEND = f"""\
Settings: every method that is set by a cut takes {CUT:.0%} of sigma at its peak (Detail Daemon
`detail_amount` 1 and `cfg_scale_override` 1, its default curve; Selective Sigma Detailer `strength`
0.1, `coverage` 0.5; Lying Sigma -0.1 from 0.1 to 0.9). "Bump" is Detail Daemon's curve drawn with
five points. The mask is the middle quarter.

- **network calls**: real calls of the diffusion model, counted by a hook (cond and uncond in one).
- **time**: ratio to stock in the same round, median (quartiles). `stock again` is stock under
  another name: what it is off 1 is noise.
- **step / network output**: the factor between the sampler's derivative (x - denoised) / sigma and
  the network's guided raw output of the same step, lowest to highest over the steps. 1: the step
  keeps its length. For AsynDM, the step that each pixel took between its own levels.
- **rest**: the largest part of the derivative that no factor explains. Above 1e-3 the sampler
  follows a mixture of outputs.
- **time told / true**: as noise levels, lowest to highest over steps and pixels. Below 1: cleaner.
  "A map": the UNet embeds its times before the module that could be watched.
- **input scale / true**: of what the network is given.
- **sigma in schedule**: in how many calls a node on the model finds the call's sigma in
  `sample_sigmas`, which context windows and other packs look up.
"""


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--detail-daemon", type=Path, help="a checkout of ComfyUI-Detail-Daemon")
    parser.add_argument(
        "--selective-sigma", type=Path, help="a checkout of ComfyUI-Selective-Sigma-Detailer"
    )
    parser.add_argument("--rounds", type=int, default=6, help="of the wide model; others 4 times")
    frame.page_option(parser)
    args = parser.parse_args()
    frame.comfyui()
    peers, told = {}, []
    for key in ("detail_daemon", "selective_sigma"):
        folder, flag = getattr(args, key), "--" + key.replace("_", "-")
        if folder is None:
            told.append(f"No checkout was given with `{flag}`: its rows are left out.")
            continue
        peers[key] = load.import_checkout(folder, f"peer_{key}")
        told.append(f"{folder.resolve().name} at {load.commit(folder) or 'an unknown commit'}.")
    told.append(frame.machine("CPU, 1 thread"))
    shown = frame.chosen(args, detail_daemon="CHECKOUT", selective_sigma="CHECKOUT", rounds="")
    made_by = frame.made_by(frame.command("peers", shown))
    parts = ["# Beside its peers", made_by, "\n".join(told), LEGEND]
    for make, rounds in ((load.wide, 1), (load.embedded, 4), (load.unet, 4)):
        parts.append(table(make(), peers, rounds * args.rounds))
        print(parts[-1], end="", flush=True)
    frame.write_page(args.out, parts)


if __name__ == "__main__":
    main()
