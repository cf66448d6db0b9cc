"""The noise meter and the demo model's own parts on pictures and latents that are none."""

from __future__ import annotations

import pytest
import torch

NAN = float("nan")
NO_PICTURE = r"The latent has the shape \[.*\], in which there is no picture, expected one image"


def test_the_meter_leaves_out_what_is_not_finite(pack):
    measured = pack("nodes.plot").measured_noise
    images = torch.rand(3, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    images[1, 4, 4, 0] = NAN
    level, where, lines = measured(images)
    assert lines[1] == "image 1: not finite, not measured" and lines[0].endswith(" of 255")
    assert level == pytest.approx(measured(images[[0, 2]])[0]) and not bool(where[1].any())
    assert bool(where.isfinite().all()) and bool(where[0].any())


def test_one_channel_is_grey_for_the_meter(pack):
    grey = torch.rand(1, 16, 16, 1, generator=torch.Generator().manual_seed(0))
    measured = pack("nodes.plot").measured_noise
    one, three = measured(grey), measured(grey.expand(-1, -1, -1, 3))
    assert one[0] == three[0] > 0 and torch.equal(one[1], three[1])


@pytest.mark.parametrize("size", [(1, 1, 3), (7, 64, 3), (0, 0, 3), (8, 8, 1), (8, 8, 2)])
def test_the_demo_autoencoder_refuses_what_is_no_picture(pack, size):
    vae = pack("nodes.demo").load_demo_vae()
    with pytest.raises(ValueError, match="VAE found an image of shape .* larger RGB image"):
        vae.encode(torch.zeros(1, *size))
    assert vae.encode(torch.zeros(1, 8, 8, 4)).shape == (1, 16, 1, 1)
    assert vae.decode(torch.zeros(1, 16, 1, 1)).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="VAE found a latent of shape .* 16, height, width"):
        vae.decode(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("shape", [(0, 16, 8, 8), (1, 16, 0, 0), (1, 16, 8, 0)])
def test_the_demo_model_refuses_an_empty_latent(pack, shape):
    def executor(*args, **kwargs):
        pytest.fail("it was sampled")

    with pytest.raises(ValueError, match=NO_PICTURE):
        pack("nodes.demo").checked_latent(executor, None, torch.zeros(shape))
