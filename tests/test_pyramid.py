"""The floor: what is known stays, everything else is filled, from nothing but the known pixels of the same picture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import one_thread  # noqa: F401 - a fixture
from torch import Tensor

from pconv_cli.nn import pyramid
from pconv_cli.nn.pyramid import SMOOTHING, PyramidFill, pyramid_fill, reduced, something_known

sides = st.integers(1, 24)
seeds = st.integers(0, 2**31)
shares = st.sampled_from([0.01, 0.1, 0.5, 0.95])


def scene(n: int, channels: int, height: int, width: int, seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Noise, and a mask in which every sample has a known pixel."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(n, channels, height, width, generator=rng)
    known = (torch.rand(n, 1, height, width, generator=rng) < share).float()
    for sample in known:
        y, x = torch.randint(height, (1,), generator=rng), torch.randint(width, (1,), generator=rng)
        sample[0, y, x] = 1
    return image, known


@settings(deadline=None, max_examples=60)
@given(sides, sides, seeds, shares)
def test_known_pixels_stay_and_holes_do_not_matter_at_any_size(
    height: int, width: int, seed: int, share: float
) -> None:
    image, known = scene(2, 3, height, width, seed, share)
    filled = pyramid_fill(image, known)
    assert filled.shape == image.shape and filled.dtype == image.dtype
    everywhere = (known > 0).expand_as(image)
    assert torch.equal(filled[everywhere], image[everywhere])
    assert bool(filled.isfinite().all())
    for rubbish in (torch.nan, torch.inf, 1e30):
        assert torch.equal(pyramid_fill(torch.where(everywhere, image, rubbish), known), filled)


@settings(deadline=None, max_examples=60)
@given(sides, sides, seeds, shares, st.floats(-3, 3, width=32))
def test_a_constant_picture_stays_constant(height: int, width: int, seed: int, share: float, value: float) -> None:
    _, known = scene(1, 1, height, width, seed, share)
    image = torch.where(known > 0, value, torch.nan)
    torch.testing.assert_close(pyramid_fill(image, known), torch.full_like(known, value), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(sides, sides, seeds)
def test_a_single_known_pixel_fills_all(height: int, width: int, seed: int) -> None:
    image, known = scene(1, 3, height, width, seed, 0.0)
    assert float(known.sum()) == 1
    value = (image * known).sum((2, 3), keepdim=True)
    torch.testing.assert_close(pyramid_fill(image, known), value.expand_as(image), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(sides, sides, seeds, shares, st.sampled_from([0, 4, SMOOTHING]))
def test_the_fill_stays_near_the_range_of_the_known(
    height: int, width: int, seed: int, share: float, smoothing: int
) -> None:
    image, known = scene(2, 2, height, width, seed, share)
    image = image.round()  # the sharpest edges that there are
    where = (known > 0).expand_as(image)
    low = torch.where(where, image, torch.inf).amin((2, 3), keepdim=True)
    high = torch.where(where, image, -torch.inf).amax((2, 3), keepdim=True)
    # A bicubic step oversteps by less than a third of the range; smoothing takes most of that back.
    slack = {0: 0.4, 4: 0.1, SMOOTHING: 0.05}[smoothing] * (high - low) + 1e-5
    filled = pyramid_fill(image, known, smoothing)
    assert bool((filled >= low - slack).all() and (filled <= high + slack).all())


@settings(deadline=None, max_examples=30)
@given(sides, sides, seeds)
def test_the_samples_of_a_batch_do_not_see_each_other(height: int, width: int, seed: int) -> None:
    image, known = scene(3, 2, height, width, seed, 0.3)
    known[1] = 0
    together = pyramid_fill(image, known)
    for i in range(3):
        torch.testing.assert_close(pyramid_fill(image[i : i + 1], known[i : i + 1])[0], together[i])


@settings(deadline=None, max_examples=30)
@given(sides, sides, seeds)
def test_the_channels_do_not_see_each_other(height: int, width: int, seed: int) -> None:
    image, known = scene(1, 3, height, width, seed, 0.3)
    together = pyramid_fill(image, known)
    for c in range(3):
        torch.testing.assert_close(pyramid_fill(image[:, c : c + 1], known)[:, 0], together[:, c])


@pytest.mark.parametrize(("height", "width"), [(48, 64), (51, 37)])
def test_a_ramp_is_nearly_kept_across_a_hole(height: int, width: int) -> None:
    across = torch.linspace(0, 1, width)[None, None, None].expand(1, 1, height, width)
    for ramp in (across, across.flip(-1), torch.linspace(0, 1, height)[None, None, :, None].expand_as(across)):
        known = torch.ones_like(ramp)
        known[..., height // 2 - 8 : height // 2 + 8, width // 2 - 8 : width // 2 + 8] = 0
        error = (pyramid_fill(ramp, known) - ramp).abs().max()
        assert float(error) < 0.02, float(error)  # the hole spans a third of the ramp


def test_the_fill_leans_to_the_nearer_side() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1
    known = torch.zeros(1, 1, 32, 32)
    known[..., :8] = known[..., 24:] = 1
    row = pyramid_fill(image, known)[0, 0, 16]
    assert float(row[8]) < 0.2 and float(row[23]) > 0.8
    torch.testing.assert_close(row + row.flip(0), torch.ones(32), rtol=0, atol=1e-5)


def test_one_pull_is_the_binomial_mean_of_what_is_known() -> None:
    # 2 x 2 px: one level. Its pixel sees taps 3, 3 in each direction; the hole gets it back, unsmoothed.
    image = torch.tensor([[[[1.0, 2.0], [6.0, 99.0]]]])
    known = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    torch.testing.assert_close(pyramid_fill(image, known, 0), torch.tensor([[[[1.0, 2.0], [6.0, 3.0]]]]))
    # 1 x 3 px: (3 a + 3 b + c) / 7 and (b + 3 c) / 4, each known in its own window; then 3 and 3 of those.
    image = torch.tensor([[[[1.0, 99.0, 5.0]]]])
    known = torch.tensor([[[[1.0, 0.0, 1.0]]]])
    left, right = (3 * 1 + 5) / 4, 5.0
    # Bicubic, half a pixel on, A = -0.75: the border repeats.
    weights = torch.tensor([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    expected = float((weights * torch.tensor([left, left, right, right])).sum())
    assert float(pyramid_fill(image, known, 0)[0, 0, 0, 1]) == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(sides, sides, seeds, st.integers(1, 5))
def test_smoothing_changes_holes_only_and_makes_them_smoother(height: int, width: int, seed: int, steps: int) -> None:
    image, known = scene(1, 1, height, width, seed, 0.3)
    rough, smooth = pyramid_fill(image, known, 0), pyramid_fill(image, known, steps)
    where = known > 0
    assert torch.equal(rough[where], smooth[where])


def test_each_smoothing_step_is_a_box_mean_inside_the_hole() -> None:
    # At the finest of two levels; the coarsest, one pixel, is not smoothed.
    image = torch.tensor([[[[0.0, 8.0], [4.0, 99.0]]]])
    known = torch.tensor([[[[1.0, 1.0], [1.0, 0.0]]]])
    start = 4.0
    # The border repeats: of nine taps the pixel itself has four, each neighbour in line two, the diagonal one.
    once = (4 * start + 2 * 8 + 2 * 4 + 0) / 9
    twice = (4 * once + 2 * 8 + 2 * 4 + 0) / 9
    values = [float(pyramid_fill(image, known, steps)[0, 0, 1, 1]) for steps in (0, 1, 2)]
    assert values == pytest.approx([start, once, twice])


def test_a_picture_with_nothing_known_is_0() -> None:
    assert torch.equal(
        pyramid_fill(torch.full((2, 3, 5, 7), torch.nan), torch.zeros(2, 1, 5, 7)), torch.zeros(2, 3, 5, 7)
    )


def test_a_picture_without_holes_comes_back_as_it_is() -> None:
    image = torch.rand(1, 3, 9, 5)
    assert torch.equal(pyramid_fill(image, torch.ones(1, 1, 9, 5)), image)


def test_as_a_network_its_mask_says_which_samples_had_a_known_pixel() -> None:
    image, known = scene(3, 3, 6, 9, 0, 0.0)
    known[1] = 0
    output, mask = PyramidFill()(image, known)
    assert torch.equal(output, pyramid_fill(image, known))
    assert mask.shape == (3, 1, 6, 9) and mask.dtype == torch.float32
    assert mask.flatten(1).tolist() == [[1.0] * 54, [0.0] * 54, [1.0] * 54]
    assert torch.equal(something_known(known), mask)
    assert not PyramidFill().state_dict()


def means_of_cells(image: Tensor, known: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """One image, cell by cell."""
    down, across = (-(-side // factor) for side in image.shape[-2:])
    cells, some = torch.zeros(1, image.shape[1], down, across), torch.zeros(1, 1, down, across)
    for i in range(down):
        for j in range(across):
            place = (slice(i * factor, (i + 1) * factor), slice(j * factor, (j + 1) * factor))
            where = known[0, 0][place] > 0
            if where.any():
                cells[0, :, i, j] = image[0][(slice(None), *place)][:, where].mean(1)
                some[0, 0, i, j] = 1
    return cells, some


@settings(deadline=None, max_examples=60)
@given(sides, sides, seeds, shares, st.sampled_from([1, 2, 3, 4, 5, 8, 16]))
def test_a_reduced_picture_is_the_mean_of_what_is_known_in_each_cell_or_near_it(
    height: int, width: int, seed: int, share: float, factor: int
) -> None:
    image, known = scene(1, 3, height, width, seed, share)
    found, there = reduced(image, known, factor)
    half = 1 if factor % 2 else factor // 2
    seen, some = means_of_cells(image, known, half)
    made_up, near = seen.clone(), some.clone()
    for y in range(seen.shape[2]):
        for x in range(seen.shape[3]):
            place = (slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))
            where = some[0, 0][place] > 0
            if where.any() and not some[0, 0, y, x]:
                made_up[0, :, y, x] = seen[0][(slice(None), *place)][:, where].mean(1)
                near[0, 0, y, x] = 1
    cells, known_cells = means_of_cells(made_up, near, factor // half)
    assert found.shape[-2:] == (-(-height // factor), -(-width // factor))
    assert torch.equal(there, known_cells)
    torch.testing.assert_close(found, cells, rtol=1e-4, atol=1e-5)


def test_a_cell_that_is_known_whole_is_reduced_to_its_mean_whatever_lies_beside_it() -> None:
    image, known = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(5)), torch.ones(2, 1, 48, 40)
    known[..., 16:40, 8:32] = 0
    image = torch.where(known > 0, image, torch.nan)
    cells, some = reduced(image, known)
    whole = torch.nn.functional.avg_pool2d(known, 8)[:, 0] == 1
    means = torch.nn.functional.avg_pool2d(image, 8).movedim(1, -1)[whole]
    torch.testing.assert_close(cells.movedim(1, -1)[whole], means)
    lost = torch.zeros(6, 5, dtype=torch.bool)
    lost[3, 2] = True  # the only one that is more than half a cell from all that is known
    assert torch.equal(some[0, 0] == 0, lost) and not bool(cells.isnan().any())


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
@settings(deadline=None, max_examples=60)
def test_what_a_cpu_does_in_shifted_sums_is_what_the_library_s_calls_do(
    height: int, width: int, dtype: torch.dtype
) -> None:
    image = torch.rand(2, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(height * 41 + width))
    with_gradients = image.clone().requires_grad_()  # then the library is called
    for ours in (pyramid._doubled, pyramid._box):
        found, wanted = ours(image), ours(with_gradients)
        assert wanted.requires_grad and not found.requires_grad
        torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)
