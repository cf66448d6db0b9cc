"""Figures of an evaluation: metrics against gamma (Fig. 2 of the paper), deviations by step (Fig. 3
and 4), and picture tables (Fig. 5 and 6).

    plot_gamma(path, results)          # needs matplotlib
    columns = tpm_columns(methods)     # title -> method, for grids.write_grid
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import Tensor

from ..run.atomic import whole_file
from .methods import BASELINE, Method
from .statistics import difference
from .tables import NOISE, Result, baseline_of, ordered

COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
HEIGHT, DPI = 5.12, 100  # 512 pixels


def installed() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def canvas(columns: int, rows: int = 1):
    """A figure without a display, 512 px high. Returns it and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    width = max(columns * (4.2 if rows == 1 else 3.4), 6.0)
    figure = Figure(figsize=(width, HEIGHT), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure, path: Path, **how) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", **how)


def plot_gamma(path: Path, results: list[Result]) -> bool:
    """One K: a panel per metric, its mean against gamma, one line per TPM; gamma 0 is the baseline.
    Bars are standard errors of the paired difference. False: no TPM to plot."""
    base = baseline_of(results, results[0].steps)
    names = ordered(base.scores.metrics)
    lines: dict[str, list[Result]] = {}
    for result in results:
        if result.method.kind == "tpm" and result.method.actions != "omega":
            lines.setdefault(result.method.tpm, []).append(result)
    if not lines:
        return False
    rows = 1 if len(names) <= 3 else 2
    figure, axes = canvas(-(-len(names) // rows), rows)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        level = base.scores.metrics[name]
        axis.axhline(float(level.mean()), color="grey", linewidth=0.8, linestyle="--")
        for i, (tpm, own) in enumerate(lines.items()):
            plain = own[0].method.actions == "deviation"  # else omega is left at gamma 0
            points = [(0.0, float(level.mean()), 0.0)] if plain else []
            for r in own:
                values = r.scores.metrics[name]
                points.append((r.method.gamma, float(values.mean()), difference(values, level)[1]))
            gamma, mean, error = zip(*sorted(set(points)), strict=True)
            lifted = own[0].method.lifted
            axis.errorbar(
                gamma,
                mean,
                error,
                color=COLOURS[i % len(COLOURS)],
                marker="s" if lifted else "o",
                linestyle=":" if lifted else "-",
                capsize=3,
                markersize=5,
                label=f"{tpm} ({own[0].method.note})",
            )
        axis.set_title(f"{name} (lower is less noise)" if name == NOISE else name)
        axis.set_xlabel("gamma (0: baseline)")
        axis.set_xticks(sorted({0.0, *(r.method.gamma for own in lines.values() for r in own)}))
        axis.tick_params(labelsize=9)
        axis.margins(y=0.15)
    axes.flat[0].legend(fontsize=9)
    figure.suptitle(f"{results[0].steps} steps, bars: ± 1 s.e. of the difference to {BASELINE}")
    save(figure, path)
    return True


def plot_deviation(path: Path, results: list[Result]) -> bool:
    """One K: what every TPM decides at each grid point at gamma 1: mean, and where 10-90 % of the
    prompts lie; omega where it decides that. False: no TPM to plot."""
    panels: list[tuple[str, Tensor, float, float]] = []  # title, (n, K - 1), lower and upper end
    for r in results:
        if r.method.kind != "tpm" or r.method.gamma != 1:
            continue
        if r.method.actions != "omega":
            bound = r.method.bound
            panels.append((f"{r.method.tpm}: deviation D", r.scores.deviation, -bound, bound))
        if r.method.actions != "deviation":
            low, high = float(r.scores.omega.min()), float(r.scores.omega.max())
            panels.append((f"{r.method.tpm}: omega", r.scores.omega, min(low, 0.5), max(high, 1.5)))
    if not panels:
        return False
    rows = 1 if len(panels) <= 4 else 2
    figure, axes = canvas(-(-len(panels) // rows), rows)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for i, (axis, (title, values, low, high)) in enumerate(zip(axes.flat, panels, strict=False)):
        draw_steps(axis, values, COLOURS[i % len(COLOURS)])
        axis.axhline(1.0 if "omega" in title else 0.0, color="grey", linewidth=0.8)
        margin = 0.05 * (high - low)
        axis.set_ylim(low - margin, high + margin)
        axis.set_title(title)
        axis.set_xlabel("grid point k (no decision at 0)")
    axes.flat[0].legend(fontsize=9)
    figure.suptitle(f"{results[0].steps} steps, {len(panels[0][1])} prompts")
    save(figure, path)
    return True


def draw_steps(axis, values: Tensor, colour: str) -> None:
    """values (n, K - 1): violins, the 10-90 % bar and the mean at every grid point."""
    k = list(range(1, values.shape[1] + 1))
    low, high = (values.quantile(q, dim=0).tolist() for q in (0.1, 0.9))
    parts = axis.violinplot(values.numpy(), k, widths=0.7, showextrema=False)
    for body in parts["bodies"]:
        body.set_facecolor(colour)
        body.set_alpha(0.25)
    axis.vlines(k, low, high, color=colour, linewidth=3, alpha=0.6, label="10-90 % of the prompts")
    axis.plot(k, values.mean(0).tolist(), color=colour, marker="o", label="mean")
    axis.set_xticks(k)


def tpm_columns(methods: list[Method]) -> dict[str, dict[str, Method]]:
    """File name -> column title -> method, Fig. 5: base, a TPM at 50, 100 and 200 % (or the gammas
    there are), and the lifted ones at 100 %. One picture table a TPM that is not lifted."""
    base = {BASELINE: methods[0]}
    own = [m for m in methods if m.kind == "tpm" and m.gamma > 0 and m.actions != "omega"]
    lifted = {m.tpm: m for m in own if m.lifted and m.gamma == 1}
    plain = list(dict.fromkeys(m.tpm for m in own if not m.lifted))
    grids = {}
    for name in plain:
        columns = {f"{m.gamma:.0%}": m for m in own if m.tpm == name}
        file = "grid_tpm" if len(plain) == 1 else f"grid_tpm_{name.replace('/', '_')}"
        titled = {f"lifted {n}" if len(lifted) > 1 else "lifted": m for n, m in lifted.items()}
        grids[file] = base | columns | titled
    if not plain and lifted:
        grids["grid_tpm"] = base | {f"lifted {n}": m for n, m in lifted.items()}
    return grids


def omega_columns(methods: list[Method]) -> dict[str, Method]:
    """Column title -> method, Fig. 6: base, the best fixed D (or that nearest 0.5), every omega."""
    fixed = [m for m in methods if m.kind == "fixed"]
    best = [m for m in fixed if m.best] or sorted(
        fixed, key=lambda m: abs(m.policy.deviation - 0.5)
    )
    omegas = [m for m in methods if m.kind == "omega"]
    omegas += [m for m in methods if m.kind == "tpm" and m.actions == "omega"]
    return {m.name: m for m in (methods[0], *best[:1], *omegas)} if omegas else {}
