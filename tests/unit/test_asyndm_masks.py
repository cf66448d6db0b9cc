"""From attention to a weight for every latent cell: thresholds, overlap, sizes, tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from async_timestep.maps.masks import (
    grown_then_inverted,
    mean_per_token,
    merge_words,
    nearest,
    word_masks,
)

often = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds, sizes = st.integers(0, 2**31), st.integers(1, 9)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@often
@given(seeds, st.integers(1, 3), st.integers(1, 3), sizes, sizes)
def test_a_word_is_where_its_attention_exceeds_its_own_mean(seed, images, words, height, width):
    attention = noise(seed, images, words, height, width) ** 3
    found = word_masks(attention)
    assert found.dtype == attention.dtype and found.shape == attention.shape
    for b in range(images):
        for w in range(words):
            one = attention[b, w]
            assert torch.equal(found[b, w], (one > one.mean()).float())
            assert torch.equal(found[b, w], word_masks(one[None, None])[0, 0])


def test_the_threshold_is_strict():
    attention = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    assert word_masks(attention).flatten().tolist() == [0, 0, 1]
    assert word_masks(attention, 0.5).flatten().tolist() == [0, 1, 1]
    assert word_masks(attention, 1.5).sum() == 0


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25, 3 / 4096])
def test_a_constant_map_gives_an_empty_mask(value):
    assert not word_masks(torch.full((2, 3, 16, 12), value)).any()


def test_a_constant_map_of_any_value_gives_an_empty_mask():
    maps = noise(0, 200, 1, 1, 1).expand(-1, -1, 16, 12)
    assert not word_masks(maps).any()


@often
@given(seeds, st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_a_larger_threshold_gives_a_part_of_the_mask(seed, a, b):
    attention = noise(seed, 2, 2, 7, 5)
    small, large = (word_masks(attention, t) for t in sorted((a, b)))
    assert (large <= small).all()


def test_time_is_a_third_axis_of_one_map():
    attention = noise(0, 1, 2, 3, 4, 5)
    assert torch.equal(word_masks(attention).flatten(2), word_masks(attention.flatten(2)))


@often
@given(seeds, st.permutations(range(4)))
def test_equal_strengths_are_a_plain_or_in_any_order(seed, order):
    masks = (noise(seed, 2, 4, 3, 5) > 0.6).float()
    known = masks.bool().any(1, keepdim=True).float()
    assert torch.equal(merge_words(masks, [1.0] * 4), known)
    assert torch.equal(merge_words(masks[:, list(order)], [0.5] * 4), 0.5 * known)
    strengths = [0.2, 0.9, 0.4, 0.4]
    turned = merge_words(masks[:, list(order)], [strengths[w] for w in order])
    assert torch.equal(turned, merge_words(masks, strengths))


def test_the_largest_product_of_mask_and_strength_wins():
    masks = torch.tensor([[[1.0, 1.0, 0.0, 0.5]], [[0.0, 1.0, 1.0, 1.0]]]).transpose(0, 1)
    merged = merge_words(masks, [0.8, 0.3])
    assert merged.shape == (1, 1, 4)
    torch.testing.assert_close(merged[0, 0], torch.tensor([0.8, 0.8, 0.3, 0.4]))


@often
@given(seeds, sizes, sizes, st.integers(1, 4), st.integers(1, 4))
def test_whole_enlargements_repeat_and_their_reduction_takes_the_first(seed, h, w, up, wide):
    mask = noise(seed, 2, 1, h, w)
    large = nearest(mask, (h * up, w * wide))
    assert torch.equal(large, mask.repeat_interleave(up, 2).repeat_interleave(wide, 3))
    other = noise(seed + 1, 2, 1, h * up, w * wide)
    assert torch.equal(nearest(other, (h, w)), other[:, :, ::up, ::wide])


@often
@given(seeds, st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3))
def test_any_size_takes_the_cell_that_it_lies_in(seed, axes):
    mask = noise(seed, 1, 2, *(have for have, _ in axes))
    found = nearest(mask, [wanted for _, wanted in axes])
    for cell in itertools.product(*(range(wanted) for _, wanted in axes)):
        at = [math.floor(c * have / wanted) for c, (have, wanted) in zip(cell, axes, strict=True)]
        assert torch.equal(found[(0, slice(None), *cell)], mask[(0, slice(None), *at)])


@often
@given(seeds, st.lists(st.tuples(sizes, st.integers(1, 3)), min_size=1, max_size=3))
def test_a_mask_is_the_mean_of_its_token_and_edges_are_continued(seed, axes):
    patch = [p for _, p in axes]
    mask = noise(seed, 2, 1, *(n for n, _ in axes))
    found = mean_per_token(mask, patch)
    assert found.shape == mask.shape
    at = []  # the cells of a token along each axis, those beyond the edge on the edge
    for n, p in axes:
        first = torch.arange(n) // p * p
        at.append((first[:, None] + torch.arange(p)).clamp(max=n - 1))
    known = mask
    for axis, cells in enumerate(at, start=2):
        spread = known.index_select(axis, cells.flatten())
        known = spread.unflatten(axis, cells.shape).mean(axis + 1)
    torch.testing.assert_close(found, known)
    for axis, p in enumerate(patch, start=2):
        for i in range(found.shape[axis] - 1):
            if (i + 1) % p:
                assert torch.equal(found.select(axis, i), found.select(axis, i + 1))


@often
@given(seeds, sizes, sizes, st.integers(1, 3), st.integers(1, 3))
def test_the_mean_is_kept_where_all_tokens_are_whole(seed, h, w, p, q):
    mask = noise(seed, 2, 1, h * p, w * q)
    means = mean_per_token(mask, (p, q)).mean((1, 2, 3))
    torch.testing.assert_close(means, mask.mean((1, 2, 3)))


@pytest.mark.parametrize("size,patch", [((7, 5), (2, 2)), ((3, 7, 9), (1, 2, 2)), ((11,), (3,))])
def test_all_ones_stay_1_and_all_zeros_0(size, patch):
    ones = torch.ones(2, 1, *size)
    assert torch.equal(mean_per_token(ones, patch), ones)
    assert not mean_per_token(0 * ones, patch).any()


def test_the_last_row_and_column_of_an_odd_size_are_tokens_of_their_own():
    mask = torch.zeros(1, 1, 3, 5)
    mask[..., 2, :] = 1
    mask[..., 0, 4] = 1
    found = mean_per_token(mask, (2, 2))[0, 0]
    known = [[0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0.5], [1, 1, 1, 1, 1]]
    assert found.tolist() == known


def test_frames_are_their_own_tokens_in_a_video():
    mask = noise(0, 1, 1, 3, 4, 6)
    found = mean_per_token(mask, (1, 2, 2))
    assert torch.equal(found[:, :, 1], mean_per_token(mask[:, :, 1], (2, 2)))
    pooled = F.avg_pool2d(mask[:, :, 2], 2)
    assert torch.equal(found[:, :, 2, ::2, ::2], pooled)


def test_a_patch_of_one_cell_changes_nothing():
    mask = noise(0, 1, 1, 3, 4)
    assert mean_per_token(mask, (1, 1)) is mask


def by_hand(mask: np.ndarray, cells: int, invert: bool, top: float) -> np.ndarray:
    """(..., H, W): the largest (shrinking: the smallest) value of the square around each cell that
    lies in the picture, cell by cell; then its complement."""
    out, reach = np.empty_like(mask), abs(cells)
    for y, x in np.ndindex(mask.shape[-2:]):
        rows = slice(max(0, y - reach), y + reach + 1)
        around = mask[..., rows, max(0, x - reach) : x + reach + 1]
        out[..., y, x] = around.max((-2, -1)) if cells > 0 else around.min((-2, -1))
    return top - out if invert else out


@often
@given(seeds, sizes, sizes, st.integers(-10, 10), st.booleans(), st.sampled_from([1.0, 0.4, 2.0]))
def test_grow_then_invert_by_numpy(seed, height, width, cells, invert, top):
    soft = top * noise(seed, 2, 1, 3, height, width)
    soft = torch.where(noise(seed + 1, 2, 1, 3, height, width) < 0.5, 0, soft)  # a video's
    for mask in (soft, soft[:, :, 0]):
        found = grown_then_inverted(mask, cells, invert, top)
        assert np.array_equal(found.numpy(), by_hand(mask.numpy(), cells, invert, np.float32(top)))


def test_grow_then_invert_of_one_axis():
    line = torch.tensor([[[0.0, 0.0, 1.0, 0.0, 0.0, 0.5]]])
    assert grown_then_inverted(line, 1).flatten().tolist() == [0, 1, 1, 1, 0.5, 0.5]
    assert grown_then_inverted(line, 1, True).flatten().tolist() == [1, 0, 0, 0, 0.5, 0.5]
    assert not grown_then_inverted(line, -1)[..., :5].any()


def test_the_order_is_grow_then_invert():
    """All but a grown dot: the other order would shrink the dot to nothing."""
    dot = torch.zeros(1, 1, 7, 7)
    dot[..., 3, 3] = 1
    assert int(grown_then_inverted(dot, 1, True).sum()) == 49 - 9
    assert int(grown_then_inverted(dot, -1, True).sum()) == 49


def test_neither_is_the_mask_itself():
    mask = noise(0, 2, 1, 5, 4)
    assert grown_then_inverted(mask) is mask
