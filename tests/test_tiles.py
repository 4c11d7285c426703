"""Plans: every hole pixel has one writer, what fits is left whole, and nothing costs more than a plain grid."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_regions import Mask, assert_borders, flood, masks

from pconv_cli.regions import Damage, Window
from pconv_cli.tiles import (
    BAND,
    CONTEXT,
    LEAST,
    GridWindow,
    TilePlan,
    avoiding,
    balanced,
    canvas,
    plan_grid,
    plan_overlapping,
    plan_tiles,
)

thorough = settings(max_examples=100, deadline=None)
sizes = st.integers(24, 64)
contexts = st.sampled_from([CONTEXT, CONTEXT, 8, 3, 0])


def writers(plan: TilePlan) -> NDArray[np.int64]:
    """The window that writes each pixel, -1 where none does. No pixel has two, no window is idle or too large."""
    owner = np.full((plan.height, plan.width), -1, np.int64)
    for i, window in enumerate(plan.windows):
        assert 0 <= window.x < window.right <= plan.width and 0 <= window.y < window.bottom <= plan.height
        assert max(window.width, window.height) <= plan.size
        owned = plan.owned(i)
        assert owned.shape == (window.height, window.width) and owned.dtype == np.bool_ and owned.any()
        assert (owner[window.slices][owned] == -1).all()
        owner[window.slices][owned] = i
    return owner


def assert_sound(plan: TilePlan, mask: Mask) -> NDArray[np.int64]:
    """What every plan promises. Returns the writer of each pixel."""
    owner = writers(plan)
    assert np.array_equal(owner >= 0, mask)
    assert_borders(plan.cuts, owner)
    assert plan.crossings == len(plan.cuts)
    assert plan.crossed == (plan.cuts[:, 2:] - plan.cuts[:, :2]).sum()
    assert plan.pixels == sum(window.area for window in plan.windows)
    assert plan.pixels_to_compute == plan.pixels + sum(heal.pixels for heal in plan.heals)
    assert list(plan.windows) == sorted(plan.windows, key=lambda window: (window.y, window.x))
    assert (plan.height, plan.width) == mask.shape
    return owner


def described(plan: TilePlan) -> list[object]:
    """A plan as something that can be compared."""
    own = [plan.size, plan.windows, plan.grid_pixels, plan.context, plan.fallback]
    arrays = (plan.runs.rows, plan.runs.starts, plan.runs.stops, plan.owners, plan.cuts)
    return [*own, *(array.tolist() for array in arrays), *(described(heal) for heal in plan.heals)]


def fitting(mask: Mask, size: int, context: int) -> list[Mask]:
    """The components that fit into a window with the least context round them, as far as the picture goes."""
    label, least = flood(mask), min(LEAST, context, size // 4)
    found = []
    for i in range(int(label.max(initial=-1)) + 1):
        component = label == i
        spans = [(int(places.min()), int(places.max()) + 1) for places in np.nonzero(component)]
        if all(
            min(high + least, side) - max(low - least, 0) <= size
            for (low, high), side in zip(spans, mask.shape, strict=True)
        ):
            found.append(component)
    return found


def crossed_evenly(mask: Mask, size: int) -> int:
    """What evenly spaced lines across the box of all damage would cross."""
    ys, xs = np.nonzero(mask)
    box = mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    rows, columns = (balanced(side, size)[1:-1] for side in box.shape)
    return int(sum((box[y] & box[y - 1]).sum() for y in rows) + sum((box[:, x] & box[:, x - 1]).sum() for x in columns))


# --- Plans on the damage ---


@thorough
@given(masks(), sizes, contexts)
def test_each_hole_pixel_has_one_writer_within_the_price_of_a_grid(mask: Mask, size: int, context: int) -> None:
    plan = plan_tiles(mask, size, context=context)
    assert_sound(plan, mask)
    grid = plan_grid(mask, size)
    assert plan.pixels <= plan.grid_pixels == grid.pixels
    assert plan.crossed <= grid.crossed


@thorough
@given(masks(), sizes, contexts)
def test_what_fits_is_never_cut(mask: Mask, size: int, context: int) -> None:
    plan = plan_tiles(mask, size, context=context, heal=False)
    owner = writers(plan)
    whole = fitting(mask, size, context)
    if not plan.fallback:
        assert all(len(set(owner[component].tolist())) == 1 for component in whole)


@thorough
@given(
    st.integers(1, 120),
    st.integers(1, 120),
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 119), st.integers(1, 5), st.integers(1, 5)), max_size=8),
    sizes,
    contexts,
)
def test_few_small_holes_need_no_fallback(
    height: int, width: int, holes: list[tuple[int, int, int, int]], size: int, context: int
) -> None:
    mask = np.zeros((height, width), np.bool_)
    for y, x, high, wide in holes:
        near = mask[max(y - 20, 0) : y + high + 20, max(x - 20, 0) : x + wide + 20]
        if not near.any():
            mask[y : y + high, x : x + wide] = True
    plan = plan_tiles(mask, size, context=context)
    assert not plan.fallback and not plan.crossings and not plan.heals


@thorough
@given(masks(), sizes, contexts)
def test_what_is_owned_has_context_round_it(mask: Mask, size: int, context: int) -> None:
    plan = plan_tiles(mask, size, context=context, heal=False)
    assert plan.context <= min(context, size // 4)
    owner = writers(plan)
    for i, window in enumerate(plan.windows):
        if plan.fallback:
            continue
        ys, xs = np.nonzero(owner == i)
        for low, high, start, stop, side in (
            (int(xs.min()), int(xs.max()) + 1, window.x, window.right, plan.width),
            (int(ys.min()), int(ys.max()) + 1, window.y, window.bottom, plan.height),
        ):
            free = size - (high - low)
            # All of it, or what the picture has there, or what is left of the size when both sides get the same.
            wanted = min(plan.context, LEAST)
            assert low - start >= min(wanted, low, free // 2)
            assert stop - high >= min(wanted, side - high, free // 2)


@thorough
@given(masks(), sizes, contexts)
def test_what_is_cut_is_cut_where_no_more_is_crossed_than_by_even_lines(mask: Mask, size: int, context: int) -> None:
    label = flood(mask)
    if not mask.any():
        return
    largest = label == np.bincount(label[mask]).argmax()
    plan = plan_tiles(largest, size, context=context, heal=False)
    if not plan.fallback:
        assert plan.crossed <= crossed_evenly(largest, size)


@thorough
@given(masks(), sizes)
def test_plans_of_strips_and_of_arrays_are_the_same_each_time(mask: Mask, size: int) -> None:
    plan = plan_tiles(mask, size)
    strips = Damage.of_strips((mask[top : top + 7] for top in range(0, len(mask), 7)), mask.shape[1])
    assert described(plan) == described(plan_tiles(mask, size)) == described(plan_tiles(strips, size))


@thorough
@given(masks(), sizes)
def test_healing_leaves_what_is_planned_first_as_it_is(mask: Mask, size: int) -> None:
    plan, plain = plan_tiles(mask, size), plan_tiles(mask, size, heal=False)
    assert not plain.heals
    assert described(plan)[: len(described(plain))] == described(plain)
    assert bool(plan.heals) == bool(plan.crossings)


@thorough
@given(masks(), sizes)
def test_healing_covers_bands_round_every_cut_until_none_is_left(mask: Mask, size: int) -> None:
    plan = plan_tiles(mask, size)
    band = min(BAND, size // 8)
    pending, axis = plan.cuts, 0
    for heal in plan.heals:
        assert heal.size == size and not heal.heals and not heal.fallback
        if not (pending[:, axis] == pending[:, axis + 2]).any():
            axis = 1 - axis
        here = pending[:, axis] == pending[:, axis + 2]
        near = np.zeros_like(mask)
        for x0, y0, x1, y1 in pending[here].tolist():
            near[max(y0 - band, 0) : y1 + band, max(x0 - band, 0) : x1 + band] = True
        assert_sound(heal, mask & near)
        pending = np.concatenate((pending[~here], heal.cuts))
        axis = 1 - axis
    assert not len(pending)


@thorough
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 23))
def test_the_smallest_sizes_still_plan(height: int, width: int, size: int) -> None:
    mask = np.random.default_rng(height * 41 + width).random((height, width)) < 0.3
    plan = plan_tiles(mask, size)
    assert_sound(plan, mask)
    assert plan.pixels <= plan.grid_pixels


@pytest.mark.parametrize("size", [1, 64, 512])
def test_without_damage_there_is_nothing_to_do(size: int) -> None:
    plan = plan_tiles(np.zeros((70, 50), np.bool_), size)
    assert plan.windows == () and plan.heals == () and not plan.fallback
    assert plan.pixels_to_compute == plan.crossings == plan.crossed == plan.grid_pixels == 0


def test_a_picture_that_fits_is_one_window_at_most_and_never_cut() -> None:
    full = np.ones((512, 300), np.bool_)
    assert plan_tiles(full, 512).windows == (Window(0, 0, 300, 512),)
    speck = np.zeros((512, 300), np.bool_)
    speck[100:104, 200:206] = True
    assert plan_tiles(speck, 512).windows == (Window(168, 68, 70, 68),)
    assert plan_tiles(speck, 512, context=10).windows == (Window(190, 90, 26, 24),)


def test_context_stops_at_the_picture_and_at_the_size() -> None:
    corner = np.zeros((600, 600), np.bool_)
    corner[:5, 590:] = True
    assert plan_tiles(corner, 512).windows == (Window(558, 0, 42, 37),)
    # 480 pixels and 16 on each side: it just fits, and both sides get the same.
    large = np.zeros((2000, 2000), np.bool_)
    large[700:1180, 650:1130] = True
    plan = plan_tiles(large, 512)
    assert plan.windows == (Window(634, 684, 512, 512),) and not plan.crossings


def test_a_hole_on_the_lines_of_the_grid_is_not_cut() -> None:
    mask = np.zeros((1000, 1000), np.bool_)
    mask[480:520, 470:530] = True
    plan = plan_tiles(mask, 512)
    assert plan.windows == (Window(438, 448, 124, 104),)
    assert plan_grid(mask, 512).crossed == 100 and plan_grid(mask, 512).pixels == 1_000_000


def test_specks_near_each_other_share_a_window() -> None:
    mask = np.zeros((400, 1000), np.bool_)
    for x in (100, 130, 150, 700):
        mask[200:204, x : x + 4] = True
    assert plan_tiles(mask, 256).windows == (Window(68, 168, 118, 68), Window(668, 168, 68, 68))


def test_specks_apart_cost_less_than_the_grid() -> None:
    rng, mask = np.random.default_rng(0), np.zeros((2048, 2048), np.bool_)
    for y, x in rng.integers(0, 2040, (500, 2)):
        mask[y : y + rng.integers(3, 9), x : x + rng.integers(3, 9)] = True
    plan = plan_tiles(mask, 512)
    assert plan.context == CONTEXT and not plan.fallback and not plan.crossings
    assert plan.pixels < 0.7 * plan.grid_pixels
    shapes = [canvas(window.width, window.height, 512) for window in plan.windows]
    assert sum(wide * high for wide, high in shapes) < 0.85 * plan.grid_pixels


def test_specks_by_a_scratch_are_owned_by_its_windows() -> None:
    mask = np.zeros((600, 2000), np.bool_)
    mask[300:310] = True
    mask[285:288, 125::250] = True
    mask[283, 125] = True  # this one has less than the least
    plan = plan_tiles(mask, 512)
    assert plan.crossed == 30
    assert {(window.y, window.height) for window in plan.windows[1:]} == {(268, 74)} and len(plan.windows) == 5
    assert plan.windows[0] == Window(93, 251, 65, 65)


def test_more_damage_shrinks_the_context_before_it_takes_the_grid() -> None:
    rng = np.random.default_rng(0)
    plans = []
    for count in (200, 1000, 1800, 60_000):
        mask = np.zeros((1500, 1500), np.bool_)
        for y, x in rng.integers(0, 1495, (count, 2)):
            mask[y : y + 4, x : x + 4] = True
        plans.append(plan_tiles(mask, 512))
    assert [plan.context for plan in plans[:3]] == [32, 16, 8]
    assert [plan.fallback for plan in plans] == [False, False, False, True]
    assert plans[-1].crossed < plan_grid(mask, 512).crossed  # its lines keep clear of damage where they can


def test_a_diagonal_scratch_is_cut_across() -> None:
    side = 3000
    rows = np.arange(side, dtype=np.int32)
    damage = Damage(side, side + 20, rows, rows, rows + np.int32(12))
    plan = plan_tiles(damage, 512)
    assert len(plan.windows) == 6 and plan.crossings == 5
    assert plan.crossed == 5 * 11  # of 12 pixels in a row 11 lie above others
    assert plan.pixels < 0.6 * plan.grid_pixels
    assert len(plan.heals) == 1 and not plan.heals[0].crossings


def test_a_blob_is_cut_and_healed() -> None:
    y, x = np.mgrid[:1600, :1600]
    mask = np.hypot(y - 800, x - 800) < 700
    plan = plan_tiles(mask, 512)
    assert plan.crossed <= min(crossed_evenly(mask, 512), plan_grid(mask, 512).crossed)
    assert plan.pixels <= plan.grid_pixels
    assert 2 <= len(plan.heals) <= 4 and not plan.heals[-1].crossings
    assert plan.heals[0].damage.area < 0.2 * mask.sum()


def test_scratches_too_many_to_cut_alone_are_cut_by_common_lines() -> None:
    mask = np.zeros((1500, 1500), np.bool_)
    mask[:, ::20] = mask[:, 1::20] = True
    plan = plan_tiles(mask, 512)
    assert len(plan.windows) == 9 and not plan.fallback
    assert {(y0, y1) for _, y0, _, y1 in plan.cuts.tolist()} == {(500, 500), (1000, 1000)}


def test_a_grid_that_happens_to_cross_less_is_taken() -> None:
    mask = np.zeros((400, 1000), np.bool_)
    mask[200:300, 370:900] = True
    mask[200:300, 495:501] = False
    mask[250, 495:501] = True  # thin just where the line of the grid runs, but too near an end for a line of its own
    plan = plan_tiles(mask, 512)
    assert plan.fallback and plan.crossed == plan_grid(mask, 512).crossed == 1


def test_a_fold_through_the_middle_is_not_cut_along() -> None:
    mask = np.zeros((800, 300), np.bool_)
    mask[396:404] = True
    rows = {(window.y, window.bottom) for window in plan_tiles(mask, 512).windows}
    assert len(rows) == 1 and all(top <= 396 and bottom >= 404 for top, bottom in rows)


# --- Grids, for comparison ---


@thorough
@given(masks(), st.integers(1, 70))
def test_the_grid_takes_whole_tiles_that_hold_damage(mask: Mask, size: int) -> None:
    plan = plan_grid(mask, size)
    rows, columns = balanced(mask.shape[0], size), balanced(mask.shape[1], size)
    tiles = [Window(x0, y0, x1 - x0, y1 - y0) for y0, y1 in pairwise(rows) for x0, x1 in pairwise(columns)]
    assert list(plan.windows) == [tile for tile in tiles if mask[tile.slices].any()]
    assert plan.heals == () and plan.pixels == plan.grid_pixels
    assert_sound(plan, mask)


def test_rows_and_columns_are_not_mixed_up() -> None:
    assert plan_grid(np.ones((2, 5), np.bool_), 3).windows == (Window(0, 0, 3, 2), Window(3, 0, 2, 2))


@thorough
@given(masks(), st.integers(1, 64), st.data())
def test_overlapping_windows_are_equal_share_the_overlap_and_cover_the_damage(
    mask: Mask, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, size // 2))
    placed = plan_overlapping(mask, size, overlap)
    seen = np.zeros_like(mask)
    for one in placed:
        assert mask[one.window.slices].any()
        seen[one.window.slices] = True
    assert (seen | ~mask).all()
    assert [(one.row, one.column) for one in placed] == sorted((one.row, one.column) for one in placed)
    every = plan_overlapping(np.ones_like(mask), size, overlap)
    assert set(placed) == {one for one in every if mask[one.window.slices].any()}
    assert len({(one.window.width, one.window.height) for one in every}) == 1
    for side, length, starts in (
        (every[0].window.width, mask.shape[1], {one.column: one.window.x for one in every}),
        (every[0].window.height, mask.shape[0], {one.row: one.window.y for one in every}),
    ):
        assert side <= size and sorted(starts) == list(range(len(starts)))
        assert starts[0] == 0 and starts[len(starts) - 1] + side == length
        shared = [starts[i] + side - starts[i + 1] for i in range(len(starts) - 1)]
        assert all(overlap <= both <= overlap + 1 for both in shared)
        # One fewer would not reach from end to end.
        assert len(starts) == 1 or (len(starts) - 1) * size - (len(starts) - 2) * overlap < length


@thorough
@given(masks(), st.integers(4, 64), st.data())
def test_a_plan_of_overlapping_windows_has_a_writer_for_each_pixel_and_no_cut(
    mask: Mask, size: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, size // 2))
    plan = plan_tiles(mask, size, overlap=overlap)
    assert plan.windows == tuple(one.window for one in plan_overlapping(mask, size, overlap))
    assert plan.crossings == 0 and plan.heals == ()
    written = np.zeros(mask.shape, np.int64)
    for i, window in enumerate(plan.windows):
        written[window.slices] += plan.owned(i)
    np.testing.assert_array_equal(written, mask)


def test_overlapping_windows_know_their_place() -> None:
    mask = np.zeros((10, 22), np.bool_)
    mask[9, 21] = mask[0, 9] = True
    assert plan_overlapping(mask, 10, 4) == (
        GridWindow(Window(0, 0, 10, 10), 0, 0),
        GridWindow(Window(6, 0, 10, 10), 0, 1),
        GridWindow(Window(12, 0, 10, 10), 0, 2),
    )


# --- Errors ---


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size: int) -> None:
    mask = np.zeros((3, 3), np.bool_)
    for refused in (
        lambda: balanced(5, size),
        lambda: avoiding(np.zeros(4, np.int64), size),
        lambda: plan_tiles(mask, size),
        lambda: plan_grid(mask, size),
        lambda: plan_overlapping(mask, size, 0),
        lambda: canvas(3, 3, size),
    ):
        with pytest.raises(ValueError, match="at least 1"):
            refused()


def test_a_context_or_overlap_out_of_range_is_refused() -> None:
    mask = np.zeros((3, 3), np.bool_)
    with pytest.raises(ValueError, match="context at least 0"):
        plan_tiles(mask, 8, context=-1)
    for overlap in (-1, 5):
        with pytest.raises(ValueError, match="overlap from 0"):
            plan_overlapping(mask, 8, overlap)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3,), (3, 3, 1)])
def test_damage_without_pixels_or_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    for plan in (plan_tiles, plan_grid, lambda mask, size: plan_overlapping(mask, size, 1)):
        with pytest.raises(ValueError, match="height, width"):
            plan(np.zeros(shape, np.bool_), 4)


# --- Lines ---


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (1030, 512, (0, 344, 687, 1030)),
        (1, 1, (0, 1)),
        (1, 512, (0, 1)),
        (512, 512, (0, 512)),
        (513, 512, (0, 257, 513)),
        (1024, 512, (0, 512, 1024)),
        (3, 1, (0, 1, 2, 3)),
    ],
)
def test_balanced_examples(length: int, size: int, expected: tuple[int, ...]) -> None:
    assert balanced(length, size) == expected


@settings(deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 5_000))
def test_parts_are_few_equal_and_not_too_long(length: int, size: int) -> None:
    size = max(size, length // 500 + 1)  # keeps the example quick
    lines = balanced(length, size)
    parts = [right - left for left, right in pairwise(lines)]
    assert lines[0] == 0
    assert lines[-1] == length
    assert len(parts) == int(np.ceil(length / size))
    assert 1 <= min(parts) <= max(parts) <= size
    assert max(parts) - min(parts) <= 1
    assert all(type(line) is int for line in lines)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 30))
def test_avoiding_lines_are_as_few_as_balanced_ones_and_cross_no_more(crossed: list[int], size: int) -> None:
    array = np.array(crossed, np.int64)
    found, even = avoiding(array, size), balanced(len(crossed) + 1, size)
    assert found[0] == 0 and found[-1] == len(crossed) + 1 and len(found) == len(even)
    shortest = min(b - a for a, b in pairwise(even)) // 2
    assert all(max(1, shortest) <= b - a <= size for a, b in pairwise(found))
    assert sum(crossed[c - 1] for c in found[1:-1]) <= sum(crossed[c - 1] for c in even[1:-1])
    assert all(type(line) is int for line in found)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(1, 8))
def test_avoiding_lines_cross_the_least_there_is(crossed: list[int], size: int) -> None:
    length = len(crossed) + 1
    even = balanced(length, size)
    shortest = max(1, min(b - a for a, b in pairwise(even)) // 2)
    ways = [
        (sum(crossed[c - 1] for c in inner), sum(abs(c - e) for c, e in zip(inner, even[1:-1], strict=True)))
        for inner in combinations(range(1, length), len(even) - 2)
        if all(shortest <= b - a <= size for a, b in pairwise((0, *inner, length)))
    ]
    found = avoiding(np.array(crossed), size)[1:-1]
    off = sum(abs(c - e) for c, e in zip(found, even[1:-1], strict=True))
    assert (sum(crossed[c - 1] for c in found), off) == min(ways)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 600))
def test_avoiding_nothing_is_balanced(length: int, size: int) -> None:
    assert avoiding(np.zeros(length - 1, np.int64), size) == balanced(length, size)


# --- Canvases ---


@pytest.mark.parametrize(
    ("window", "size", "expected"),
    [
        ((343, 344), 512, (352, 352)),
        ((1, 1), 512, (32, 32)),
        ((32, 33), 512, (32, 64)),
        ((512, 500), 512, (512, 512)),
        ((497, 10), 500, (500, 32)),
        ((3, 5), 7, (7, 7)),
        ((600, 20), 512, (600, 32)),
    ],
)
def test_canvas_examples(window: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    assert canvas(*window, size) == expected


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 128))
def test_a_canvas_holds_its_window_and_each_side_stands_alone(width: int, height: int, size: int, step: int) -> None:
    filled = canvas(width, height, size, step)
    for side, full in zip((width, height), filled, strict=True):
        assert side <= full < side + step
        assert full <= max(side, size)
        assert full % step == 0 or full in (side, size)
        # Neither side depends on the other.
        assert canvas(side, side, size, step) == (full, full)
    assert canvas(height, width, size, step) == filled[::-1]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 600))
def test_windows_of_one_picture_share_one_canvas_per_side_step(length: int, size: int) -> None:
    lines = balanced(length, size)
    shapes = {canvas(right - left, 1, size)[0] for left, right in pairwise(lines)}
    assert len(shapes) <= 2
    assert max(shapes) <= size


def test_canvas_refuses_nothing_and_no_step() -> None:
    for arguments in ((0, 1, 8, 4), (1, 0, 8, 4), (1, 1, 8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            canvas(*arguments)
