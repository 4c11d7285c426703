"""`sketch`: what a drawn plan shows, and where."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import box, texture
from numpy.typing import NDArray

from pconv_cli.sketch import CROSSING, CROSSING_SIDE, CUT, DAMAGE, HEALED, WINDOW, sketch
from pconv_cli.tiles import TilePlan, plan_tiles


def where(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == colour).all(axis=2))


def drawn(hole: NDArray[np.bool_], size: int, *, smaller: int = 1) -> tuple[NDArray[np.uint8], TilePlan]:
    plan = plan_tiles(hole, size)
    view = texture(max(hole.shape[1] // smaller, 1), max(hole.shape[0] // smaller, 1))
    before = view.copy()
    out = sketch(view, plan)
    np.testing.assert_array_equal(view, before)
    assert out.shape == view.shape and out.dtype == np.uint8
    return out, plan


def test_the_picture_is_seen_pale_where_nothing_is_drawn_and_damage_is_red_where_it_is() -> None:
    hole = box(120, 90, 40, 30, 60, 50)
    out, plan = drawn(hole, 64)
    np.testing.assert_array_equal(where(out, DAMAGE), hole)
    (window,) = plan.windows
    frame = box(120, 90, window.x, window.y, window.right + 1, window.bottom + 1)
    frame &= ~box(120, 90, window.x + 1, window.y + 1, window.right, window.bottom)
    np.testing.assert_array_equal(where(out, WINDOW), frame)
    rest = ~hole & ~frame
    np.testing.assert_array_equal(out[rest], (texture(120, 90) // 2 + 40)[rest])


def test_cuts_are_yellow_with_a_mark_in_their_middle_and_healing_is_blue() -> None:
    hole = box(300, 100, 30, 20, 270, 80)
    out, plan = drawn(hole, 128)
    assert plan.crossings and plan.heals
    for colour in (DAMAGE, WINDOW, HEALED, CUT, CROSSING):
        assert where(out, colour).any()
    for x0, y0, x1, y1 in plan.cuts.tolist():
        y, x = (y0 + y1) // 2, (x0 + x1) // 2
        mark = where(out, CROSSING)[
            y - CROSSING_SIDE : y + CROSSING_SIDE + 1, x - CROSSING_SIDE : x + CROSSING_SIDE + 1
        ]
        assert mark.all()
        line = out[y0:y1, x0] if x0 == x1 else out[y0, x0:x1]
        assert (((line == CUT) | (line == CROSSING)).all(axis=1)).all()
    assert where(out, CROSSING).sum() <= plan.crossings * (2 * CROSSING_SIDE + 1) ** 2


@pytest.mark.parametrize(("y", "x"), [(0, 0), (0, 999), (699, 0), (699, 999), (350, 501)])
def test_a_single_pixel_shows_in_a_view_a_hundred_times_smaller(y: int, x: int) -> None:
    hole = np.zeros((700, 1000), np.bool_)
    hole[y, x] = True
    plan = plan_tiles(hole, 64)
    out = sketch(
        np.zeros((7, 10, 3), np.uint8),
        TilePlan(64, plan.damage, (), plan.runs, plan.owners, plan.cuts, (), 0, 0, False),
    )
    np.testing.assert_array_equal(np.argwhere(where(out, DAMAGE)), [[y // 100, x // 100]])


@pytest.mark.parametrize("seed", range(5))
def test_a_smaller_view_shows_damage_exactly_where_there_is_any(seed: int) -> None:
    hole = np.random.default_rng(seed).random((60, 90)) < 0.01
    plan = plan_tiles(hole, 64)
    bare = TilePlan(64, plan.damage, (), plan.runs, plan.owners, plan.cuts[:0], (), 0, 0, False)
    out = sketch(np.zeros((20, 30, 3), np.uint8), bare)
    np.testing.assert_array_equal(where(out, DAMAGE), hole.reshape(20, 3, 30, 3).any(axis=(1, 3)))


def test_a_plan_without_damage_is_the_pale_picture() -> None:
    out, _ = drawn(np.zeros((50, 70), np.bool_), 32)
    np.testing.assert_array_equal(out, texture(70, 50) // 2 + 40)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 40), (40, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("damaged", [True, False])
@pytest.mark.parametrize("smaller", [1, 1000])
def test_pictures_of_one_pixel_in_some_direction_can_be_drawn(
    width: int, height: int, damaged: bool, smaller: int
) -> None:
    out, plan = drawn(np.full((height, width), damaged), 32, smaller=smaller)
    assert bool(plan.windows) == damaged
    seen = sum(where(out, colour).sum() for colour in (DAMAGE, WINDOW, HEALED, CUT, CROSSING))
    assert (seen > 0) == damaged


def test_windows_at_the_right_and_bottom_edge_keep_their_borders() -> None:
    out, plan = drawn(box(100, 80, 90, 70, 100, 80), 32)
    (window,) = plan.windows
    assert (window.right, window.bottom) == (100, 80)
    green = where(out, WINDOW)
    assert green[window.y :, 99].all() and green[79, window.x :].all()
