"""The grounds of the pictures: textures that are random in every picture, made with numpy.

Each is one tile that repeats without a seam; a picture shows a random cut of it. Their detail is
three pixels and coarser, so that the autoencoder can keep it.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.spatial import cKDTree

GROUNDS = ("grass", "gravel", "cloth", "clouds", "sand", "water")
TILE = 512  # pixels
SEED = 20


def field(rng: np.random.Generator, across: float, down: float = 0.0) -> np.ndarray:
    """Gaussian field (TILE, TILE), mean 0 and standard deviation 1: white noise, blurred by
    `across` pixels in x and `down` in y (0: the same)."""
    fx, fy = np.fft.fftfreq(TILE)[None, :], np.fft.fftfreq(TILE)[:, None]
    low = np.exp(-2 * np.pi**2 * ((across * fx) ** 2 + ((down or across) * fy) ** 2))
    low[0, 0] = 0
    values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((TILE, TILE))) * low).real
    return values / values.std()


def fractal(rng: np.random.Generator, power: float, finest: float) -> np.ndarray:
    """Field with the amplitude spectrum f^-power, nothing finer than `finest` pixels; mean 0 and
    standard deviation 1."""
    f = np.hypot(np.fft.fftfreq(TILE)[None, :], np.fft.fftfreq(TILE)[:, None])
    f[0, 0] = np.inf
    low = np.maximum(f, 1 / 200) ** -power * np.exp(-2 * (np.pi * finest * f) ** 2)
    low[0, 0] = 0
    values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((TILE, TILE))) * low).real
    return values / values.std()


def mix(share: np.ndarray, *colours: tuple[float, float, float]) -> np.ndarray:
    """Colours along a line of stops: share (H, W) in [0, 1] -> (3, H, W)."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(share, stops, channel) for channel in zip(*colours, strict=True)])


def grass(rng: np.random.Generator) -> np.ndarray:
    """Blades: streaks that stand up, in patches of another green."""
    blades = 0.75 * field(rng, 1.3, 5.0) + 0.45 * field(rng, 14)
    return mix(0.5 + 0.24 * blades, (0.14, 0.33, 0.13), (0.33, 0.54, 0.20), (0.58, 0.74, 0.33))


def gravel(rng: np.random.Generator) -> np.ndarray:
    """Pebbles: cells around random points, each of its own grey, with dark gaps."""
    across = 13  # pixels between two pebbles
    n = TILE // across
    points = (np.stack(np.meshgrid(range(n), range(n)), -1).reshape(-1, 2) + 0.5) * TILE / n
    points = (points + rng.uniform(-4.5, 4.5, points.shape)) % TILE
    grid = np.stack(np.meshgrid(np.arange(TILE), np.arange(TILE)), -1) + 0.5
    gap, nearest = cKDTree(points, boxsize=TILE).query(grid.reshape(-1, 2), k=2)
    edge = np.clip((gap[:, 1] - gap[:, 0] - 0.5) / 4, 0, 1).reshape(TILE, TILE)
    grey = rng.normal(0.60, 0.09, len(points))[nearest[:, 0]].reshape(TILE, TILE)
    tint = rng.normal(0, 0.02, len(points))[nearest[:, 0]].reshape(TILE, TILE)
    light = grey * (0.50 + 0.50 * edge) + 0.015 * field(rng, 1.5)
    return np.clip(np.stack([light + tint, light, light - tint - 0.01]), 0, 1)


def cloth(rng: np.random.Generator) -> np.ndarray:
    """A weave: threads of 8 pixels over and under each other, each of its own strength."""
    y, x = np.mgrid[:TILE, :TILE]
    over = ((x // 8 + y // 8) % 2).astype(float)
    rib_x, rib_y = np.abs(np.sin(np.pi * (x + 0.5) / 8)), np.abs(np.sin(np.pi * (y + 0.5) / 8))
    warp = rng.normal(0, 0.05, TILE // 8)[x // 8] + 0.10 * rib_x
    weft = rng.normal(0, 0.05, TILE // 8)[y // 8] + 0.10 * rib_y
    light = over * warp + (1 - over) * weft + 0.02 * field(rng, 1.5)
    return np.clip(np.array([0.45, 0.40, 0.58])[:, None, None] + light - 0.03, 0, 1)


def clouds(rng: np.random.Generator) -> np.ndarray:
    """White on blue, at all sizes."""
    share = 0.45 + 0.28 * fractal(rng, 1.6, 1.5)
    return mix(share, (0.33, 0.58, 0.86), (0.52, 0.72, 0.92), (0.93, 0.95, 0.98))


def sand(rng: np.random.Generator) -> np.ndarray:
    """Grains over soft ripples of the wind."""
    y, x = np.mgrid[:TILE, :TILE]
    ripple = np.sin(2 * np.pi * (y * 20 + x * 4) / TILE + 1.3 * field(rng, 22))
    light = 0.028 * ripple + 0.045 * field(rng, 1.2)
    return np.clip(
        np.array([0.87, 0.77, 0.56])[:, None, None] + light * [[[1.0]], [[1.0]], [[0.9]]], 0, 1
    )


def water(rng: np.random.Generator) -> np.ndarray:
    """Lying ripples, with light on the highest."""
    waves = 0.8 * field(rng, 7, 2.2) + 0.5 * field(rng, 18, 4)
    share = np.clip(0.40 + 0.2 * waves + 0.25 * np.clip(waves - 0.9, 0, 1), 0, 1)
    return mix(share, (0.03, 0.28, 0.42), (0.08, 0.45, 0.58), (0.62, 0.86, 0.90))


@functools.cache
def tile(ground: str) -> torch.Tensor:
    """The texture, (3, TILE, TILE) in [0, 1]; the same in every process."""
    rng = np.random.default_rng([SEED, GROUNDS.index(ground)])
    return torch.from_numpy(globals()[ground](rng)).float()


def cut(ground: str, size: int, rng: torch.Generator) -> torch.Tensor:
    """A random part (3, size, size) of the texture, half of them mirrored."""
    y, x, mirrored = torch.randint(2**30, (3,), generator=rng).tolist()
    rows, columns = (torch.arange(start, start + size) % TILE for start in (y % TILE, x % TILE))
    part = tile(ground)[:, rows[:, None], columns]
    return part.flip(-1) if mirrored % 2 else part
