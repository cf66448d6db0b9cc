"""From Detail Daemon's settings to this pack's: the numbers of docs/guides/detail_daemon.md.

    python bench/peers_conversion.py --detail-daemon CHECKOUT --picture detail_daemon.png

Its node runs unchanged from the checkout. Every cut is the one that the network was told, read at
the network; the tables go to the screen.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from async_timestep.bench.parts import frame
from async_timestep.bench.parts import peers_load as load
from async_timestep.bench.parts import peers_sides as sides
from async_timestep.bench.parts.peers_field import measure
from async_timestep.bench.parts.peers_methods import detail_daemon, deviated, five_points
from async_timestep.harness.in_process import pack
from async_timestep.report.tables import markdown

STEPS = (8, 15, 28)
UNIT = 0.1  # unit percent: a deviation of 1 is 10 % off the time


def euler(name: str = "euler"):
    import comfy.samplers

    return comfy.samplers.sampler_object(name)


def daemon_cuts(daemon, steps: int, peak: float) -> list[float]:
    """sigma' = (1 - cut) sigma at every step, for its default curve with this highest cut."""
    make = sys.modules[f"{daemon.__name__}.detail_daemon_node"].make_detail_daemon_schedule
    shape = make(steps, 0.2, 0.8, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, True)
    return [peak * float(s) for s in shape]


def points_of(values: list[float]) -> tuple[float, list[tuple[float, float]]]:
    """(deviation, curve): the Deviation node then has these values at k = 0 ... K-1."""
    highest = max(values)
    return highest, [(k / len(values), v / highest) for k, v in enumerate(values)]


def cuts_told(setup: load.Setup, model=None, sampler=None) -> list[float]:
    """Share of sigma that is cut, as the network is told, a step each."""
    return [1 - low for low, _ in measure(setup, model, sampler).time]


def matching(setup: load.Setup, cuts: list[float], sigmas: torch.Tensor) -> list[float]:
    """Deviation in unit percent whose time stands for (1 - cut) sigma, at every step.

    A flow model's time is its sigma. For eps and v models the time is an index into the noise
    table: its noise level is looked up between two entries.
    """
    from comfy.model_sampling import CONST

    sampling = setup.model.get_model_object("model_sampling")
    if isinstance(sampling, CONST):
        return [cut / UNIT for cut in cuts]
    table, index = sampling.log_sigmas.double(), torch.arange(len(sampling.log_sigmas)).double()
    out = []
    for cut, sigma in zip(cuts, sigmas[:-1].double(), strict=True):
        u = float(sampling.timestep(sigma.float()))
        wanted = (torch.log(torch.exp(table[int(u)]) * (1 - cut))).reshape(1)
        i = int(torch.searchsorted(table, wanted).clamp(1, len(table) - 1))
        part = float((wanted - table[i - 1]) / (table[i] - table[i - 1]))
        out.append(0.0 if cut == 0 or u == 0 else (1 - (float(index[i - 1]) + part) / u) / UNIT)
    return out


def shape_table(daemon) -> str:
    rows = []
    curve_of = pack("nodes.deviation").comfy_api.input.CurveInput.from_raw
    for steps in STEPS:
        cuts, row = daemon_cuts(daemon, steps, 1.0), []
        for points in (five_points(steps), five_points()):
            shape = curve_of(points)
            off = max(abs(shape.interp(k / steps) - c) for k, c in enumerate(cuts))
            row.append(f"{100 * off:.1f} %")
        own = [round(x * (steps - 1)) for x in (0.2, 0.5, 0.8)]
        shown = ", ".join(f"{x:.3f}" for x, _ in five_points(steps)[1:-1])
        rows.append([steps, ", ".join(map(str, own)), f"{shown}: {row[0]} off", f"{row[1]} off"])
    head = ["steps", "its start, peak, end (step)", "curve points x", "x = 0.2, 0.5, 0.8"]
    return markdown(head, rows)


