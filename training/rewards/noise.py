"""The noise meter as metrics: give one a negative weight, and noise is a penalty.

The paper's own gap (section 6): its four rewards do not see residual high-frequency noise. What
each of these sees is measured in docs/measurements/noise_meter.md.
"""

from __future__ import annotations

from torch import Tensor

from ...report.noise import MAP_WHITE, noise_residual

QUIET = 0.1  # share of the image


class NoiseReward:
    """`noise`: level of high-frequency noise in [0, 1] units of the image; larger is noisier.
    `noise_floor`: the same where the image is quietest (the tenth's upper end of the local map):
    detail that fills only a part of the image does not raise it, noise raises it everywhere."""

    def __init__(self, names: tuple[str, ...] = ("noise",)):
        if not names or set(names) - {"noise", "noise_floor"}:
            raise ValueError(f"The noise meter was asked for {names}, expected noise, noise_floor.")
        self.names = names

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        """images (B, 3, H, W) in [0, 1] -> metric -> (B,)."""
        level, where = noise_residual(images.movedim(1, -1))
        floor = MAP_WHITE * where.flatten(1).quantile(QUIET, dim=1)
        found = {"noise": level, "noise_floor": floor}
        return {name: found[name] for name in self.names}
