"""The noise meter finds noise of known strength, and little else."""

import pytest
import torch

from async_timestep.report.noise import MAP_WHITE, noise_residual


def smooth(batch=1, height=160, width=200) -> torch.Tensor:
    """A slope with a wave (B, H, W, 3), far from 0 and 1 so that noise is not clipped."""
    y = torch.linspace(0, 1, height)[:, None]
    x = torch.linspace(0, 1, width)[None]
    grey = 0.4 + 0.1 * x + 0.1 * y + 0.05 * torch.sin(6 * x + 4 * y)
    return grey[None, ..., None].expand(batch, -1, -1, 3).clone()


def noise(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("std", [0.004, 0.02, 0.05])
def test_known_noise_is_recovered_within_5_percent(std):
    level, _ = noise_residual(smooth() + std * noise(1, 160, 200, 1))
    assert float(level) == pytest.approx(std, rel=0.05)


def test_independent_colour_noise_counts_by_luminance():
    level, _ = noise_residual(smooth() + 0.02 * noise(1, 160, 200, 3))
    weight = (0.299**2 + 0.587**2 + 0.114**2) ** 0.5
    assert float(level) == pytest.approx(0.02 * weight, rel=0.05)


def test_a_smooth_image_has_almost_none():
    level, where = noise_residual(smooth())
    assert float(level) < 2e-5 and float(where.max()) < 2e-3


def test_edges_do_not_count():
    image = smooth() + 0.01 * noise(1, 160, 200, 1)
    image[:, 40:120, 60:140] += 0.3
    image[:, :, ::40] -= 0.2
    assert float(noise_residual(image)[0]) == pytest.approx(0.01, rel=0.12)


def test_every_image_is_measured_alone():
    image = smooth(3) + torch.tensor([0.0, 0.01, 0.03]).view(3, 1, 1, 1) * noise(3, 160, 200, 1)
    level, where = noise_residual(image)
    assert level.shape == (3,) and where.shape == (3, 160, 200)
    assert level.tolist() == pytest.approx([0.0, 0.01, 0.03], rel=0.05, abs=2e-5)
    torch.testing.assert_close(noise_residual(image[1:2])[1], where[1:2])


def test_the_map_shows_where():
    image = smooth()
    image[:, :, 100:] += 0.02 * noise(1, 160, 100, 1)
    where = noise_residual(image)[1][0]
    assert float(where[:, :94].max()) < 0.01  # 94: half a window and the kernel before the border
    assert float(where[:, 106:].mean()) == pytest.approx(0.02 / MAP_WHITE, rel=0.05)
    assert float(noise_residual(image + noise(1, 160, 200, 1))[1].max()) == 1.0


@pytest.mark.parametrize(
    "shape", [(1, 2, 9, 3), (1, 9, 2, 3), (9, 9, 3), (1, 9, 9, 4), (0, 9, 9, 3), (1, 0, 0, 3)]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        noise_residual(torch.zeros(shape))


def test_the_smallest_image():
    level, where = noise_residual(torch.rand(1, 3, 3, 3))
    assert level.shape == (1,) and where.shape == (1, 3, 3)
