"""The noise meter as a metric: give it a negative weight, and noise is a penalty.

The paper's own gap (section 6): its four rewards do not see residual high-frequency noise.
"""

from __future__ import annotations

from torch import Tensor

from tpm.noise import noise_residual


class NoiseReward:
    """`noise`: level of high-frequency noise in [0, 1] units of the image; larger is noisier."""

    names = ("noise",)

    def __call__(self, images: Tensor, prompts: list[str]) -> dict[str, Tensor]:
        return {"noise": noise_residual(images.movedim(1, -1))[0]}