def amount_table(setups: dict) -> str:
    """Deviation (percent) at the step of its peak, for 1 %, 5 % and 10 % of sigma."""
    rows = []
    for (name, scheduler), setup in setups.items():
        for steps in STEPS:
            sigmas = load.sigmas_of(setup, steps, scheduler)
            peak = round(0.5 * (steps - 1))
            row = [f"{name}, {scheduler}, {steps} steps"]
            for cut in (0.01, 0.05, 0.1, 0.2):
                row.append(f"{matching(setup, [cut] * (len(sigmas) - 1), sigmas)[peak]:.2f}")
            rows.append(row)
    return markdown(["", "1 %", "5 %", "10 %", "20 %"], rows)


def interval_table(setups: dict) -> str:
    """The cut, in % of sigma, of a constant Deviation in the unit interval."""
    head, parts = ["D", *(f"{s} steps: first, middle, last" for s in STEPS)], []
    for (name, scheduler), setup in setups.items():
        rows = []
        for deviation in (0.2, 0.5, 1.0):
            row = [f"{deviation:g}"]
            for steps in STEPS:
                setup.steps = steps
                model = deviated(setup.model, deviation)
                cuts = [100 * c for c in cuts_told(setup, model)]
                row.append(f"{cuts[1]:.1f}, {cuts[steps // 2]:.1f}, {cuts[-1]:.1f}")
            rows.append(row)
        parts += [f"{name}, {scheduler}:", markdown(head, rows)]
    return frame.page(parts)


def same_run_table(daemon, setups: list[load.Setup], peak: float) -> str:
    """Final latents: its node against ours with its cuts; largest difference / largest value."""
    head = ["", "steps", "stock", "every step's cut, follow_time", "five points, follow_time"]
    lines = []
    for setup in setups:
        for sampler, steps in [("euler", s) for s in STEPS] + [("dpmpp_2m", 15)]:
            setup.steps = steps
            sigmas = load.sigmas_of(setup, steps)
            node = detail_daemon(daemon, euler(sampler), detail_amount=peak / UNIT / setup.cfg)
            theirs = load.sample(setup, sampler=node)
            wanted = matching(setup, daemon_cuts(daemon, steps, peak), sigmas)
            deviation, points = points_of(wanted)
            rows = [load.sample(setup, sampler=euler(sampler))]
            for curve, mode in (
                (points, "follow_time"),
                (five_points(steps), "follow_time"),
                (points, "conditioning"),
            ):
                model = deviated(setup.model, deviation, unit="percent", mode=mode, curve=curve)
                rows.append(load.sample(setup, model, euler(sampler)))
            shown = [f"{load.relative(ours, theirs):.1e}" for ours in rows]
            lines.append([f"{setup.title.split(',')[0]}, {sampler}", steps, *shown])
    return markdown([*head, "every step's cut, conditioning"], lines)


def main() -> None:
    parser = frame.parser(__doc__)
    parser.add_argument("--detail-daemon", type=Path, required=True, help="a checkout of its pack")
    parser.add_argument("--picture", type=Path, help="write the curves' picture here")
    args = parser.parse_args()
    frame.comfyui()
    daemon = load.import_checkout(args.detail_daemon, "peer_detail_daemon")
    embedded, unet = load.embedded(), load.unet()
    with tempfile.TemporaryDirectory() as folder:
        flux = load.flux(Path(folder))
    flow = {("flow, shift 3", "simple"): embedded}
    eps = {("eps", "normal"): unet, ("eps", "karras"): unet}
    parts = {
        "Its default curve as five points": lambda: shape_table(daemon),
        "Deviation in percent for a cut of sigma at its peak": lambda: amount_table(flow | eps),
        "What the unit interval cuts (%)": lambda: interval_table(flow | {("eps", "simple"): unet}),
        "Final latents, peak cut 10 %": lambda: same_run_table(daemon, [embedded, flux, unet], 0.1),
        "What else changes": lambda: sides.table(daemon, embedded),
    }
    for title, make in parts.items():
        print(frame.page([f"## {title}", make()]), flush=True)
    if args.picture:
        sides.picture(daemon, embedded, args.picture)


if __name__ == "__main__":
    main()
