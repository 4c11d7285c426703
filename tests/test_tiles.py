"""Windows: they partition the picture, they keep the damage, their shapes depend on nothing else."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pconv_cli.tiles import TilePlan, Window, balanced, canvas, cuts, grid, plan_tiles

sides = st.integers(1, 60)
sizes = st.integers(1, 70)
damages = st.builds(
    lambda shape, seed, share: np.random.default_rng(seed).random(shape) < share,
    st.tuples(sides, sides),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.001, 0.01, 0.2, 1.0]),
)


def coverage(height: int, width: int, windows: tuple[Window, ...]) -> NDArray[np.int64]:
    """How many windows hold each pixel."""
    count = np.zeros((height, width), np.int64)
    for window in windows:
        count[window.slices] += 1
    return count


def test_window_edges() -> None:
    window = Window(x=2, y=3, width=5, height=7)
    assert (window.right, window.bottom, window.area) == (7, 10, 35)
    assert window.slices == (slice(3, 10), slice(2, 7))
    assert np.zeros((20, 30))[window.slices].shape == (7, 5)


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


@given(st.integers(1, 100_000), st.integers(1, 5_000))
def test_parts_are_few_equal_and_not_too_long(length: int, size: int) -> None:
    size = max(size, length // 500 + 1)  # keeps the example quick
    cuts = balanced(length, size)
    parts = [right - left for left, right in pairwise(cuts)]
    assert cuts[0] == 0
    assert cuts[-1] == length
    assert len(parts) == int(np.ceil(length / size))
    assert 1 <= min(parts) <= max(parts) <= size
    assert max(parts) - min(parts) <= 1
    assert all(type(cut) is int for cut in cuts)


@given(sides, sides, sizes)
def test_the_grid_covers_each_pixel_once_row_by_row(height: int, width: int, size: int) -> None:
    windows = grid(height, width, size)
    assert (coverage(height, width, windows) == 1).all()
    assert sum(window.area for window in windows) == height * width
    assert list(windows) == sorted(windows, key=lambda window: (window.y, window.x))
    assert all(max(window.width, window.height) <= size for window in windows)
    assert all(window.right <= width and window.bottom <= height for window in windows)


def test_rows_and_columns_are_not_mixed_up() -> None:
    assert grid(2, 5, 3) == (Window(0, 0, 3, 2), Window(3, 0, 2, 2))


@given(damages, sizes)
def test_each_damaged_pixel_lies_in_one_window_and_no_window_is_idle(damage: NDArray[np.bool_], size: int) -> None:
    height, width = damage.shape
    plan = plan_tiles(damage, size)
    count = coverage(height, width, plan.windows)
    assert (count[damage] == 1).all()
    assert count.max() <= 1
    assert all(damage[window.slices].any() for window in plan.windows)
    assert (plan.size, plan.height, plan.width) == (size, height, width)
    assert plan.pixels_to_compute == count.sum()
    assert plan.total == len(grid(height, width, size))


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 14))
def test_what_is_left_out_holds_no_damage(damage: NDArray[np.bool_], size: int) -> None:
    plan = plan_tiles(damage, size)
    left = damage.copy()
    for window in plan.windows:
        left[window.slices] = False
    assert not left.any()
    assert len(plan.windows) <= plan.total == len(grid(damage.shape[0], damage.shape[1], size))


def test_plans_at_the_edges() -> None:
    one = np.ones((1, 1), np.bool_)
    assert plan_tiles(one, 512) == TilePlan(512, 1, 1, (Window(0, 0, 1, 1),), 1)
    assert plan_tiles(~one, 512) == TilePlan(512, 1, 1, (), 1)
    assert plan_tiles(~one, 1).pixels_to_compute == 0

    damage = np.zeros((4, 8), np.bool_)
    damage[3, 7] = True
    assert plan_tiles(damage, 4) == TilePlan(4, 4, 8, (Window(4, 0, 4, 4),), 2)
    assert plan_tiles(damage, 8).windows == (Window(0, 0, 8, 4),)
    assert plan_tiles(damage, 9).windows == (Window(0, 0, 8, 4),)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_one_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        balanced(5, size)
    with pytest.raises(ValueError, match="at least 1"):
        plan_tiles(np.zeros((3, 3), np.bool_), size)
    with pytest.raises(ValueError, match="at least 1"):
        canvas(3, 3, size)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (3,), (3, 3, 1)])
def test_damage_without_pixels_or_of_another_rank_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="height, width"):
        plan_tiles(np.zeros(shape, np.bool_), 4)


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


@given(st.integers(1, 3000), st.integers(1, 600))
def test_windows_of_one_picture_share_one_canvas_per_side_step(length: int, size: int) -> None:
    cuts = balanced(length, size)
    shapes = {canvas(right - left, 1, size)[0] for left, right in pairwise(cuts)}
    assert len(shapes) <= 2
    assert max(shapes) <= size


def test_canvas_refuses_nothing_and_no_step() -> None:
    for arguments in ((0, 1, 8, 4), (1, 0, 8, 4), (1, 1, 8, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            canvas(*arguments)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 30))
def test_cuts_are_as_few_as_balanced_ones_and_cross_no_more_damage(crossed: list[int], size: int) -> None:
    array = np.array(crossed, np.int64)
    found, even = cuts(array, size), balanced(len(crossed) + 1, size)
    assert found[0] == 0 and found[-1] == len(crossed) + 1 and len(found) == len(even)
    shortest = min(b - a for a, b in pairwise(even)) // 2
    assert all(max(1, shortest) <= b - a <= size for a, b in pairwise(found))
    assert sum(crossed[c - 1] for c in found[1:-1]) <= sum(crossed[c - 1] for c in even[1:-1])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(1, 8))
def test_cuts_cross_the_least_damage_there_is(crossed: list[int], size: int) -> None:
    length = len(crossed) + 1
    even = balanced(length, size)
    shortest = max(1, min(b - a for a, b in pairwise(even)) // 2)
    ways = [
        sum(crossed[c - 1] for c in inner)
        for inner in combinations(range(1, length), len(even) - 2)
        if all(shortest <= b - a <= size for a, b in pairwise((0, *inner, length)))
    ]
    assert sum(crossed[c - 1] for c in cuts(np.array(crossed), size)[1:-1]) == min(ways)


@given(st.integers(1, 3000), st.integers(1, 600))
def test_cuts_without_damage_are_balanced(length: int, size: int) -> None:
    found, even = cuts(np.zeros(length - 1, np.int64), size), balanced(length, size)
    assert sorted(b - a for a, b in pairwise(found)) == sorted(b - a for a, b in pairwise(even))


def test_a_fold_through_the_middle_is_not_cut_along() -> None:
    damage = np.zeros((800, 300), np.bool_)
    damage[396:404] = True
    rows = {(window.y, window.bottom) for window in plan_tiles(damage, 512).windows}
    assert len(rows) == 1 and all(top <= 396 and bottom >= 404 for top, bottom in rows)
