"""Peak memory that AsynDM adds at 1024 x 1024 in 16 bits, beside weights and activations.

Computed from the shapes of Flux.1 and SDXL, which do not fit a small machine. bench/asyndm.py
prints it below what it measured.
"""

from __future__ import annotations

from async_timestep.bench.parts import frame
from async_timestep.bench.parts.memory import MIB
from async_timestep.report.tables import markdown


def computed(block: int) -> str:
    """A table; `block` is how many scores the reading of attention holds at once."""
    half, rows = 2, []
    scores = 3 * 4 * block  # scores in 16 and 32 bits, their softmax in 32, of some heads

    def row(name: str, added: float, weights: float, active: float) -> None:
        whole = (weights + active) / MIB
        rows.append([name, f"{added / MIB:.1f}", f"{whole:.0f}", f"{added / MIB / whole:.2%}"])

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
    table = markdown(["", "added MiB", "weights + activations MiB", "share"], rows)
    return frame.page(["## Memory at 1024 x 1024, computed", table])
