"""Tables of the distinct times of a map: what is gathered is what was put in."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from async_timestep.maps.time_rows import MOST_LEVELS, Rows, chunks, distinct

often = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds, sizes = st.integers(0, 2**31), st.lists(st.integers(1, 6), min_size=1, max_size=3)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def maps(seed: int, batch: int, size, kinds: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """times (B, *size), base (B,): every second sample may be constant, or its base no pixel's."""
    random = generator(seed)
    values = torch.rand(batch, kinds, generator=random) * 1000
    which = torch.randint(kinds, (batch, *size), generator=random)
    which[torch.rand(batch, generator=random) < 0.3] = 2
    times = torch.stack([v[w] for v, w in zip(values, which, strict=True)])
    away = torch.rand(batch, generator=random) < 0.3
    return times, torch.where(away, torch.tensor(-1.0), values[:, 0])


def gathered(rows: Rows, index: torch.Tensor | None = None) -> torch.Tensor:
    return torch.cat([rows.base, rows.time])[rows.index if index is None else index]


def owners(rows: Rows) -> torch.Tensor:
    return torch.cat([torch.arange(len(rows.base)), rows.sample])


def is_sound(rows: Rows) -> None:
    """Every pixel's row is its own sample's, and no row is stored twice or never used."""
    own = owners(rows)[rows.index].flatten(1)
    assert (own == torch.arange(len(own))[:, None]).all()
    assert len(rows.time) == len(rows.sample)
    pairs = list(zip(rows.sample.tolist(), rows.time.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    used = rows.index.unique()
    assert set(range(len(rows.base), len(rows.base) + len(pairs))) <= set(used.tolist())


@often
@given(seeds, st.integers(1, 4), sizes)
def test_the_table_gives_back_the_map(seed, batch, size):
    times, base = maps(seed, batch, size)
    asked = base.clone()
    rows = distinct(times, base)
    assert torch.equal(base, asked), "the caller's base was written to"
    assert torch.equal(gathered(rows), times)
    assert rows.index.shape == times.shape and rows.base.shape == (batch,)
    is_sound(rows)
    constant = [len(one.unique()) == 1 for one in times]
    for b, same in enumerate(constant):
        assert rows.base[b] == (times[b].flatten()[0] if same else base[b])
        levels = set(times[b].unique().tolist()) - {rows.base[b].item()}
        assert int((rows.sample == b).sum()) == len(levels)
    assert rows.uniform == all(constant)


def test_a_constant_sample_is_a_scalar_time_beside_one_with_a_map():
    times = torch.tensor([[[7.0, 7.0]], [[3.0, 4.0]], [[5.0, 5.0]]])
    rows = distinct(times, torch.tensor([1.0, 3.0, 5.0]))
    assert rows.base.tolist() == [7, 3, 5]
    assert rows.time.tolist() == [4] and rows.sample.tolist() == [1]
    assert rows.index.tolist() == [[[0, 0]], [[1, 3]], [[2, 2]]]
    assert not rows.uniform


def test_exactly_as_many_levels_as_allowed_are_exact():
    times = (torch.rand(1, 16, 16, generator=generator(3)) ** 2) * 999
    assert len(times.unique()) == MOST_LEVELS
    assert torch.equal(gathered(distinct(times, torch.zeros(1))), times)


@often
@given(seeds, st.integers(2, 40), st.booleans())
def test_more_levels_are_rounded_by_half_a_spacing_and_keep_their_ends(seed, most, from_zero):
    scale = 1.0 if from_zero else 999.0
    times = scale * torch.rand(2, 8, 9, generator=generator(seed))
    times[1] = times[1].round(decimals=1) if from_zero else 4.0
    base = times.flatten(1).amin(1)
    rows = distinct(times, base, most)
    found = gathered(rows)
    low, high = times[0].min(), times[0].max()
    half = (high - low) / (most - 1) / 2
    assert (found[0] - times[0]).abs().max() <= half * (1 + 1e-4)
    assert found[0][times[0] == low] == low
    rounding = 4 * torch.finfo(times.dtype).eps  # of one product and one sum, twice over
    torch.testing.assert_close(found[0][times[0] == high], high[None], rtol=rounding, atol=0)
    assert len(found[0].unique()) <= most and int((rows.sample == 0).sum()) <= most - 1
    if len(times[1].unique()) <= most:
        assert torch.equal(found[1], times[1])
    own = owners(rows)[rows.index].flatten(1)
    assert (own == torch.arange(2)[:, None]).all()


def test_one_chunk_of_the_whole_latent_is_the_rows_themselves():
    rows = distinct(*maps(0, 2, (4, 4)))
    assert chunks(rows, [None]) is rows


@often
@given(seeds, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.data())
def test_each_chunk_has_its_crop_of_every_sample(seed, batch, count, axes, data):
    size = [data.draw(st.integers(1, 6)) for _ in range(axes)]
    cut = [data.draw(st.integers(1, n)) for n in size]
    boxes = []
    for _ in range(count):
        start = [data.draw(st.integers(0, n - c)) for n, c in zip(size, cut, strict=True)]
        box = tuple(slice(s, s + c) for s, c in zip(start, cut, strict=True))
        boxes.append(None if cut == size and data.draw(st.booleans()) else box)
    times, base = maps(seed, batch, size)
    rows = distinct(times, base)
    many = chunks(rows, boxes)
    crops = [times if box is None else times[(slice(None), *box)] for box in boxes]
    assert torch.equal(gathered(many), torch.cat(crops))
    assert torch.equal(many.base, rows.base.repeat(count))
    own = owners(many)[many.index].flatten(1)
    assert (own == torch.arange(count * batch)[:, None]).all()
    assert torch.equal(many.sample % batch, rows.sample.repeat(count))


def test_chunks_of_chunks_are_chunks():
    times, base = maps(5, 2, (4, 6))
    twice = chunks(distinct(times, base), [None, None])
    right = (slice(0, 4), slice(3, 6))
    found = chunks(twice, [right])
    assert torch.equal(gathered(found), torch.cat([times, times])[:, :, 3:])


@often
@given(seeds, st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 2]))
def test_a_coarser_grid_has_the_first_pixel_of_each_cell(seed, height, width, patch):
    times, base = maps(seed, 2, (height, width))
    rows = distinct(times, base)
    coarse = [-(-n // patch) for n in (height, width)]
    assert torch.equal(gathered(rows, rows.at(coarse)), times[:, ::patch, ::patch])
    assert rows.at(coarse) is rows.at(tuple(coarse))
    assert torch.equal(rows.at((height, width)), rows.index)


@pytest.mark.parametrize("patch", [4, 8])
def test_a_coarse_level_of_a_unet_has_the_first_pixel_of_each_cell(patch):
    times, base = maps(1, 1, (125, 96))
    rows = distinct(times, base)
    found = gathered(rows, rows.at((-(-125 // patch), 96 // patch)))
    assert torch.equal(found, times[:, ::patch, ::patch])


def test_a_coarse_level_of_a_small_odd_latent_has_the_first_pixel_of_each_cell():
    times = torch.arange(81.0).view(1, 9, 9)
    rows = distinct(times, torch.zeros(1))
    assert torch.equal(gathered(rows, rows.at((3, 3))), times[:, ::4, ::4])


def test_a_video_keeps_its_frames():
    times, base = maps(2, 1, (3, 4, 6))
    rows = distinct(times, base)
    assert torch.equal(gathered(rows, rows.at((3, 2, 3))), times[:, :, ::2, ::2])


@often
@given(seeds, st.integers(1, 3), st.integers(0, 4), st.integers(0, 4))
def test_tokens_around_the_pixels_have_the_base_time(seed, batch, before, after):
    times, base = maps(seed, batch, (4, 6))
    rows = distinct(times, base)
    index = rows.tokens((2, 3), before, after)
    assert index.shape == (batch, before + 6 + after)
    found = gathered(rows, index)
    own = rows.base[:, None]
    assert torch.equal(found[:, :before], own.expand(-1, before))
    assert torch.equal(found[:, before + 6 :], own.expand(-1, after))
    assert torch.equal(found[:, before : before + 6], times[:, ::2, ::2].flatten(1))
    assert torch.equal(rows.tokens((2, 3)), rows.at((2, 3)).flatten(1))
    assert rows.tokens((2, 3), before, after) is index
    assert rows.tokens((2, 3), before + 1, after).shape[1] == index.shape[1] + 1
