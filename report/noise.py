"""How much fine noise is left in an image: the price of a large deviation, measured."""

from __future__ import annotations

import torch
from torch.nn import functional as F

KERNEL = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))  # difference of two Laplacians
GAIN = 6.0  # its response to white noise of std s has std 6 s: the root of the sum of squares
MAD_TO_STD = 1.4826  # of a normal distribution
MEAN_TO_STD = 1.2533  # sqrt(pi / 2), mean of the absolute value
LUMINANCE = (0.299, 0.587, 0.114)
WINDOW = 7  # pixels a side of the local mean
MAP_WHITE = 0.05  # noise std that the map shows as 1; fixed, so that two maps can be compared


def noise_residual(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise level (B,) and map (B, H, W) in [0, 1] of images (B, H, W, 3) in [0, 1].

    level: the std of the white noise that would answer a 3x3 second-difference kernel the same
    way (Immerkaer, "Fast noise variance estimation", 1996), taken as 1.4826 * median |response|
    (Donoho, 1995) instead of the mean, so that edges and lines hardly count. In units of the
    image's range, of luminance: independent noise in R, G and B counts 0.67 of its std. Fine
    texture counts as noise, so compare images of one seed. map: the same from the local mean;
    1 is a std of 0.05. NaN where a pixel is not finite. Raises ValueError on other shapes, on
    images smaller than 3x3 and on an empty batch.
    """
    if image.ndim == 4 and len(image) == 0:
        raise ValueError(
            f"The noise meter found no image (a batch of shape {list(image.shape)}), expected one "
            "or more; look for the node that left none."
        )
    if image.ndim != 4 or image.shape[-1] != 3 or min(image.shape[1:3]) < 3:
        raise ValueError(
            f"The noise meter found an image of shape {list(image.shape)}, expected (batch, "
            "height, width, 3) with 3 pixels or more a side; give it a larger RGB image."
        )
    image = image.float()
    grey = (image * image.new_tensor(LUMINANCE)).sum(dim=-1)[:, None]
    response = F.conv2d(grey, image.new_tensor(KERNEL)[None, None]).abs() / GAIN
    level = MAD_TO_STD * response.flatten(1).median(dim=1).values

    local = F.avg_pool2d(response, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    where = F.pad(local, (1, 1, 1, 1), mode="replicate")[:, 0]
    return level, (where * MEAN_TO_STD / MAP_WHITE).clamp(0, 1)
